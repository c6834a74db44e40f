"""What the formats share that run without TensorFlow, LiteRT, ONNX, OpenVINO and StableHLO: the frozen network, the
images to calibrate on, the comparison with the Keras model.
"""

import dataclasses
import itertools
import os
import warnings

import keras
import numpy as np

from inception_tf.errors import ExportError, ImageError, UsageError
from inception_tf.exports.driver import Format, image_shape
from inception_tf.exports.tolerance import TOLERANCES, advice, checked_difference
from inception_tf.files import atomic_write
from inception_tf.images.decoding import read_image
from inception_tf.images.files import find_images
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.slim.verify import noise

# As many images as a calibration's ranges settle with; taken evenly from a folder, and so from all of its classes.
CALIBRATION = 200
# On so many of them an export is compared with the model where no others are given.
COMPARED = 64
# How much of the scores' sum an int8 network may move, on average, before it counts as broken rather than coarse. Of an
# Inception-v3 fine-tuned on flowers it was 0.014 to 0.028 on LiteRT, ONNX Runtime and OpenVINO, with the same best
# class on 70 or 71 of 71 photographs; and 0.44, with 40 of 71, where LiteRT's quantizer had broken it.
TOLERANCE_INT8 = 0.1


class PortableFormat(Format):
    """A file that carries its card, from `images` (N×H×W×C, preprocessed) to N×classes `probabilities`.

    Without the top, to `features`.
    """

    options = ("labels", "batch", "precision", "calibrate", "held_out", "check", "overwrite", "fuse", "features")
    precisions, precision = ("float32", "float16", "int8"), "float32"
    backend = "tensorflow"
    weights_suffix = None  # of a file beside the first

    def files(self, target):
        return [target, *([target.with_suffix(self.weights_suffix)] if self.weights_suffix else [])]

    def write_atomically(self, export, write):
        if not self.weights_suffix:
            return super().write_atomically(export, write)
        target, weights = self.files(export.target)
        overwrite = export.options.overwrite
        with atomic_write(target, overwrite) as part, atomic_write(weights, overwrite) as weights_part:
            network = part.with_name(f"network{self.suffix}")
            write(network)
            network.rename(part)
            network.with_suffix(self.weights_suffix).rename(weights_part)
            # The weights are replaced before the rest: no reader may find the old network beside new weights.
            target.unlink(missing_ok=True)
        return target

    def prepare(self, model, target, options):
        export = super().prepare(model, target, options)
        if any(layer.compute_dtype != "float32" for layer in model.layers):
            raise UsageError(f"The format {self.name} needs a float32 model. {model.name} computes in 16 bits.")
        if options.features and not model.has_top:
            raise UsageError(f"{model.name} has no top: its output is the features already. Leave features out.")
        calibration, held_out = options.calibrate, options.held_out
        if preprocessing_of(model) is None and (calibration or held_out):
            raise UsageError(f"No preprocessing is known for images of {model.input_shape[-1]} channels.")
        if calibration is not None:
            paths = find_images(calibration)
            calibration = [path for path, _ in readable(model, paths[:: -(-len(paths) // CALIBRATION)])]
        if held_out:
            held_out = find_images(held_out)
            next(readable(model, held_out))
        return dataclasses.replace(export, calibration=calibration, held_out=held_out)

    def check(self, export, network, path):
        return compare_with_model(export, self.run(export, path))

    def outputs_on_noise(self, export, path):
        return self.run(export, path)(noise_images(export.model))

    def run(self, export, path):
        """The `Runtime` of what was written, whether or not its card is in it yet."""
        return self.runtime(path)


def output_names(export):
    """The names of the outputs in the file."""
    if not export.names:
        return ["features"]
    return ["probabilities", *(["features"] if export.options.features else [])]


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


def exported_outputs(network, model, images):
    """What an export of `model` gives, by a Keras network that is `model` or its fused form."""
    outputs = network(images, training=False)
    return model.as_probabilities(outputs) if model.has_top else outputs


def all_outputs(export, network, images):
    """The `exported_outputs`, and with the option `features` PreLogits, N×C, the mean where that is a map. A list."""
    if not export.options.features:
        return [exported_outputs(network, export.model, images)]
    outputs, features = keras.Model(network.inputs[0], [network.outputs[0], network.features])(images, training=False)
    return [export.model.as_probabilities(outputs), pooled(features)]


def pooled(features):
    """PreLogits as N×C: the mean of a feature map."""
    return keras.ops.mean(features, (1, 2)) if len(features.shape) == 4 else features


def frozen(export):
    """A concrete TensorFlow function of the network with its weights as constants, from `images` to `output_names`.

    Frozen first, since a converter that is given Keras's variables may leave them out silently.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    network = export.network
    signature = [tf.TensorSpec((export.options.batch, *image_shape(export.model)), tf.float32, name="images")]

    @tf.function(input_signature=signature, autograph=False)
    def run(images):
        return all_outputs(export, network, images)

    return convert_variables_to_constants_v2(run.get_concrete_function())


def compare_with_model(export, runtime):
    """Runs the exported file and the Keras model on the same images.

    Floats are compared on noise and the photographs held out: the largest difference over the largest value. Integers
    are compared on photographs, those held out or those calibrated on: the fraction of the scores that moved,
    Σ|a − b| / Σ(|a| + |b|), on average; likewise of the features, and the larger one counts.

    Args:
        export: an `Export`.
        runtime: a `Runtime` of the file.

    Returns:
        A JSON-like dict: "difference" and its "tolerance", what was "compared", and on photographs the number of
        "images", how many of them were "calibrated_on", whether they were all "held_out", their "top1_agreement"
        (0 to 1) and "worst_score_change". Also what floats were "computed_in", where the runtime tells.

    Raises:
        ExportError: other shapes, a difference beyond the tolerance, outputs that are not finite.
    """
    model, calibration = export.model, export.calibration or []
    int8 = export.options.precision == "int8"
    tolerance = TOLERANCE_INT8 if int8 else TOLERANCES[export.options.precision]
    limit = np.inf if int8 else tolerance  # integers must be finite, and are judged by their sums

    def outputs(images):
        return zip(runtime.outputs(images), all_outputs(export, model, images), strict=True)

    def worst(pairs, where):
        return max(
            checked_difference(f"{name} on {where}", got, keras.ops.convert_to_numpy(wanted), limit, precision)
            for name, (got, wanted) in zip(output_names(export), pairs, strict=True)
        )

    images, on, precision = noise_images(model), "noise", export.options.precision
    difference = worst(outputs(images), on)
    compared = export.held_out or calibration[:: -(-len(calibration) // COMPARED) or 1]
    photographs = readable(model, compared) if compared else iter(())
    paths, batches, details = [], [], {}
    while some := list(itertools.islice(photographs, export.options.batch or 8)):
        paths += [path for path, _ in some]
        batches.append(outputs(np.stack([image for _, image in some])))
    if batches:
        pairs = [tuple(map(np.concatenate, zip(*parts))) for parts in zip(*batches)]
        difference = max(difference, worst(pairs, "photographs"))
        on, calibrated_on = "noise and photographs", sum(path in calibration for path in paths)
        details = {"images": len(paths), "calibrated_on": calibrated_on, "held_out": not calibrated_on}
        if export.names:
            got, wanted = pairs[0]
            details["top1_agreement"] = float(np.mean(got.argmax(-1) == wanted.argmax(-1)))
            details["worst_score_change"] = float(np.abs(got - wanted).max())
    compared = f"largest difference over the largest value, on {on}"
    if int8:
        moved = {name: _moved(*pair) for name, pair in zip(output_names(export), pairs)}
        name, difference = max(moved.items(), key=lambda item: np.nan_to_num(item[1], nan=np.inf))
        name = name.replace("probabilities", "scores")
        compared = f"fraction of the {name} that moved, on photographs"
        if not difference <= tolerance:
            found = f"{compared}, {difference:.1e} (limit {tolerance})"
            if export.names:
                found += f"; the same best class on {details['top1_agreement']:.1%} of {len(paths)}"
            raise ExportError(f"The export differs from the Keras model: {found}.{advice(precision)}")
    computed = {"computed_in": runtime.computes} if getattr(runtime, "computes", None) else {}
    return {"difference": difference, "compared": compared, "tolerance": tolerance, **details, **computed}


def _moved(got, wanted):
    """Of an image's values the fraction that moved, on average."""
    moved, total = (values.reshape(len(got), -1).sum(1) for values in (abs(got - wanted), abs(got) + abs(wanted)))
    return float(np.mean(moved / total))


def noise_images(model):
    """Two images of noise, float32 N×H×W×C, in the range of the model's preprocessing where it has one."""
    preprocessing, shape = preprocessing_of(model), (2, *image_shape(model))
    return preprocessing(np.random.default_rng(0).integers(0, 256, shape, np.uint8)) if preprocessing else noise(*shape)


class CalibrationBatches:
    """The images to calibrate on in batches of the network's own size, read anew each time it is iterated over.

    The last is filled up with the first.
    """

    def __init__(self, export):
        self._model, self._paths, self._size = export.model, export.calibration, export.options.batch or 1

    def __len__(self):
        return -(-len(self._paths) // self._size)

    def __iter__(self):
        paths = itertools.islice(itertools.cycle(self._paths), len(self) * self._size)
        images = (image for _, image in readable(self._model, list(paths)))
        while some := list(itertools.islice(images, self._size)):
            yield np.stack(some)


def verdict(found):
    """What `compare_with_model` found, in a line or two."""
    text = f"{found['compared']}: {found['difference']:.1e} (limit {found['tolerance']:g})"
    text += f", computed in {found['computed_in']}" if "computed_in" in found else ""
    if "top1_agreement" in found:
        images, known = found["images"], found["calibrated_on"]
        of_them = " that it was calibrated on" if known == images else f", {known} of which it was calibrated on"
        agreement, worst = found["top1_agreement"], found["worst_score_change"]
        text += f"\nOn {images} images{of_them if known else ' held out'}: the same best class on "
        text += f"{100 * agreement:.1f} %, largest change of a score {worst:.2g}"
    return text
