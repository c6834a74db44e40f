"""What the exports to LiteRT, ONNX and OpenVINO share: the frozen network, the images to calibrate on, the comparison
with the Keras model, the card.
"""

import dataclasses
import importlib
import json
from pathlib import Path

import keras
import numpy as np

from inception_tf.errors import ExportError, ImageError, UsageError
from inception_tf.export.card import published
from inception_tf.export.check import TOLERANCE, TOLERANCE_16_BIT
from inception_tf.export.fusion import network_for, pays
from inception_tf.export.savedmodel import names_of
from inception_tf.files import refuse_existing
from inception_tf.images.decoding import read_image
from inception_tf.images.files import find_images
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.models.heads import activation_of, has_top
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
        calibration: float32 N×H×W×C, preprocessed images to calibrate on; None but for int8.
        held_out: paths of images to compare on, or None.
        fuse: whether the network of `fuse_for_inference` is written.
    """

    model: keras.Model
    form: str
    names: list | None
    batch: int | None
    precision: str
    calibration: np.ndarray | None
    held_out: list | None
    fuse: bool

    @property
    def image_shape(self):
        """The (height, width, channels) exported, the preprocessing's where the model takes any."""
        sides = zip(self.model.input_shape[1:3], self.model.card["preprocessing"]["size"])
        return (*(own or default for own, default in sides), self.model.input_shape[-1])


def prepare(
    model, target, suffix, form, precisions, packages, labels, batch, precision, calibrate, held_out, overwrite, fuse
):
    """Checks what an export was asked for, before any long work, and reads the images to calibrate on.

    Args:
        target, suffix: the file to write, and what its name must end in.
        form: the format's name.
        precisions: those that it has.
        packages: the modules it needs.
        labels, batch, precision, calibrate, held_out, overwrite, fuse: as the writers take them.

    Returns:
        A `Job`.

    Raises:
        UsageError: an option out of its range, a package that is not installed, `target` exists.
        ImageError: not one image of `calibrate` could be read.
    """
    if Path(target).suffix != suffix:
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
    if (calibrate or held_out) and preprocessing_of(model) is None:
        raise UsageError(f"No preprocessing is known for images of {model.input_shape[-1]} channels.")
    calibration = None
    if calibrate is not None:
        paths = find_images(calibrate)
        paths = paths[:: -(-len(paths) // CALIBRATION)]
        calibration = np.stack(list(readable(model, paths)))
    fuse = pays(fuse, precision)
    return Job(model, form, names, batch, precision, calibration, held_out and find_images(held_out), fuse)


def readable(model, paths):
    """Yields the preprocessed images, float32 H×W×C, of the files that can be read; an `ImageError` where none can."""
    preprocessing, first, read = preprocessing_of(model), None, 0
    for path in paths:
        try:
            yield preprocessing(read_image(path))[0]
            read += 1
        except (ImageError, OSError) as error:
            first = first or error
    if not read:
        raise ImageError(f"Not one of {len(paths)} images could be read. {first}")


def network(model):
    """A function from preprocessed images to what is exported: probabilities, or features without the top."""
    activate = has_top(model) and model.card["options"].get("classifier_activation") is None
    activation = activation_of(model) if activate else None

    def run(images):
        outputs = model(images, training=False)
        return activation(outputs) if activate else outputs

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


def compare(job, runtime):
    """Runs the exported file and the Keras model on the same images.

    Floats are compared on noise: the largest difference over the largest value. Integers are compared on photographs,
    those held out or those calibrated on: the share of the scores that moved, Σ|a − b| / Σ(|a| + |b|), on average.

    Args:
        job: a `Job`.
        runtime: a `Runtime` of the file.

    Returns:
        A JSON-like dict: "difference" and its "tolerance", what was "compared", and on photographs the number of
        "images", their "top1_agreement" (0 to 1) and "worst_score_change".

    Raises:
        ExportError: other shapes, or a difference beyond the tolerance.
    """
    run, found = network(job.model), {}
    chunk = job.batch or 8

    def both(images):
        wanted = keras.ops.convert_to_numpy(run(images))
        got = runtime(images)
        if got.shape != wanted.shape or not np.isfinite(got).all():
            raise ExportError(f"The export gives {got.shape}, or NaN, where the Keras model gives {wanted.shape}.")
        return wanted, got

    wanted, got = both(noise(2, *job.image_shape))
    if job.precision != "int8":
        tolerance = TOLERANCE if job.precision == "float32" else TOLERANCE_16_BIT
        difference = float(np.abs(got - wanted).max() / max(np.abs(wanted).max(), np.finfo("float32").tiny))
        found = {"compared": "largest difference over the largest value, on noise", "tolerance": tolerance}
    photographs = None
    if job.held_out:
        photographs = chunks(readable(job.model, job.held_out), chunk)
    elif job.calibration is not None:
        photographs = chunks(job.calibration, chunk)
    if photographs is not None:
        wanted, got = (np.concatenate(rows) for rows in zip(*map(both, photographs)))
        if job.precision == "int8":
            moved = np.abs(got - wanted).reshape(len(got), -1).sum(1)
            difference = float(np.mean(moved / (np.abs(got) + np.abs(wanted)).reshape(len(got), -1).sum(1)))
            found = {"compared": "share of the scores that moved, on photographs", "tolerance": TOLERANCE_INT8}
        found["images"] = len(got)
        found["held_out"] = bool(job.held_out)
        if job.names:
            found["top1_agreement"] = float(np.mean(got.argmax(-1) == wanted.argmax(-1)))
            found["worst_score_change"] = float(np.abs(got - wanted).max())
    if not difference <= found["tolerance"]:
        raise ExportError(
            f"The {job.precision} export differs from the Keras model: {found['compared']}, {difference:.1e} "
            f"(limit {found['tolerance']:g})."
        )
    return {"difference": difference, **found}


def chunks(images, size):
    """Yields the images, an iterable, in arrays of `size`; the last may be smaller."""
    waiting = []
    for image in images:
        waiting.append(image)
        if len(waiting) == size:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)


def calibration_batches(job):
    """Yields the images to calibrate on in batches of the network's own size; the last is filled up with the first."""
    size, count = job.batch or 1, len(job.calibration)
    for start in range(0, count, size):
        yield job.calibration[np.arange(start, start + size) % count]


def card(job, verification, **options):
    """The card that travels in the file, JSON: the model's own, its labels and preprocessing, how it was exported."""
    preprocessing = preprocessing_of(job.model)
    own = job.model.card
    export = {"format": job.form, "precision": job.precision, "batch": job.batch, "fuse": job.fuse, **options}
    if job.calibration is not None:
        export["calibration_images"] = len(job.calibration)
    export |= {"verification": verification, "published": published(own)}
    preprocessing = preprocessing and preprocessing.to_config()
    return json.dumps(
        {**own, "labels": job.names, "preprocessing": preprocessing, "export": export},
        default=dict,
        ensure_ascii=False,
    )


def verdict(found):
    """What `compare` found, in a line or two."""
    text = f"{found['compared']}: {found['difference']:.1e} (limit {found['tolerance']:g})"
    if "top1_agreement" in found:
        whose = "held out" if found["held_out"] else "that it was calibrated on"
        agreement, worst = found["top1_agreement"], found["worst_score_change"]
        text += f"\nOn {found['images']} images {whose}: the same best class on {100 * agreement:.1f} %, "
        text += f"largest change of a score {worst:.2g}"
    return text
