"""ResNet v1 and v2: the twins of tf_slim/nets/resnet_v1_test.py and resnet_v2_test.py."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.models.blocks import Conv2DSame, max_pool
from inception_tf.models.registry import find_network
from inception_tf.slim.names import specification

NETWORKS = [f"resnet_{version}_{depth}" for version in ("v1", "v2") for depth in (50, 101, 152)]
SMALLEST = ["resnet_v1_50", "resnet_v2_50"]


def randomize(model, seed=0):
    """Statistics and offsets that are not 0 or 1, so that batch norm and biases count. Keeps activations bounded."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.path.split("/")[-1] in ("moving_mean", "beta", "bias"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
        elif variable.path.split("/")[-1] in ("moving_variance", "gamma"):
            variable.assign(rng.uniform(0.5, 1, variable.shape))
    return model


@pytest.mark.parametrize("network", NETWORKS)
def test_end_points(shapes, network):
    classes, last = (1000, "block4") if "v1" in network else (1001, "postnorm")
    sides = (112, 56, 28, 14, 7) if "v1" in network else (150, 75, 38, 19, 10)
    found = shapes(network)
    assert found == {
        "conv1": (sides[0], sides[0], 64),
        "pool1": (sides[1], sides[1], 64),
        "block1": (sides[2], sides[2], 256),
        "block2": (sides[3], sides[3], 512),
        "block3": (sides[4], sides[4], 1024),
        "block4": (sides[4], sides[4], 2048),
        last: (sides[4], sides[4], 2048),
        "global_pool": (1, 1, 2048),
        "logits": (1, 1, classes),
        "spatial_squeeze": (classes,),
        "predictions": (classes,),
    }
    assert list(found)[:6] == ["conv1", "pool1", "block1", "block2", "block3", "block4"]


@pytest.mark.parametrize("network", NETWORKS)
def test_variables(slim_variables, network):
    facts = slim_variables(network)
    assert {f"{network}/{name}": shape for name, shape in specification(network).items()} == facts


@pytest.mark.parametrize("network", SMALLEST)
@pytest.mark.parametrize(
    "output_stride, sides", [(4, [21, 21]), (8, [11, 11]), (16, [11, 6]), (32, [11, 6]), (None, [11, 6])]
)
def test_atrous_shapes(shapes, network, output_stride, sides):
    found = shapes(network, input_shape=(81, 81, 3), output_stride=output_stride, spatial_squeeze=False)
    assert "global_pool" not in found
    assert [found["block1"][0], found["block2"][0]] == sides
    last = -(-81 // (output_stride or 32))
    assert found["block4"] == (last, last, 2048)
    assert found["logits"] == found["predictions"] == (last, last, found["logits"][-1])


@pytest.mark.parametrize("network, output_stride", [("resnet_v1_50", 8), ("resnet_v2_50", 16)])
def test_atrous_values(network, output_stride):
    """The denser map, subsampled, is the map at the nominal stride."""
    images = np.random.default_rng(0).normal(size=(1, 65, 49, 3)).astype("float32")
    nominal = randomize(itf.create_model(network, include_top=False))
    dense = itf.create_model(network, include_top=False, output_stride=output_stride)
    dense.set_weights(nominal.get_weights())
    expected = np.asarray(nominal(images))
    step = 32 // output_stride
    found = np.asarray(dense(images))[:, ::step, ::step]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("size, expected", [(4, [[14, 43], [43, 84]]), (5, [[14, 43, 34], [43, 84, 55], [34, 55, 30]])])
def test_conv2d_same(size, expected):
    """The values of resnet_v1_test.py's testConv2DSameEven and testConv2DSameOdd."""
    mesh = np.add.outer(np.arange(size), np.arange(size)).reshape(1, size, size, 1).astype("float32")
    kernel = np.add.outer(np.arange(3), np.arange(3)).reshape(3, 3, 1, 1)
    layer = Conv2DSame(1, 3, strides=2, padding="same", activation=None)
    layer.build(mesh.shape)
    layer.set_weights([kernel, np.zeros(1)])
    assert layer.compute_output_shape(mesh.shape) == (1, len(expected), len(expected), 1)
    assert np.array_equal(np.squeeze(layer(mesh)), expected)


def test_subsample():
    """The values of testSubsampleThreeByThree and testSubsampleFourByFour: what a shortcut with strides does."""
    for size, expected in ((3, [[0, 2], [6, 8]]), (4, [[0, 2], [8, 10]])):
        x = np.arange(size * size, dtype="float32").reshape(1, size, size, 1)
        assert np.array_equal(np.squeeze(max_pool("shortcut", 1, 2)(x)), expected)


@pytest.mark.parametrize("network, last", [("resnet_v1_50", "block4"), ("resnet_v2_50", "postnorm")])
def test_without_top(network, last):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 40, 33, 3)).astype("float32")
    model = randomize(itf.create_model(network, include_top=False, pooling="max"))
    found = keras.tree.map_structure(np.asarray, itf.feature_extractor(model, [last, "global_pool"])(images))
    assert found[last].shape == (2, 2, 2, 2048)
    assert np.array_equal(found["global_pool"], found[last].max((1, 2)))
    assert model.output_shape == (None, 2048)


@pytest.mark.slow
@pytest.mark.parametrize("network", SMALLEST)
def test_any_size_after_loading(network, tmp_path):
    model = randomize(itf.create_model(network, classes=3, input_shape=(None, None, 3), output_stride=16))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.card == model.card
    assert [v.path for v in again.weights] == [v.path for v in model.weights]
    for side in (1, 34):
        images = np.random.default_rng(0).uniform(-1, 1, (2, side, side + 1, 3)).astype("float32")
        scores = np.asarray(again(images))
        assert scores.shape == (2, 3) and np.allclose(scores.sum(-1), 1, atol=1e-5)
        assert np.array_equal(scores, model(images))


def test_logits_alone(shapes):
    found = shapes("resnet_v1_50", classes=2, classifier_activation=None)
    assert list(found)[-1] == "spatial_squeeze" and found["spatial_squeeze"] == (2,)


def test_preprocessing():
    assert find_network("resnet_v1_50").preprocessing == "vgg"
    assert find_network("resnet_v2_50").preprocessing == "inception"


@pytest.mark.parametrize("output_stride", [0, 2, 5, 64, "8"])
def test_wrong_output_stride(output_stride):
    with pytest.raises(UsageError, match="output_stride must be 4, 8, 16, 32 or None. Received"):
        itf.ResNetV2_50(output_stride=output_stride)
