"""Models on disk and in other hands: .keras and weights files, clones, end points, freezing, compilation."""

import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from run_networks import with_weights

import inception_tf as itf
from inception_tf.errors import CheckpointError, MismatchError, UsageError
from inception_tf.models.card import Card
from inception_tf.slim.golden import deterministic_images
from inception_tf.zoo import load_model

SMALL = {"depth_multiplier": 0.1, "classes": 5, "aux_logits": True, "input_shape": (107, 112, 3)}
IMAGES = deterministic_images(2, 107, 112)


@pytest.fixture(scope="module")
def model():
    return with_weights("inception_v3", **SMALL)


@pytest.fixture(scope="module")
def lenet():
    model = with_weights("lenet")
    model.card = dataclasses.replace(model.card, labels=[f"digit {i}" for i in range(10)])
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


def test_keras_file(lenet, tmp_path):
    """Its labels come with it; saved again it is the same."""
    lenet.save(tmp_path / "a.keras")
    load_model(tmp_path / "a.keras").save(tmp_path / "b.keras")
    again = load_model(tmp_path / "b.keras")
    assert same_weights(lenet, again) and again.card == lenet.card


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


def test_a_keras_file_that_is_damaged(lenet, tmp_path):
    lenet.save(tmp_path / "a.keras")
    data = (tmp_path / "a.keras").read_bytes()
    cut = [data[:length] for length in (0, 100, len(data) // 2, len(data) - 10)]
    flipped = [data[:i] + bytes([data[i] ^ 255]) + data[i + 1 :] for i in (len(data) // 3, 2 * len(data) // 3)]
    for damaged in cut + flipped:
        (tmp_path / "b.keras").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is no Keras model, or damaged"):
            load_model(tmp_path / "b.keras")


def test_weights_file(lenet, tmp_path):
    path = tmp_path / "a.weights.h5"
    lenet.save_weights(path)
    assert same_weights(lenet, itf.create_model("lenet", weights=path))
    assert same_weights(lenet, itf.LeNet(weights=str(path)))
    (tmp_path / "c.weights.h5").write_bytes(path.read_bytes()[:5000])
    for file, options, error, message in (
        ("a", {"classes": 7}, MismatchError, "a.weights.h5 does not fit lenet"),
        ("a", {"ema": "require"}, UsageError, "^ema"),
        ("b", {}, UsageError, "b.weights.h5"),
        ("c", {}, (MismatchError, CheckpointError), "c.weights.h5"),
    ):
        with pytest.raises(error, match=message):
            itf.create_model("lenet", weights=tmp_path / f"{file}.weights.h5", **options)


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
    options = {"depth_multiplier": np.float32(0.125), "classes": np.int64(5), "layout": "cifar10"}
    model = itf.NetworkInNetwork(**options, classifier_activation=keras.activations.softmax)
    model.save(tmp_path / "a.keras")
    assert load_model(tmp_path / "a.keras").card == model.card
    assert (model.card.options["classes"], model.card.options["classifier_activation"]) == (5, "softmax")


def test_activations_of_the_classifier():
    logits, sigmoid, softmax = (
        with_weights("lenet", classifier_activation=activation) for activation in (None, "sigmoid", "softmax")
    )
    images = deterministic_images(2, 28, 28, 1)
    assert "Predictions" not in itf.end_points(logits)
    np.testing.assert_array_equal(outputs(logits, images), outputs(itf.feature_extractor(softmax, "Logits"), images))
    np.testing.assert_allclose(outputs(sigmoid, images), 1 / (1 + np.exp(-outputs(logits, images))), rtol=1e-5)


def test_end_points_and_features(model):
    points = itf.end_points(model)
    names = list(points)
    assert names[0] == "Conv2d_1a_3x3" and names[-1] == "Predictions" and len(names) == 23
    assert set(names[-4:]) >= {"PreLogits", "Logits", "Predictions"} and "AuxLogits" in names
    one = itf.feature_extractor(model, "Mixed_6e")
    several = itf.feature_extractor(model, ["Mixed_6e", "AuxLogits"])
    both = several(IMAGES, training=False)
    assert list(both) == ["Mixed_6e", "AuxLogits"] and one.output.shape == (None, 5, 5, 76)
    np.testing.assert_array_equal(outputs(one), np.asarray(both["Mixed_6e"]))
    assert all(layer in model.layers for layer in one.layers[1:])  # shared, not copied
    with pytest.raises(UsageError, match="has no end point Mixed_8a. It has: Conv2d_1a_3x3, "):
        itf.feature_extractor(model, ["Mixed_6e", "Mixed_8a"])
    # A call inside another model leaves the end points as they are.
    images = keras.Input((107, 112, 3))
    outer = keras.Model(images, keras.layers.Dense(2)(model(images)))
    assert outer.output.shape == (None, 2)
    assert [tensor.shape for tensor in itf.end_points(model).values()] == [tensor.shape for tensor in points.values()]


def test_freezing_by_name():
    import tensorflow as tf

    model = with_weights("inception_v3", **{**SMALL, "aux_logits": False})
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
