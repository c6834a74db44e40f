"""AlexNet: the twins of tf_slim/nets/alexnet_test.py."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError

END_POINTS = {
    "conv1": (54, 54, 64),
    "pool1": (26, 26, 64),
    "conv2": (26, 26, 192),
    "pool2": (12, 12, 192),
    "conv3": (12, 12, 384),
    "conv4": (12, 12, 384),
    "conv5": (12, 12, 256),
    "pool5": (5, 5, 256),
    "fc6": (1, 1, 4096),
    "fc7": (1, 1, 4096),
    "fc8": (1000,),
    "Predictions": (1000,),
}


def test_end_points(shapes):
    found = shapes("alexnet_v2")
    assert [name for name in found if "dropout" not in name] == list(END_POINTS)
    assert {name: found[name] for name in END_POINTS} == END_POINTS


def test_fully_convolutional(shapes):
    found = shapes("alexnet_v2", input_shape=(300, 400, 3), spatial_squeeze=False)
    assert found["fc8"] == found["Predictions"] == (4, 7, 1000)


def test_smallest_images(shapes):
    assert shapes("alexnet_v2", input_shape=(195, 195, 3))["pool5"] == (5, 5, 256)
    assert shapes("alexnet_v2", input_shape=(67, 67, 3), include_top=False)["pool5"] == (1, 1, 256)
    for size, include_top in ((194, True), (66, False)):
        with pytest.raises(UsageError, match=f"at least {size + 1}×{size + 1}"):
            itf.AlexNetV2(input_shape=(size, size, 3), include_top=include_top)
        # One pixel less, and a layer has no output.
        with pytest.raises(ValueError, match="Computed output size"):
            shapes.build("alexnet_v2", (size, size, 3), include_top=include_top)


def test_a_larger_image_has_the_mean_of_its_map():
    images = np.random.default_rng(0).normal(size=(1, 227, 259, 3)).astype("float32")
    keras.utils.set_random_seed(0)
    dense = itf.AlexNetV2(classes=3, input_shape=(None, None, 3), spatial_squeeze=False, classifier_activation=None)
    mean = itf.AlexNetV2(classes=3, input_shape=(None, None, 3), classifier_activation=None)
    mean.set_weights(dense.get_weights())
    scores = dense.predict_on_batch(images)
    assert scores.shape == (1, 2, 3, 3) and np.ptp(scores[..., 0]) > 0
    assert np.allclose(mean.predict_on_batch(images), scores.mean((1, 2)), rtol=1e-5, atol=1e-7)


def test_initial_weights():
    """Slim's alexnet_v2_arg_scope: biases of 0.1, zero in the classifier; truncated normals of 0.005 at the top."""
    model = itf.AlexNetV2(classes=10)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            assert np.all(layer.bias.numpy() == np.float32(0 if layer.name == "fc8" else 0.1))
    top = [model.get_layer(name).kernel.numpy() for name in ("fc6", "fc7", "fc8")]
    assert all(np.abs(kernel).max() <= 0.0115 for kernel in top)
    assert all(0.0042 < kernel.std() < 0.0046 for kernel in top)  # 0.88 of 0.005, cut off at two deviations
    assert not np.allclose(model.get_layer("conv3").kernel[:, :, :192], model.get_layer("conv4").kernel[:, :, :192])
