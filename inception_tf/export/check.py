"""Does a SavedModel answer as its Keras model does, where there is no Keras?

`python -m inception_tf.export.check SAVED_MODEL INPUTS OUTPUTS` is the fresh process: TensorFlow's loader alone.
"""

import os
import pickle
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from inception_tf.errors import ExportError, UsageError
from inception_tf.export.encoded import FEATURE

# The largest difference allowed, over the largest value of the output. TensorFlow fuses layers where Keras runs them
# one by one, and sixteen bits are rounded less often then. Beside a float32 model bfloat16, whose mantissa has three
# bits less than float16's, may differ by eight times as much.
TOLERANCE = 1e-5
TOLERANCE_16_BIT = 1e-2
TOLERANCES = {"float32": TOLERANCE, "float16": TOLERANCE_16_BIT, "bfloat16": 8 * TOLERANCE_16_BIT}


def check_savedmodel(model, path, names, top=5, precision=None):
    """Runs every signature of a SavedModel on seeded inputs in a fresh process without Keras, and compares.

    The encoded images are preprocessed here by NumPy, so the graph's preprocessing is compared too.

    Args:
        model: the Keras model it was made of; run here, on the CPU.
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
    tolerance = _tolerance(model, precision)
    inputs, expected, probabilities, maps = _cases(model, top)
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
            if wanted is not None:
                differences[f"{signature}/{key}"] = _compare(f"{signature}/{key}", got[key], wanted, tolerance)
        if "classes" in got:
            _compare_names(signature, got, probabilities, names, tolerance)
        if "maps" in got:
            differences["class_maps/maps"] = _compare_maps(got, maps, names, tolerance)
    return {"tolerance": tolerance, "differences": differences, "broken_image": broken}


def _tolerance(model, precision):
    rounded = {layer.compute_dtype for layer in model.layers} - {"float32"}
    if rounded and precision in (None, *rounded):
        return TOLERANCE_16_BIT
    return max(TOLERANCES[dtype] for dtype in (*rounded, precision or "float32"))


def _last_is_broken(signature, got):
    """What the last image's status says, None where there is no status. It was none, so it must not be answered."""
    fine = not any(got["classes"][-1]) and np.isnan(got["scores"][-1]).all() and np.isfinite(got["scores"][:-1]).all()
    status = got.get("status")
    if status is not None:
        fine = fine and not any(status[:-1]) and status[-1]
    if not fine:
        raise ExportError(f"The export's {signature} does not tell a file that is no image from the others.")
    return None if status is None else status[-1].decode()


