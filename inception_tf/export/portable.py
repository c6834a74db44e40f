"""What the exports to LiteRT, ONNX and OpenVINO share: the frozen network, the images to calibrate on, the comparison
with the Keras model, the card.
"""

import dataclasses
import importlib
import os
import warnings
from pathlib import Path

import keras
import numpy as np

from inception_tf.errors import ExportError, ImageError, UsageError
from inception_tf.export.check import TOLERANCE, TOLERANCE_16_BIT, relative_difference
from inception_tf.export.fusion import network_for, pays
from inception_tf.export.model_card import export_card
from inception_tf.export.savedmodel import names_of
from inception_tf.files import refuse_existing
from inception_tf.images.decoding import read_image
from inception_tf.images.files import find_images
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.models.model import check_model
from inception_tf.slim.verify import noise

# As many images as a calibration's ranges settle with; taken evenly from a folder, and so from all of its classes.
CALIBRATION = 200
# How much of the scores' sum an int8 network may move, on average, before it counts as broken rather than coarse. Of an
# Inception-v3 fine-tuned on flowers it was 0.014 to 0.028 on LiteRT, ONNX Runtime and OpenVINO, with the same best
# class on 70 or 71 of 71 photographs; and 0.44, with 40 of 71, where LiteRT's quantizer had broken it.
TOLERANCE_INT8 = 0.1


@dataclasses.dataclass(frozen=True)
class Job:
    """One model on its way to a file.

    Attributes:
        model: the Keras model.
        form: the format's name.
        names: its class names, None for a model without its top.
        batch: the images at a time, None for any number.
        precision: "float32", "float16" or "int8".
        calibration: a dict from the real paths of images to calibrate on to what is made of them, float32 H×W×C; None
            but for int8.
        held_out: paths of images to compare on, or None.
        fuse: whether the network of `fuse_for_inference` is written.
    """

    model: keras.Model
    form: str
    names: list | None
    batch: int | None
    precision: str
    calibration: dict | None
    held_out: list | None
    fuse: bool

    @property
    def image_shape(self):
        """The (height, width, channels) exported, the preprocessing's where the model takes any."""
        sides = zip(self.model.input_shape[1:3], self.model.card.preprocessing["size"])
        return (*(own or default for own, default in sides), self.model.input_shape[-1])


