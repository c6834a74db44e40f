"""Class activation maps and Grad-CAM, against what they are defined to be."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from random_weights import randomized

import inception_tf as itf
from inception_tf.analysis.class_maps import (
    backbone_end_point,
    class_activation_maps,
    class_map_model,
    grad_cam,
    split,
)
from inception_tf.errors import UsageError
from inception_tf.slim.golden import deterministic_images

ROOT = Path(__file__).resolve().parents[2]
NIN = {"layout": "cifar10", "classes": 4, "input_shape": (32, 40, 3)}


def logits_of(model, images):
    return np.asarray(keras.Model(model.inputs[0], model.logits)(images))


@pytest.fixture(scope="module")
def inception():
    """A narrow Inception-v3 whose last map, 8×9, is wider than its 8×8 pooling: the last column does not count."""
    options = {"depth_multiplier": 0.1, "classes": 7, "aux_logits": True, "input_shape": (299, 331, 3)}
    return randomized(itf.create_model("inception_v3", **options)), deterministic_images(2, 299, 331)


@pytest.fixture(scope="module")
def nin():
    return randomized(itf.create_model("nin", **NIN)), deterministic_images(3, 32, 40)


@pytest.mark.parametrize(
    "network, options, end_point",
    [
        ("inception_v2", {"classes": 5, "depth_multiplier": 0.25, "input_shape": (None, None, 3)}, "Mixed_5c"),
        ("nin", NIN, "mlpconv3"),
        ("nin", {**NIN, "rectified_logits": False, "convolutions_1x1": 0}, "dropout2"),
        pytest.param("inception_v1", {"input_shape": (96, 139, 3)}, "Mixed_5c", marks=pytest.mark.slow),
        pytest.param("resnet_v1_50", {"input_shape": (96, 139, 3)}, "block4", marks=pytest.mark.slow),
        pytest.param("inception_v4", {"input_shape": (139, 107, 3)}, "Mixed_7d", marks=pytest.mark.slow),
        pytest.param("inception_resnet_v2", {"input_shape": (139, 107, 3)}, "Conv2d_7b_1x1", marks=pytest.mark.slow),
        pytest.param("resnet_v2_50", {"input_shape": (107, 139, 3)}, "postnorm", marks=pytest.mark.slow),
    ],
)
def test_the_mean_of_the_map_is_the_logit(network, options, end_point):
    model = randomized(itf.create_model(network, **options))
    images = deterministic_images(2, *(side or 96 for side in model.input_shape[1:3]))
    maps, logits = class_activation_maps(model, images), logits_of(model, images)
    assert backbone_end_point(model) == end_point
    assert maps.dtype == np.float32 and np.ptp(maps) > 0
    np.testing.assert_allclose(maps.mean((1, 2)), logits, rtol=0, atol=2e-6 * np.abs(maps).max())


def test_only_what_is_pooled_counts(inception):
    """The last feature map is wider than the pooling. A position of the class map is the logit that Keras's own layers
    give to a feature map that is that position repeated."""
    model, images = inception
    features, head = split(model, "Mixed_7c")
    last = np.asarray(features(images))
    maps, logits = class_activation_maps(model, images), logits_of(model, images)
    assert last.shape[1:3] == (8, 9) and maps.shape == (2, 8, 8, 7)
    np.testing.assert_allclose(maps.mean((1, 2)), logits, rtol=0, atol=2e-6 * np.abs(maps).max())
    for i, j in ((0, 0), (3, 7), (7, 2)):
        alike = np.broadcast_to(last[:, i : i + 1, j : j + 1], last.shape)
        np.testing.assert_allclose(maps[:, i, j], np.asarray(head(alike)), rtol=1e-4, atol=1e-5)


def test_chosen_classes(nin):
    model, images = nin
    maps = class_activation_maps(model, images)
    assert np.array_equal(class_activation_maps(model, images, [2, 0]), maps[..., [2, 0]])
    own = class_activation_maps(model, images, np.array([[1], [3], [0]]))
    assert np.array_equal(own[..., 0], np.stack([maps[0, ..., 1], maps[1, ..., 3], maps[2, ..., 0]]))


def test_grad_cam_of_the_pooled_map_is_the_class_activation_map(inception):
    """Section 3.1 of the paper, for a map whose pooling leaves out the last column: there the gradient is zero."""
    model, images = inception
    bias = model.get_layer("Logits").layers[0].bias.numpy()
    expected = np.maximum(class_activation_maps(model, images) - bias, 0)[..., [5, 1]]
    found = grad_cam(model, images, [5, 1], "Mixed_7c")
    assert found.shape == (2, 8, 9, 2) and found.max() > 0
    np.testing.assert_allclose(found[:, :, :8] * 8 * 9, expected, rtol=1e-3, atol=1e-4 * expected.max())


@pytest.mark.parametrize("at", ["pool1", "mlpconv2"])
def test_grad_cam_weighs_channels_by_what_the_logit_gains(nin, at):
    """The gradient by differences: every channel raised a little everywhere."""
    model, images = nin
    backbone, rest = split(model, at)
    features = np.asarray(backbone(images[:1]))
    positions, step = features.shape[1] * features.shape[2], 1e-2
    raised = np.repeat(features, features.shape[3], axis=0)
    raised[np.arange(len(raised)), :, :, np.arange(len(raised))] += step
    gains = (np.asarray(rest(raised)) - np.asarray(rest(features)))[:, 2] / step / positions
    expected = np.maximum(features[0] @ gains, 0)
    found = grad_cam(model, images[:1], [2], at)[0, ..., 0]
    assert expected.max() > 0
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    assert np.abs(found - expected).max() < 0.1 * expected.max()


def test_the_inside_of_a_repeated_scope():
    """VGG's conv1/conv1_1 is no layer of the model itself. A narrow twin of its graph stands for it."""
    from inception_tf.models.blocks import Conv2D, Repeat, SqueezedConv2D, max_pool
    from inception_tf.models.card import Card
    from inception_tf.models.model import SlimModel

    inputs = keras.Input((9, 9, 3))
    x = Repeat([Conv2D(4, 3, padding="same", name=f"conv1_{i}") for i in (1, 2, 3)], name="conv1")(inputs)
    x = max_pool("pool5", 1)(x)
    x = Conv2D(6, 9, name="fc6")(x)
    x = SqueezedConv2D(5, 1, activation=None, name="fc8")(x)
    model = SlimModel(inputs, x, name="twin", card=Card("vgg_16", {"classifier_activation": None}))
    images = deterministic_images(2, 9, 9)
    for name in ("conv1/conv1_1", "conv1/conv1_2", "conv1/conv1_3"):
        backbone, rest = split(model, name)
        np.testing.assert_allclose(rest(backbone(images)), model(images), rtol=1e-5, atol=1e-6)
        assert grad_cam(model, images, [0, 4], name).shape == (2, 9, 9, 2)
    with pytest.raises(UsageError, match="It has: conv1/conv1_1, conv1/conv1_2, conv1/conv1_3, pool5"):
        split(model, "fc6")
    with pytest.raises(UsageError, match="no class activation maps.*--at pool5"):
        class_activation_maps(model, images)


