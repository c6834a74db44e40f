"""Models on disk and in other hands: .keras and weights files, clones, freezing, precision, compilation."""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import CheckpointError, MismatchError, UsageError
from inception_tf.models.card import Card
from inception_tf.slim.golden import deterministic_images, deterministic_weights
from inception_tf.slim.names import model_variables
from inception_tf.zoo import load_model

SMALL = {"depth_multiplier": 0.1, "classes": 5, "aux_logits": True}
IMAGES = deterministic_images(2, 139, 139)


def build(**options):
    model = itf.InceptionV3(**{**SMALL, "input_shape": (139, 139, 3), **options})
    for name, variable in model_variables(model).items():
        variable.assign(deterministic_weights(name, variable.shape))
    return model


@pytest.fixture(scope="module")
def model():
    model = build()
    model.card = dataclasses.replace(model.card, labels=["daisy", "dandelion", "roses", "sunflowers", "tulips"])
    return model


@pytest.fixture(scope="module")
def scores(model):
    return outputs(model)


def outputs(model, images=IMAGES):
    return np.asarray(model(images, training=False))


def same_weights(a, b):
    """Bit for bit, and in the same places."""
    paths = [variable.path for variable in a.weights]
    equal = [np.array_equal(x.numpy(), y.numpy()) for x, y in zip(a.weights, b.weights, strict=True)]
    return paths == [variable.path for variable in b.weights] and all(equal)


def test_keras_file(model, scores, tmp_path):
    model.save(tmp_path / "a.keras")
    loaded = keras.saving.load_model(tmp_path / "a.keras")
    assert same_weights(model, loaded)
    assert loaded.card == model.card and type(loaded) is type(model) and loaded.name == "InceptionV3"
    np.testing.assert_array_equal(outputs(loaded), scores)
    assert list(itf.end_points(loaded)) == list(itf.end_points(model))
    loaded.save(tmp_path / "b.keras")
    again = load_model(tmp_path / "b.keras")
    assert same_weights(model, again) and again.card == model.card


@pytest.mark.slow
def test_keras_file_in_another_process(model, scores, tmp_path):
    """No custom objects, no network's module: `load_model` is enough."""
    model.save(tmp_path / "a.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    program = (
        "import sys, numpy as np, inception_tf as itf\n"
        "model = itf.load_model(sys.argv[1] + '/a.keras')\n"
        "np.save(sys.argv[1] + '/scores.npy', model(np.load(sys.argv[1] + '/images.npy'), training=False))\n"
        "print(model.card.to_json())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert Card.from_json(done.stdout) == model.card
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), scores)