def prepare(
    model, target, suffix, form, precisions, packages, labels, batch, precision, calibrate, held_out, overwrite, fuse
):
    """Checks what an export was asked for, before any long work, and reads the images to calibrate on.

    Args:
        target, suffix: the file to write, and what its name must end in, in either case.
        form: the format's name.
        precisions: those that it has.
        packages: the modules it needs.
        labels, batch, precision, calibrate, held_out, overwrite, fuse: as the writers take them.

    Returns:
        A `Job`.

    Raises:
        UsageError: an option out of its range, a package that is not installed, `target` exists.
        ImageError: not one image of `calibrate` or of `held_out` could be read.
    """
    if Path(target).suffix.lower() != suffix:
        raise UsageError(f"The format {form} writes a file whose name ends in {suffix}. Received: {target}")
    refuse_existing(target, overwrite)
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UsageError(
                f"The format {form} needs {package}, which cannot be imported ({error}): "
                f"pip install 'inception-tf[{form}]'."
            ) from error
    if keras.backend.backend() != "tensorflow":
        raise UsageError(f"The format {form} needs Keras on TensorFlow. Received: {keras.backend.backend()}")
    names = names_of(model, labels)
    if any(layer.compute_dtype != "float32" for layer in model.layers):
        raise UsageError(f"The format {form} is made of a float32 model. {model.name} computes in sixteen bits.")
    if precision not in precisions:
        raise UsageError(f"The format {form} has no precision {precision!r}. It has: {', '.join(precisions)}.")
    if (precision == "int8") != (calibrate is not None):
        raise UsageError("The precision int8 needs images to calibrate on (--calibrate DIR), and no other does.")
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        batch = batch[0]
    batch = None if batch == "dynamic" else batch
    if batch is not None and (not isinstance(batch, int) or batch < 1):
        raise UsageError(f'The batch of the format {form} is one number of at least 1, or "dynamic". Received: {batch}')
    if preprocessing_of(model) is None and (calibrate or held_out):
        raise UsageError(f"No preprocessing is known for images of {model.input_shape[-1]} channels.")
    calibration = None
    if calibrate is not None:
        paths = find_images(calibrate)
        calibration = dict(readable(model, paths[:: -(-len(paths) // CALIBRATION)]))
    if held_out:
        held_out = find_images(held_out)
        next(readable(model, held_out))
    return Job(model, form, names, batch, precision, calibration, held_out, pays(fuse, precision))


def readable(model, paths):
    """Yields the real paths of the files that can be read and the preprocessed images, float32 H×W×C.

    Warns of those that cannot. Raises an `ImageError` where none can.
    """
    preprocessing, failures = preprocessing_of(model), []
    for path in paths:
        try:
            yield os.path.realpath(path), preprocessing(read_image(path))[0]
        except (ImageError, OSError) as error:
            failures.append(error)
    if len(failures) == len(paths):
        raise ImageError(f"Not one of {len(paths)} images could be read. {failures[0]}")
    if failures:
        warnings.warn(f"{len(failures)} of {len(paths)} images could not be read. {failures[0]}", stacklevel=2)


def network(model):
    """A function from preprocessed images to what is exported: probabilities, or features without the top."""

    def run(images):
        outputs = model(images, training=False)
        return model.as_probabilities(outputs) if check_model(model).has_top else outputs

    return run


def frozen(job):
    """A concrete TensorFlow function of the network with its weights as constants, from `images` to one output.

    Frozen first, since a converter that is given Keras's variables may leave them out without a word.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    run = network(network_for(job.model, job.fuse))
    name = "probabilities" if job.names else "features"
    signature = [tf.TensorSpec((job.batch, *job.image_shape), tf.float32, name="images")]

    @tf.function(input_signature=signature, autograph=False)
    def export(images):
        return {name: run(images)}

    return convert_variables_to_constants_v2(export.get_concrete_function())


def finish(job, part, runtime, write_card, check=True, **options):
    """Compares a file with the Keras model, and has its card written, which says what was found.

    Args:
        job: a `Job`.
        part: the file.
        runtime: the `Runtime` to run it on.
        write_card: a function of the card's JSON, which writes it into `part`.
        check: whether to compare: first the network, then the file with its card, which must answer the same.
        **options: of the export, for its card.

    Raises:
        ExportError: the file answers otherwise.
    """
    if not check:
        write_card(card(job, None, **options))
        return
    images = any_images(job)
    written = runtime(part)
    found, answers = compare(job, written), written(images)
    del written  # a network may be mapped into memory, and its file is about to change
    write_card(card(job, found, **options))
    if not np.array_equal(runtime(part)(images), answers):
        raise ExportError(f"The {job.form} file answers otherwise once its card is in it.")


def compare(job, runtime):
    """Runs the exported file and the Keras model on the same images.

    Floats are compared on noise and the photographs held out: the largest difference over the largest value. Integers
    are compared on photographs, those held out or those calibrated on: the share of the scores that moved,
    Σ|a − b| / Σ(|a| + |b|), on average.

    Args:
        job: a `Job`.
        runtime: a `Runtime` of the file.

    Returns:
        A JSON-like dict: "difference" and its "tolerance", what was "compared", and on photographs the number of
        "images", how many of them were "calibrated_on", whether they were all "held_out", their "top1_agreement"
        (0 to 1) and "worst_score_change".

    Raises:
        ExportError: other shapes, a difference beyond the tolerance, answers that are not finite.
    """
    run = network(job.model)

    def both(images):
        wanted = keras.ops.convert_to_numpy(run(images))
        if not np.isfinite(wanted).all():
            raise ExportError("The Keras model itself answers NaN or infinity: are its weights broken?")
        got = runtime(images)
        if got.shape != wanted.shape or not np.isfinite(got).all():
            raise ExportError(f"The export gives {got.shape}, or NaN, where the Keras model gives {wanted.shape}.")
        return got, wanted

    photographs = ()
    if job.held_out:
        photographs = readable(job.model, job.held_out)
    elif job.calibration:
        photographs = job.calibration.items()
    difference, on, paths, answers = relative_difference(*both(any_images(job))), "noise", [], []
    for pairs in chunks(photographs, job.batch or 8):
        paths += [path for path, _ in pairs]
        answers.append(both(np.stack([image for _, image in pairs])))
    details = {}
    if answers:
        got, wanted = (np.concatenate(rows) for rows in zip(*answers))
        difference, on = max(difference, relative_difference(got, wanted)), "noise and photographs"
        calibrated_on = sum(path in (job.calibration or ()) for path in paths)
        details = {"images": len(paths), "calibrated_on": calibrated_on, "held_out": not calibrated_on}
        if job.names:
            details["top1_agreement"] = float(np.mean(got.argmax(-1) == wanted.argmax(-1)))
            details["worst_score_change"] = float(np.abs(got - wanted).max())
    if job.precision == "int8":
        moved, whole = (values.reshape(len(got), -1).sum(1) for values in (abs(got - wanted), abs(got) + abs(wanted)))
        difference = float(np.mean(moved / whole))
        compared, tolerance = "share of the scores that moved, on photographs", TOLERANCE_INT8
    else:
        compared = f"largest difference over the largest value, on {on}"
        tolerance = TOLERANCE if job.precision == "float32" else TOLERANCE_16_BIT
    if not difference <= tolerance:
        raise ExportError(
            f"The {job.precision} export differs from the Keras model: {compared}, {difference:.1e} "
            f"(limit {tolerance:g})."
        )
    return {"difference": difference, "compared": compared, "tolerance": tolerance, **details}


def any_images(job):
    """Two images of noise, float32 N×H×W×C, in the range of the model's preprocessing where it has one."""
    preprocessing = preprocessing_of(job.model)
    if preprocessing is None:
        return noise(2, *job.image_shape)
    return preprocessing(np.random.default_rng(0).integers(0, 256, (2, *job.image_shape), np.uint8))


def chunks(items, size):
    """Yields an iterable's items in lists of `size`; the last may be shorter."""
    waiting = []
    for item in items:
        waiting.append(item)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def calibration_batches(job):
    """Yields the images to calibrate on in batches of the network's own size; the last is filled up with the first."""
    images, size = list(job.calibration.values()), job.batch or 1
    for start in range(0, len(images), size):
        yield np.stack([images[i % len(images)] for i in range(start, start + size)])


def card(job, verification, **options):
    """The card that travels in the file, JSON: the model's own, its labels and preprocessing, how it was exported."""
    export = {"format": job.form, "precision": job.precision, "batch": job.batch, "fuse": job.fuse, **options}
    if job.calibration is not None:
        export["calibration_images"] = len(job.calibration)
    own = dataclasses.replace(job.model.card, labels=job.names)
    return export_card(own, preprocessing_of(job.model), {**export, "verification": verification}).to_json()


def verdict(found):
    """What `compare` found, in a line or two."""
    text = f"{found['compared']}: {found['difference']:.1e} (limit {found['tolerance']:g})"
    if "top1_agreement" in found:
        images, known = found["images"], found["calibrated_on"]
        of_them = " that it was calibrated on" if known == images else f", {known} of which it was calibrated on"
        agreement, worst = found["top1_agreement"], found["worst_score_change"]
        text += f"\nOn {images} images{of_them if known else ' held out'}: the same best class on "
        text += f"{100 * agreement:.1f} %, largest change of a score {worst:.2g}"
    return text
