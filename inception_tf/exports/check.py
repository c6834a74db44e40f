"""Whether a SavedModel gives the outputs of its Keras model in a process without Keras."""

import keras
import numpy as np

from inception_tf.analysis.class_maps import class_map_model
from inception_tf.errors import ExportError, UsageError
from inception_tf.exports.driver import image_shape
from inception_tf.exports.encoded import example
from inception_tf.exports.fresh_process import run_fresh
from inception_tf.exports.tolerance import TOLERANCES, advice, checked_difference, tolerance_of
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.slim.verify import noise


def check_savedmodel(model, path, names, top=5, precision=None):
    """Runs every signature of a SavedModel on seeded inputs in a fresh process without Keras, and compares.

    The encoded images are preprocessed here by NumPy, so the graph's preprocessing is compared too.

    Args:
        model: the Keras model that was exported; run here, on the CPU.
        path: the SavedModel.
        names: its class names in order, None for a model without its top.
        top: how many classes `predict_image_bytes` returns, at most.
        precision: what the SavedModel computes in; None where that is what the model does.

    Returns:
        A dict: the "tolerance", the largest "differences" by "signature/output", and what is said of a
        "broken_image" among good ones, None for a model that takes no image files.

    Raises:
        ExportError: it does not load or run; a signature is missing, or gives other outputs or values than `model`;
            a broken image is taken for one, or fails the others.
    """
    tolerance = tolerance_of(model, precision)
    inputs, expected, by_class = _cases(model, top)
    results = run_fresh(path, inputs)
    differences, broken = {}, None
    for signature, outputs in expected.items():
        got = results[signature]
        if set(got) != set(outputs):
            raise ExportError(f"The export's {signature} gives {sorted(got)}, not {sorted(outputs)}.")
        if "classes" in got:
            broken = _last_is_broken(signature, got) or broken
            got = {key: output[:-1] for key, output in got.items()}
        for key, wanted in outputs.items():
            name = f"{signature}/{key}"
            if wanted is not None:
                differences[name] = checked_difference(name, got[key], wanted, tolerance, precision)
            if "classes" in got and key in by_class:
                best = got["classes"], got[key], by_class[key]
                worst = _difference_by_class(name, *best, names, tolerance, precision)
                differences.setdefault(name, worst)
    return {"tolerance": tolerance, "differences": differences, "broken_image": broken}


def _last_is_broken(signature, got):
    """What the last image's status says, None where there is no status. It was none, so it must not be answered."""
    fine = not any(got["classes"][-1]) and not np.any(got["scores"][-1]) and np.isfinite(got["scores"][:-1]).all()
    status = got.get("status")
    if status is not None:
        fine = fine and not any(status[:-1]) and status[-1]
    if not fine:
        raise ExportError(f"The export's {signature} does not report a file that is no image.")
    return None if status is None else status[-1].decode()


def _difference_by_class(what, classes, got, wanted, names, tolerance, precision):
    """The largest difference over an image's largest value, where every class must have the value beside its name.

    Several classes may have one name, and equal scores may come in any order. A map's mean is a logit and is held to
    the tolerance. In 16 bits a single position may differ by as many times more as independent errors of rounding
    average out in that mean: √(h·w).

    Args:
        classes, got: the names of the best classes, N×k, and the values beside them, N×k×….
        wanted: the same of all classes, N×classes×….
    """
    worst, rounded = 0.0, tolerance > TOLERANCES["float32"]
    limit = tolerance * np.prod(got.shape[2:]) ** 0.5 if rounded else tolerance
    for row, best, found in zip(wanted, classes, got, strict=True):
        scale = np.abs(row).max()
        for name, value in zip(best, found, strict=True):
            same_name = [other for other, own in zip(row, names) if own == name.decode() and other.shape == value.shape]
            moved = ((np.abs(value - other).max(), np.abs((value - other).mean())) for other in same_name)
            difference, of_mean = np.array(min(moved, default=(np.inf, np.inf))) / scale
            for part, by, most in (("value", difference, limit), ("mean", of_mean, tolerance)):
                if not by <= most:
                    raise ExportError(
                        f"The export's {what} gives {name.decode()!r} a {part} that differs from the Keras model's by "
                        f"{by:.1e} of its maximum (limit {most:.2g}).{advice(precision)}"
                    )
            worst = max(worst, float(difference))
    return worst


def class_maps_of(model):
    """The `class_map_model` of a model, None where its network has no class maps."""
    try:
        return class_map_model(model)
    except UsageError:
        return None


def _cases(model, top):
    """Seeded inputs of every signature, the outputs of `model`, and its values of every class of the encoded images."""
    import tensorflow as tf

    def run(layers, images):
        with tf.device("CPU"):
            outputs = keras.tree.flatten(layers(images, training=False))
        return [np.asarray(keras.ops.cast(output, "float32")) for output in outputs]

    images = noise(2, *image_shape(model))
    if not model.has_top:
        (features,) = run(model, images)
        return {"serving_default": {"images": images}}, {"serving_default": {"features": features}}, {}

    ends = keras.Model(model.inputs[0], [model.features, model.logits, model.outputs[0]])
    features, logits, outputs = run(ends, images)
    if features.shape[1:-1] == (1, 1):
        features = features[:, 0, 0]
    inputs = {name: {"images": images} for name in ("serving_default", "features")}
    expected = {
        "serving_default": {"logits": logits, "probabilities": np.asarray(model.as_probabilities(outputs))},
        "features": {"features": features},
    }
    preprocessing = preprocessing_of(model)
    if preprocessing is None:
        return inputs, expected, {}

    encoded = _encoded_images()
    images = preprocessing(encoded)
    _, logits, _ = run(ends, images)
    probabilities = np.asarray(model.activation(logits if logits.ndim == 2 else logits.mean((1, 2))))
    by_class = {"scores": probabilities}
    scores = {"classes": None, "scores": -np.sort(-probabilities)[:, :top]}
    encoded.append(encoded[0][:100])  # broken
    inputs["predict_image_bytes"] = {"image_bytes": np.array(encoded, object)}
    expected["predict_image_bytes"] = {**scores, "status": None}
    inputs["classify"] = {"inputs": np.array([example(data) for data in encoded], object)}
    expected["classify"] = scores
    maps_model = class_maps_of(model)
    if maps_model is not None:
        inputs["class_maps"] = inputs["predict_image_bytes"]
        expected["class_maps"] = expected["predict_image_bytes"] | {"maps": None}
        (maps,) = run(keras.Model(maps_model.inputs[0], maps_model.output["maps"]), images)
        by_class["maps"] = maps.transpose(0, 3, 1, 2)
    return inputs, expected, by_class


def _encoded_images():
    """A JPEG and a PNG of different sizes; smooth, since noise would test the decoders' rounding above all."""
    import tensorflow as tf

    noise = np.random.default_rng(0).uniform(0, 255, (2, 5, 7, 3))
    small, large = (np.uint8(tf.image.resize(noise[i], size)) for i, size in enumerate([(240, 320), (400, 300)]))
    return [tf.io.encode_jpeg(small).numpy(), tf.io.encode_png(large).numpy()]