def test_on_xla_and_in_batch(nin):
    import tensorflow as tf

    model, images = nin
    maps = class_activation_maps(model, images)
    compiled = tf.function(class_map_model(model), jit_compile=True)(images)
    np.testing.assert_allclose(compiled["maps"], maps, rtol=1e-4, atol=1e-5)
    heat = grad_cam(model, images, [1, 3], "pool2")
    one_by_one = [grad_cam(model, image[None], [1, 3], "pool2")[0] for image in images]
    np.testing.assert_allclose(one_by_one, heat, rtol=1e-4, atol=1e-6)


def test_a_model_that_computes_in_bfloat16(nin):
    model, images = nin
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        twin = itf.NetworkInNetwork(**NIN)
    finally:
        keras.config.set_dtype_policy("float32")
    twin.set_weights(model.get_weights())
    for function, extra in ((class_activation_maps, ()), (grad_cam, ([0, 2], "mlpconv2"))):
        found, wanted = function(twin, images, *extra), function(model, images, *extra)
        assert found.dtype == np.float32 and np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_weights_are_shared(nin):
    """What is trained after the class map model is built shows in its maps."""
    variables = {id(variable) for variable in nin[0].weights}
    assert {id(variable) for variable in class_map_model(nin[0]).weights} <= variables


