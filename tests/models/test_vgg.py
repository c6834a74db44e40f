"""VGG: the twins of tf_slim/nets/vgg_test.py."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError

SIDES = {1: (224, 64), 2: (112, 128), 3: (56, 256), 4: (28, 512), 5: (14, 512)}


@pytest.mark.parametrize(
    "network, depths, parameters",
    [("vgg_16", (2, 2, 3, 3, 3), 138357544), ("vgg_19", (2, 2, 4, 4, 4), 143667240)],  # as the paper's table 2 rounds
)
def test_end_points(shapes, network, depths, parameters):
    found = shapes(network)
    expected = {}
    for i, (side, channels) in SIDES.items():
        expected.update({f"conv{i}/conv{i}_{j + 1}": (side, side, channels) for j in range(depths[i - 1])})
        expected[f"pool{i}"] = (side // 2, side // 2, channels)
    expected.update({"fc6": (1, 1, 4096), "fc7": (1, 1, 4096), "fc8": (1000,), "Predictions": (1000,)})
    assert [name for name in found if "dropout" not in name] == list(expected)
    assert {name: found[name] for name in expected} == expected
    with keras.StatelessScope(initialize_variables=False):
        assert itf.create_model(network).count_params() == parameters


def test_fully_convolutional(shapes):
    for network in ("vgg_16", "vgg_19"):
        assert shapes(network, input_shape=(256, 256, 3), spatial_squeeze=False)["fc8"] == (2, 2, 1000)
        assert shapes(network, input_shape=(384, 384, 3), spatial_squeeze=False)["fc8"] == (6, 6, 1000)
        assert shapes(network, input_shape=(256, 256, 3))["fc8"] == (1000,)


def test_smallest_images(shapes):
    assert shapes("vgg_16", input_shape=(32, 32, 3), include_top=False)["pool5"] == (1, 1, 512)
    for size, include_top in ((223, True), (31, False)):
        with pytest.raises(UsageError, match=f"at least {size + 1}×{size + 1}"):
            itf.VGG16(input_shape=(size, size, 3), include_top=include_top)
        # One pixel less, and a layer has no output.
        with pytest.raises(ValueError, match="Computed output size"):
            shapes.build("vgg_16", (size, size, 3), include_top=include_top)


def test_inner_end_points():
    """What `slim.repeat` makes are end points of their own, and cost no weights of their own."""
    model = itf.VGG16(include_top=False, input_shape=(32, 32, 3))
    features = itf.feature_extractor(model, ["conv1/conv1_1", "conv1/conv1_2", "pool1"])
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    outputs = features.predict_on_batch(images)
    first, second = model.get_layer("conv1").layers
    assert np.allclose(outputs["conv1/conv1_1"], first(images), atol=1e-6)
    assert np.allclose(outputs["conv1/conv1_2"], second(first(images)), atol=1e-6)
    assert outputs["pool1"].shape == (1, 16, 16, 64)
    assert features.count_params() == first.count_params() + second.count_params()
