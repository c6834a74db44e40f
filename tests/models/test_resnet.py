"""ResNet v1 and v2: the twins of tf_slim/nets/resnet_v1_test.py and resnet_v2_test.py."""

import keras
import numpy as np
import pytest
from run_networks import relative, with_weights

import inception_tf as itf
from inception_tf.analysis.class_maps import split
from inception_tf.errors import UsageError
from inception_tf.models.blocks import Conv2DSame, max_pool
from inception_tf.models.registry import find_network
from inception_tf.slim.golden import deterministic_images

SMALLEST = ["resnet_v1_50", "resnet_v2_50"]


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
    """The denser feature map, subsampled, is the one at the nominal stride."""
    images = deterministic_images(1, 65, 49)
    nominal = with_weights(network, include_top=False, input_shape=(65, 49, 3))
    dense = itf.create_model(network, include_top=False, input_shape=(65, 49, 3), output_stride=output_stride)
    dense.set_weights(nominal.get_weights())
    expected = np.asarray(nominal(images))
    step = 32 // output_stride
    found = np.asarray(dense(images))[:, ::step, ::step]
    assert relative(found, expected) < 1e-5


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


def test_preprocessing():
    assert find_network("resnet_v1_50").preprocessing == "vgg"
    assert find_network("resnet_v2_50").preprocessing == "inception"


@pytest.mark.parametrize("output_stride", [0, 2, 5, 64, "8"])
def test_wrong_output_stride(output_stride):
    with pytest.raises(UsageError, match="output_stride must be 4, 8, 16, 32 or None. Received"):
        itf.ResNetV2_50(output_stride=output_stride)


def test_inner_end_points(tmp_path):
    """Slim's 77, and pool1. They are there of a fused model, and people cut at them by Slim's full names."""
    model, images = with_weights("resnet_v1_50", classes=7), deterministic_images(1, 64, 75)
    fused, unit = itf.fuse_for_inference(model), "block3/unit_2/bottleneck_v1"
    assert len(itf.end_points(model)) == 78 and len(itf.end_points(model, inner=False)) == 10
    assert list(itf.end_points(fused)) == list(itf.end_points(model))
    names = [f"{unit}/conv3", f"resnet_v1_50/{unit}", "block4/unit_1/bottleneck_v1/shortcut"]
    cut = itf.feature_extractor(model, names)
    found, of_fused = cut(images), itf.feature_extractor(fused, names)(images)
    assert list(found) == names and all(relative(np.asarray(of_fused[n]), np.asarray(found[n])) < 1e-5 for n in names)
    one = itf.feature_extractor(model, names[0])
    one.save(tmp_path / "cut.keras")
    loaded = keras.saving.load_model(tmp_path / "cut.keras")
    assert np.array_equal(loaded(images), one(images))
    backbone, rest = split(model, unit)
    assert relative(rest(backbone(images)), keras.Model(model.inputs[0], model.logits)(images)) < 1e-5
    with pytest.raises(UsageError, match=f"way around {unit}/conv3. It has: .*{unit}, "):
        split(model, f"{unit}/conv3")
    with pytest.raises(UsageError, match="no end point block1/unit_9/bottleneck_v1. It has: conv1, pool1, .*unit_"):
        itf.feature_extractor(model, "block1/unit_9/bottleneck_v1")


def test_an_end_point_that_fusing_left_out():
    model = itf.create_model("inception_v3", depth_multiplier=0.1, aux_logits=True, input_shape=(107, 107, 3))
    with pytest.raises(UsageError, match="no end point AuxLogits.*fuse_for_inference"):
        itf.feature_extractor(itf.fuse_for_inference(model), "AuxLogits")
