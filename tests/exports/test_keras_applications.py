"""keras.applications, which we did not write, on its own random weights beside our networks with the same."""

import keras
import numpy as np
import pytest
from random_weights import randomized

from inception_tf.errors import CheckpointError, ExportError, MismatchError, UsageError
from inception_tf.exports import keras_applications
from inception_tf.exports.keras_applications import from_keras_applications, to_keras_applications
from inception_tf.slim.golden import deterministic_images
from inception_tf.zoo import create_model

NETWORKS = {
    "inception_v3": keras.applications.InceptionV3,
    "inception_resnet_v2": keras.applications.InceptionResNetV2,
}


def difference(ours, theirs, images):
    ours, theirs = (np.asarray(model(images, training=False)) for model in (ours, theirs))
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def same_weights(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


@pytest.fixture(scope="module")
def headless():
    """keras.applications' Inception-v3 without its top; not to be changed."""
    return randomized(keras.applications.InceptionV3(weights=None, include_top=False, input_shape=(75, 80, 3)))


@pytest.fixture(scope="module")
def small():
    """Our Inception-v3 for small images, of ImageNet's 1001 classes; not to be changed."""
    return randomized(create_model("inception_v3", input_shape=(75, 75, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_there_and_back(network, tmp_path):
    theirs = randomized(NETWORKS[network](weights=None))
    ours = from_keras_applications(theirs, network, check=False)
    assert ours.card.options["classes"] == 1000
    assert ours.input_shape == theirs.input_shape
    assert difference(ours, theirs, deterministic_images(2, 299, 299)) < 1e-5

    path = to_keras_applications(ours, tmp_path / "back.weights.h5")
    assert same_weights(NETWORKS[network](weights=str(path)), theirs)
    again = from_keras_applications(path, network)
    assert same_weights(again, ours)


def test_without_the_top(headless, tmp_path):
    ours = from_keras_applications(headless, "inception_v3", check=False)
    assert difference(ours, headless, deterministic_images(2, 75, 80)) < 1e-5
    path = to_keras_applications(ours, tmp_path / "features.weights.h5", check=False)
    again = keras.applications.InceptionV3(weights=str(path), include_top=False, pooling="max")
    assert same_weights(again, headless)


@pytest.mark.slow
def test_pooling_without_the_top():
    theirs = keras.applications.InceptionV3(weights=None, include_top=False, pooling="max")
    ours = from_keras_applications(theirs, "inception_v3")
    assert ours.card.options["pooling"] == "max" and ours.input_shape == (None, None, None, 3)


@pytest.mark.parametrize(("background", "classes"), [(None, 1000), pytest.param("keep", 1001, marks=pytest.mark.slow)])
def test_the_background_class(small, tmp_path, background, classes):
    path = to_keras_applications(small, tmp_path / "a.weights.h5", background=background, check=False)
    theirs = keras.applications.InceptionV3(
        weights=str(path), classes=classes, input_shape=(75, 75, 3), classifier_activation=None
    )
    images = deterministic_images(1, 75, 75)
    probabilities = np.asarray(small(images, training=False))[..., 1001 - classes :]
    logits = np.asarray(theirs(images, training=False))
    assert np.allclose(np.exp(logits - logits.max()), probabilities / probabilities.max(), rtol=1e-4)


@pytest.mark.slow
def test_a_fine_tuned_model_keeps_its_classes(tmp_path):
    ours = randomized(create_model("inception_v3", input_shape=(75, 75, 3), classes=5, aux_logits=False))
    path = to_keras_applications(ours, tmp_path / "flowers.weights.h5", check=False)
    back = from_keras_applications(path, "inception_v3", check=False)
    assert back.card.options["classes"] == 5
    assert same_weights(back, ours)


def test_an_export_that_differs_is_not_written(small, tmp_path, monkeypatch):
    def wrong(layer, drop):
        kernel, bias = classifier_weights(layer, drop)
        return kernel[:, ::-1], bias

    classifier_weights = keras_applications.classifier_weights
    monkeypatch.setattr(keras_applications, "classifier_weights", wrong)
    with pytest.raises(ExportError, match="keras.applications output differs"):
        to_keras_applications(small, tmp_path / "a.weights.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_of_sixteen_bits(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        ours = randomized(create_model("inception_v3", input_shape=(75, 75, 3), include_top=False))
    finally:
        keras.config.set_dtype_policy("float32")
    path = to_keras_applications(ours, tmp_path / "a.weights.h5")
    assert same_weights(from_keras_applications(path, "inception_v3", check=False), ours)


@pytest.mark.slow
def test_another_architecture(headless):
    with pytest.raises(MismatchError, match="not inception_resnet_v2"):
        from_keras_applications(headless, "inception_resnet_v2")


def test_strides_count(headless):
    config = headless.get_config()
    convolution = next(layer for layer in config["layers"] if layer["class_name"] == "Conv2D")
    convolution["config"]["strides"] = (1, 1)
    with keras.StatelessScope(initialize_variables=False):
        other = keras.Model.from_config(config)
        with pytest.raises(MismatchError, match="1 variables differ"):
            from_keras_applications(other, "inception_v3")


def test_wrong_use(small, lenet, tmp_path):
    taken = tmp_path / "taken.weights.h5"
    taken.touch()
    narrow = create_model("inception_v3", depth_multiplier=0.1, classes=5, input_shape=(75, 75, 3))
    for arguments, message in [
        ((lenet, tmp_path / "a.weights.h5"), "no form of lenet"),
        ((narrow, tmp_path / "a.weights.h5"), "depth_multiplier"),
        ((small, tmp_path / "a.h5"), "ends in .weights.h5"),
        ((small, taken), "exists"),
    ]:
        with pytest.raises(UsageError, match=message):
            to_keras_applications(*arguments)
    with pytest.raises(UsageError, match="inception_v4"):
        from_keras_applications(taken, "inception_v4")
    with pytest.raises(UsageError, match="no weights file"):
        from_keras_applications(tmp_path / "none.weights.h5", "inception_v3")
    with pytest.raises(CheckpointError, match="no HDF5"):
        from_keras_applications(taken, "inception_v3")
    assert [path.name for path in tmp_path.iterdir()] == [taken.name]