def _compare(what, got, wanted, tolerance):
    """The largest difference over the largest value."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        shapes = f"{got.dtype} {got.shape}, where the Keras model gives {wanted.dtype} {wanted.shape}"
        raise ExportError(f"The export's {what} is {shapes}.")
    if not np.isfinite(wanted).all():
        raise ExportError(f"The Keras model's own {what} holds NaN or infinity: are its weights broken?")
    relative = relative_difference(got, wanted)
    if not relative <= tolerance:
        raise ExportError(
            f"The export's {what} differs from the Keras model's by {relative:.1e} of its maximum (limit {tolerance})."
        )
    return relative


def relative_difference(got, wanted):
    """The largest difference over the largest value wanted."""
    return float(np.abs(got - wanted).max() / max(np.abs(wanted).max(), np.finfo("float32").tiny))


def _compare_names(signature, got, probabilities, names, tolerance):
    """Every name must have the score it stands beside; so equal scores may come in any order."""
    for row, classes, scores in zip(probabilities, got["classes"], got["scores"]):
        for name, score in zip(classes, scores):
            known = [p for p, other in zip(row, names) if other == name.decode()]
            if not any(abs(p - score) <= tolerance * row.max() for p in known):
                raise ExportError(f"The export's {signature} gives {name.decode()!r} {score:.4g}, not {known}.")


def _compare_maps(got, maps, names, tolerance):
    """The largest difference over the largest value. Every map must be that of the class it stands beside."""
    worst, largest = 0, np.abs(maps).max()
    for of_all, classes, found in zip(maps, got["classes"], got["maps"]):
        for name, one in zip(classes, found):
            known = [of_all[:, :, i] for i, other in enumerate(names) if other == name.decode()]
            if not any(one.shape == other.shape for other in known):
                raise ExportError(f"The export's class_maps gives a map of {one.shape} for {name.decode()!r}.")
            worst = max(worst, min(np.abs(one - other).max() for other in known) / largest)
    if not worst <= tolerance:
        raise ExportError(f"The export's class_maps/maps differs from the Keras model's by {worst:.1e} of its maximum.")
    return float(worst)


def class_maps_of(model):
    """The `class_map_model` of a model, None where its network has no class maps."""
    from inception_tf.analysis.class_maps import class_map_model

    try:
        return class_map_model(model)
    except UsageError:
        return None


def _cases(model, top):
    """Seeded inputs of every signature, what `model` answers, and its probabilities and class maps of the encoded
    images."""
    import keras
    import tensorflow as tf

    from inception_tf.images.preprocessing import preprocessing_of
    from inception_tf.models.model import check_model
    from inception_tf.slim.verify import noise

    def run(layers, images):
        with tf.device("CPU"):
            outputs = keras.tree.flatten(layers(images, training=False))
        return [np.asarray(keras.ops.cast(output, "float32")) for output in outputs]

    size = [own or default for own, default in zip(model.input_shape[1:3], model.card.preprocessing["size"])]
    images = noise(2, *size, model.input_shape[-1])
    if not check_model(model).has_top:
        (features,) = run(model, images)
        return {"serving_default": {"images": images}}, {"serving_default": {"features": features}}, None, None

    activation = model.activation
    whole = keras.Model(model.inputs[0], [model.features, model.logits, model.outputs[0]])
    features, logits, outputs = run(whole, images)
    outputs = np.asarray(model.as_probabilities(outputs))
    if features.shape[1:-1] == (1, 1):
        features = features[:, 0, 0]
    inputs = {name: {"images": images} for name in ("serving_default", "features")}
    expected = {
        "serving_default": {"logits": logits, "probabilities": outputs},
        "features": {"features": features},
    }
    preprocessing = preprocessing_of(model)
    if preprocessing is None:
        return inputs, expected, None, None

    encoded = _encoded_images()
    images = preprocessing(encoded)
    _, logits, _ = run(whole, images)
    probabilities = np.asarray(activation(logits if logits.ndim == 2 else logits.mean((1, 2))))
    scores = {"classes": None, "scores": -np.sort(-probabilities)[:, :top]}
    encoded.append(encoded[0][:100])  # broken
    inputs["predict_image_bytes"] = {"image_bytes": np.array(encoded, object)}
    expected["predict_image_bytes"] = {**scores, "status": None}
    inputs["classify"] = {"inputs": np.array([_example(data) for data in encoded], object)}
    expected["classify"] = scores
    maps_model = class_maps_of(model)
    if maps_model is None:
        return inputs, expected, probabilities, None
    inputs["class_maps"] = inputs["predict_image_bytes"]
    expected["class_maps"] = expected["predict_image_bytes"] | {"maps": None}
    (maps,) = run(keras.Model(maps_model.inputs[0], maps_model.output["maps"]), images)
    return inputs, expected, probabilities, maps


def _encoded_images():
    """A JPEG and a PNG of different sizes; smooth, since noise would test the decoders' rounding above all."""
    import tensorflow as tf

    noise = np.random.default_rng(0).uniform(0, 255, (2, 5, 7, 3))
    small, large = (np.uint8(tf.image.resize(noise[i], size)) for i, size in enumerate([(240, 320), (400, 300)]))
    return [tf.io.encode_jpeg(small).numpy(), tf.io.encode_png(large).numpy()]


def _example(data):
    import tensorflow as tf

    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
    return tf.train.Example(features=tf.train.Features(feature={FEATURE: feature})).SerializeToString()


def run_fresh(path, inputs):
    """Runs signatures of a SavedModel in a fresh process in which neither Keras can be imported, on the CPU.

    Args:
        path: the SavedModel.
        inputs: a dict from signatures to dicts from input names to arrays.

    Returns:
        A dict from signatures to dicts from output names to arrays; strings are bytes.

    Raises:
        ExportError: it does not load or run, or lacks a signature; says why in a line.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given, results = Path(scratch, "inputs"), Path(scratch, "outputs")
        given.write_bytes(pickle.dumps(inputs))
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path))),
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        command = [sys.executable, "-m", __name__, os.path.abspath(path), given, results]
        done = subprocess.run(command, env=environment, cwd=scratch, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
            raise ExportError(f"The export does not run without Keras: {reason[-1][:300]}")
        return pickle.loads(results.read_bytes())


def main(path, given, results):
    """The fresh process."""
    sys.modules.update({"keras": None, "tf_keras": None})  # an import of them now fails
    import tensorflow as tf

    inputs = pickle.loads(Path(given).read_bytes())
    try:
        signatures = tf.saved_model.load(path).signatures
        missing = set(inputs) - set(signatures)
        if missing:
            sys.exit(f"it lacks the signature {', '.join(sorted(missing))}.")

        def run(name):
            outputs = signatures[name](**{key: tf.constant(array) for key, array in inputs[name].items()})
            return {key: output.numpy() for key, output in outputs.items()}

        with ThreadPoolExecutor() as pool:  # TensorFlow optimises each graph on one core
            outputs = dict(zip(inputs, pool.map(run, inputs)))
    except (tf.errors.OpError, OSError) as error:
        sys.exit(str(error).splitlines()[0])
    Path(results).write_bytes(pickle.dumps(outputs))


if __name__ == "__main__":
    main(*sys.argv[1:])