@pytest.mark.parametrize(
    "network, options, at",
    [
        ("lenet", {}, "pool2"),
        ("nin", {**NIN, "fully_connected": True}, "mlpconv3"),
        pytest.param("alexnet_v2", {"classes": 3}, "pool5", marks=pytest.mark.slow),
        pytest.param("vgg_16", {"classes": 3}, "pool5", marks=pytest.mark.slow),
    ],
)
def test_fully_connected_layers_have_grad_cam_alone(network, options, at):
    model = randomized(itf.create_model(network, **options))
    images = deterministic_images(1, *model.input_shape[1:])
    with pytest.raises(UsageError, match=f"no class activation maps. Grad-CAM works at any end point: --at {at}"):
        class_activation_maps(model, images)
    backbone, _ = split(model, at)
    assert grad_cam(model, images, [0, 1], at).shape == (1, *backbone.output_shape[1:3], 2)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda model, images: grad_cam(model, images, [0], "Mixed_9"), "has no end point Mixed_9. It has: mlpconv1"),
        (lambda model, images: grad_cam(model, images, [0], "Logits"), "has no feature map of .* at Logits"),
        (lambda model, images: grad_cam(model, images, [4], "pool1"), "has the classes 0 to 3"),
        (lambda model, images: class_activation_maps(model, images, [-1]), "has the classes 0 to 3"),
        (lambda model, images: class_activation_maps(model, images, [[0]]), "k for each of 3 images"),
        (lambda model, images: class_activation_maps(model, images, ["cat"]), "k indices"),
    ],
)
def test_wrong_arguments(nin, call, said):
    with pytest.raises(UsageError, match=said):
        call(*nin)


def test_the_auxiliary_head_is_not_on_the_way(inception):
    with pytest.raises(UsageError, match="has no feature map of .* at AuxLogits"):
        grad_cam(*inception, [0], "AuxLogits")


def test_models_without_logits_of_an_image():
    images = deterministic_images(1, 32, 40)
    with pytest.raises(UsageError, match="include_top=False"):
        class_activation_maps(itf.NetworkInNetwork(include_top=False), images)
    with pytest.raises(UsageError, match="spatial_squeeze=False"):
        class_activation_maps(itf.NetworkInNetwork(**NIN, spatial_squeeze=False), images)
    with pytest.raises(UsageError, match="this library's card"):
        class_activation_maps(keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Dense(2)]), images)


@pytest.mark.slow
def test_keras_on_jax(nin, tmp_path):
    """The same maps without TensorFlow."""
    pytest.importorskip("jax")
    model, images = nin
    model.save_weights(tmp_path / "nin.weights.h5")
    np.save(tmp_path / "images.npy", images)
    script = f"""
import sys
sys.modules["tensorflow"] = None
import numpy as np, inception_tf as itf
from inception_tf.analysis.class_maps import class_activation_maps, grad_cam
model = itf.NetworkInNetwork(**{NIN!r})
model.load_weights("nin.weights.h5")
images = np.load("images.npy")
np.savez("maps.npz", cam=class_activation_maps(model, images), grad_cam=grad_cam(model, images, [2, 0], "pool1"))
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    found = np.load(tmp_path / "maps.npz")
    np.testing.assert_allclose(found["cam"], class_activation_maps(model, images), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["grad_cam"], grad_cam(model, images, [2, 0], "pool1"), rtol=1e-3, atol=1e-5)