def test_a_keras_file_that_is_damaged(model, tmp_path):
    model.save(tmp_path / "a.keras")
    data = (tmp_path / "a.keras").read_bytes()
    for cut in (0, 100, len(data) // 2, len(data) - 10):
        (tmp_path / "b.keras").write_bytes(data[:cut])
        with pytest.raises(CheckpointError, match="is no Keras model, or damaged"):
            load_model(tmp_path / "b.keras")
    for place in (len(data) // 3, 2 * len(data) // 3):
        (tmp_path / "b.keras").write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        with pytest.raises(CheckpointError, match="is no Keras model, or damaged"):
            load_model(tmp_path / "b.keras")


def test_weights_file(model, tmp_path):
    model.save_weights(tmp_path / "a.weights.h5")
    options = {**SMALL, "input_shape": (139, 139, 3)}
    assert same_weights(model, itf.create_model("inception_v3", weights=tmp_path / "a.weights.h5", **options))
    assert same_weights(model, itf.InceptionV3(weights=str(tmp_path / "a.weights.h5"), **options))


def test_weights_files_that_do_not_fit(model, tmp_path):
    model.save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(MismatchError, match="a.weights.h5 does not fit inception_v3 with these options"):
        itf.create_model("inception_v3", weights=tmp_path / "a.weights.h5", **{**SMALL, "classes": 7})
    with pytest.raises(UsageError, match="There is no weights file at"):
        itf.create_model("inception_v3", weights=tmp_path / "b.weights.h5", **SMALL)
    with pytest.raises(UsageError, match="ema tells how to load a Slim checkpoint"):
        itf.create_model("inception_v3", weights=tmp_path / "a.weights.h5", ema="require", **SMALL)
    (tmp_path / "c.weights.h5").write_bytes((tmp_path / "a.weights.h5").read_bytes()[:5000])
    with pytest.raises((MismatchError, CheckpointError), match="c.weights.h5"):
        itf.create_model("inception_v3", weights=tmp_path / "c.weights.h5", **SMALL)


def test_clone(model, scores):
    """A clone is a model of the same layers; what it is called and of, its card, Keras does not hand on."""
    clone = keras.models.clone_model(model)
    assert clone.card is None
    clone.set_weights(model.get_weights())
    assert same_weights(model, clone)
    np.testing.assert_array_equal(outputs(clone), scores)


def test_config(model):
    config = json.loads(json.dumps(model.get_config()))
    assert config["card"]["network"] == "inception_v3"
    rebuilt = type(model).from_config(config)
    assert [v.path for v in rebuilt.weights] == [v.path for v in model.weights]
    for layer in model.layers[1:]:
        copy = type(layer).from_config(layer.get_config())
        assert copy.get_config() == layer.get_config()
        shape = [t.shape for t in layer.input] if isinstance(layer.input, list) else layer.input.shape
        if not isinstance(shape, list):
            assert copy.compute_output_shape(shape) == layer.compute_output_shape(shape) == layer.output.shape
            assert copy(layer.input).shape == layer.output.shape


def test_options_of_other_types_are_kept(tmp_path):
    """NumPy's numbers and activations as functions, which JSON does not know."""
    model = itf.InceptionV3(
        depth_multiplier=np.float32(0.125), classes=np.int64(5), classifier_activation=keras.activations.softmax
    )
    model.save(tmp_path / "a.keras")
    assert load_model(tmp_path / "a.keras").card == model.card
    assert (model.card.options["classes"], model.card.options["classifier_activation"]) == (5, "softmax")


def test_activations_of_the_classifier(model):
    logits = build(classifier_activation=None)
    assert "Predictions" not in itf.end_points(logits)
    np.testing.assert_array_equal(outputs(logits), outputs(itf.feature_extractor(model, "Logits")))
    sigmoid = outputs(build(classifier_activation="sigmoid"))
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-outputs(logits))), rtol=1e-5)


def test_end_points_and_features(model):
    points = itf.end_points(model)
    names = list(points)
    assert names[0] == "Conv2d_1a_3x3" and names[-1] == "Predictions" and len(names) == 22
    assert set(names[-4:]) >= {"PreLogits", "Logits", "Predictions"} and "AuxLogits" in names
    one = itf.feature_extractor(model, "Mixed_6e")
    several = itf.feature_extractor(model, ["Mixed_6e", "AuxLogits"])
    both = several(IMAGES, training=False)
    assert list(both) == ["Mixed_6e", "AuxLogits"] and one.output.shape == (None, 7, 7, 76)
    np.testing.assert_array_equal(outputs(one), np.asarray(both["Mixed_6e"]))
    assert all(layer in model.layers for layer in one.layers[1:])  # shared, not copied
    with pytest.raises(UsageError, match="has no end point Mixed_8a. It has: Conv2d_1a_3x3, "):
        itf.feature_extractor(model, ["Mixed_6e", "Mixed_8a"])
    # A call inside another model leaves the end points as they are.
    images = keras.Input((139, 139, 3))
    outer = keras.Model(images, keras.layers.Dense(2)(model(images)))
    assert outer.output.shape == (None, 2)
    assert [tensor.shape for tensor in itf.end_points(model).values()] == [tensor.shape for tensor in points.values()]


def test_freezing_by_name():
    import tensorflow as tf

    model = build(aux_logits=False)
    for layer in model.layers:
        layer.trainable = layer.name in ("Mixed_7c", "Logits")
    assert {variable.path.split("/")[0] for variable in model.trainable_variables} == {"Mixed_7c", "Logits"}
    before = [variable.numpy() for variable in model.weights]
    with tf.GradientTape() as tape:
        loss = keras.ops.mean(model(IMAGES, training=True)[:, 0])
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    # Frozen batch norm keeps its averages, in training too.
    for old, variable in zip(before, model.weights):
        if variable.path.split("/")[0] not in ("Mixed_7c", "Logits"):
            np.testing.assert_array_equal(old, variable.numpy(), err_msg=variable.path)


