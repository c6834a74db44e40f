"""A classifier on the features of several blocks."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.analysis.profile import profile
from inception_tf.errors import MismatchError, UsageError
from inception_tf.models.model import end_points

BLOCKS = ["Mixed_5d", "Mixed_6e"]


def build(**options):
    options = {"head_blocks": BLOCKS, "classes": 3, "depth_multiplier": 0.1, "input_shape": (75, 75, 3), **options}
    return itf.create_model("inception_v3", **options)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return build()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-1, 1, (2, 75, 75, 3)).astype("float32")


def test_features(model, images):
    ends = end_points(model)
    maps = keras.Model(model.inputs[0], [ends[name] for name in ("Mixed_7c", *BLOCKS)])(images)
    expected = np.concatenate([np.sqrt(np.mean(x, (1, 2)) + 0.01) for x in maps], axis=1)
    features = keras.Model(model.inputs[0], model.features)(images)
    np.testing.assert_allclose(np.reshape(features, (2, -1)), expected, rtol=1e-5)
    kernel, bias = map(np.asarray, model.classifier.weights)
    np.testing.assert_allclose(
        keras.Model(model.inputs[0], model.logits)(images), expected @ kernel[0, 0] + bias, rtol=1e-4, atol=1e-6
    )


def test_saved_and_fused(model, images, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = itf.load_model(tmp_path / "model.keras")
    assert loaded.card == model.card and loaded.card.options["head_blocks"] == BLOCKS
    assert np.array_equal(loaded(images), model(images))
    np.testing.assert_allclose(itf.fuse_for_inference(model)(images), model(images), rtol=1e-4)


def test_profile(model):
    costs = profile(model)
    assert costs.end_points["PooledBlocks"].shape == (1, 1, model.features.shape[-1])
    layers = {layer.path: layer.multiply_adds for layer in costs.layers}
    assert layers["Logits/Conv2d_1c_1x1"] == 3 * model.features.shape[-1]


def test_refused(model, images, tmp_path):
    with pytest.raises(UsageError, match=r"head_blocks has Mixed_6f, Mixed_7c\. Blocks below Mixed_7c are: Conv2d_1a"):
        build(head_blocks=["Mixed_6f", "Mixed_7c"])
    with pytest.raises(UsageError, match="head_blocks must be"):
        build(head_blocks="Mixed_6e")
    with pytest.raises(UsageError, match="spatial_squeeze"):
        build(spatial_squeeze=False)
    with pytest.raises(UsageError, match="head_blocks"):
        itf.save_slim(model, tmp_path / "model.ckpt")
    model.save(tmp_path / "model.keras")
    with pytest.raises(MismatchError, match="several blocks") as failure:
        itf.convert(tmp_path / "model.keras", tmp_path / "model.ckpt")
    assert "classes=" not in str(failure.value)
    with pytest.raises(UsageError, match="head_blocks"):
        itf.class_activation_maps(model, images)