def test_training_reaches_every_weight():
    """All but the auxiliary head's, which is no output: its gradient has to be asked for."""
    import tensorflow as tf

    model = build()
    features = itf.feature_extractor(model, ["Logits", "AuxLogits"])
    with tf.GradientTape() as tape:
        points = features(IMAGES, training=True)
        loss = sum(keras.ops.sum(value**2) for value in points.values())
    assert all(np.any(gradient) for gradient in tape.gradient(loss, model.trainable_variables))


def test_mixed_precision(model, scores, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = itf.InceptionV3(**SMALL, input_shape=(139, 139, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(model.get_weights())
    assert {variable.dtype for variable in mixed.weights} == {"float32"}
    points = itf.feature_extractor(mixed, ["Mixed_5b", "Mixed_7c", "Logits", "Predictions"])(IMAGES, training=False)
    kinds = {name: keras.backend.standardize_dtype(value.dtype) for name, value in points.items()}
    assert kinds["Mixed_5b"] == kinds["Mixed_7c"] == "bfloat16" and kinds["Predictions"] == "float32"
    np.testing.assert_allclose(np.asarray(points["Predictions"]), scores, atol=0.05)
    assert not np.array_equal(np.asarray(points["Predictions"]), scores)
    mixed.save(tmp_path / "a.keras")
    loaded = load_model(tmp_path / "a.keras")
    assert loaded.get_layer("Mixed_5b").compute_dtype == "bfloat16"
    np.testing.assert_array_equal(outputs(loaded), outputs(mixed))


def test_xla(model, scores):
    import tensorflow as tf

    compiled = tf.function(model, jit_compile=True)
    np.testing.assert_allclose(compiled(IMAGES, training=False), scores, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_compile_with_xla(model, scores):
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    clone.compile(jit_compile=True)
    np.testing.assert_allclose(clone.predict(IMAGES, verbose=0), scores, rtol=0, atol=1e-5)


WITHOUT_TENSORFLOW = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tf_keras", "tf_slim"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
import numpy as np
import inception_tf as itf
folder = sys.argv[1]
images = np.load(folder + "/images.npy")
np.save(folder + "/loaded.npy", np.asarray(itf.load_model(folder + "/a.keras")(images, training=False)))
model = itf.create_model(
    "inception_v3", weights=folder + "/a.weights.h5", depth_multiplier=0.1, classes=5, aux_logits=True,
    input_shape=(139, 139, 3))
points = itf.feature_extractor(model, ["Mixed_6e", "Predictions"])(images, training=False)
np.savez(folder + "/points.npz", **{name: np.asarray(value) for name, value in points.items()})
assert not [name for name in sys.modules if name.split(".")[0] == "tensorflow"]
"""


def test_without_tensorflow(model, scores, tmp_path):
    """The networks run where TensorFlow is not installed, here on Keras's NumPy backend, and give the same."""
    pytest.importorskip("jax", reason="Keras's NumPy backend convolves with JAX")
    model.save(tmp_path / "a.keras")
    model.save_weights(tmp_path / "a.weights.h5")
    np.save(tmp_path / "images.npy", IMAGES)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": "numpy"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(np.load(tmp_path / "loaded.npy"), scores, rtol=0, atol=1e-4)
    points = np.load(tmp_path / "points.npz")
    np.testing.assert_allclose(points["Predictions"], scores, rtol=0, atol=1e-4)
    maps = outputs(itf.feature_extractor(model, "Mixed_6e"))
    np.testing.assert_allclose(points["Mixed_6e"], maps, rtol=0, atol=1e-4 * np.abs(maps).max())


def test_models_import_no_tensorflow(tmp_path):
    """Importing the library and every network's file, on whatever backend, loads no TensorFlow of ours."""
    program = (
        "import sys, pkgutil, inception_tf\n"
        "assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules), 'import inception_tf is not light'\n"
        "import ast, pathlib, inception_tf.models as models\n"
        "for file in pathlib.Path(models.__path__[0]).glob('*.py'):\n"
        "    for node in ast.walk(ast.parse(file.read_text())):\n"
        "        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []\n"
        "        names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []\n"
        "        assert not [n for n in names if n.split('.')[0] in ('tensorflow', 'tf_keras', 'tf_slim')], file\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
