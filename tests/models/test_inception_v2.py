"""Inception-v2: the twins of tf_slim/nets/inception_v2_test.py, and the plain first convolution."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.slim.names import specification

END_POINTS = {
    "Conv2d_1a_7x7": (112, 112, 64),
    "MaxPool_2a_3x3": (56, 56, 64),
    "Conv2d_2b_1x1": (56, 56, 64),
    "Conv2d_2c_3x3": (56, 56, 192),
    "MaxPool_3a_3x3": (28, 28, 192),
    "Mixed_3b": (28, 28, 256),
    "Mixed_3c": (28, 28, 320),
    "Mixed_4a": (14, 14, 576),
    "Mixed_4b": (14, 14, 576),
    "Mixed_4c": (14, 14, 576),
    "Mixed_4d": (14, 14, 576),
    "Mixed_4e": (14, 14, 576),
    "Mixed_5a": (7, 7, 1024),
    "Mixed_5b": (7, 7, 1024),
    "Mixed_5c": (7, 7, 1024),
}


def test_end_points(shapes):
    found = shapes("inception_v2")
    assert list(found) == [*END_POINTS, "PreLogits", "Logits", "Predictions"]
    assert {name: found[name] for name in END_POINTS} == END_POINTS
    assert found["Logits"] == found["Predictions"] == (1001,)


def test_parameters_of_the_base():
    with keras.StatelessScope(initialize_variables=False):
        assert itf.InceptionV2(include_top=False).count_params() == 10173112


@pytest.mark.parametrize("multiplier", [0.5, 2.0])
def test_depth_multiplier(shapes, multiplier):
    found = shapes("inception_v2", depth_multiplier=multiplier)
    for name, (height, width, channels) in END_POINTS.items():
        assert found[name] == (height, width, multiplier * channels)


@pytest.mark.parametrize("multiplier", [-0.1, 0.0])
def test_invalid_depth_multiplier(multiplier):
    with pytest.raises(UsageError, match="depth_multiplier must be greater than zero"):
        itf.InceptionV2(depth_multiplier=multiplier)


def test_half_size_images(shapes):
    found = shapes("inception_v2", input_shape=(112, 112, 3))
    assert found["Mixed_5c"] == (4, 4, 1024) and found["Logits"] == (1001,)


def test_logits_not_squeezed(shapes):
    assert shapes("inception_v2", classes=25, spatial_squeeze=False)["Logits"] == (1, 1, 25)
    assert shapes("inception_v2", classes=25, spatial_squeeze=False, input_shape=(320, 320, 3))["Logits"] == (2, 2, 25)


def test_any_size():
    model = itf.InceptionV2(classes=3, input_shape=(None, None, 3), depth_multiplier=0.1)
    for size in (1, 50):
        scores = np.asarray(model(np.ones((2, size, size + 1, 3), "float32")))
        assert scores.shape == (2, 3) and np.allclose(scores.sum(-1), 1)


def test_first_convolution():
    first = {name: shape for name, shape in specification("inception_v2").items() if name.startswith("Conv2d_1a")}
    assert first == {
        "Conv2d_1a_7x7/depthwise_weights": (7, 7, 3, 8),
        "Conv2d_1a_7x7/pointwise_weights": (1, 1, 24, 64),
        "Conv2d_1a_7x7/biases": (64,),
    }
    plain = specification("inception_v2", use_separable_conv=False)
    first = {name: shape for name, shape in plain.items() if name.startswith("Conv2d_1a")}
    assert first == {
        "Conv2d_1a_7x7/weights": (7, 7, 3, 64),
        "Conv2d_1a_7x7/BatchNorm/beta": (64,),
        "Conv2d_1a_7x7/BatchNorm/moving_mean": (64,),
        "Conv2d_1a_7x7/BatchNorm/moving_variance": (64,),
    }
    # Of narrow networks no more depthwise filters than there are output channels.
    assert specification("inception_v2", depth_multiplier=0.25)["Conv2d_1a_7x7/depthwise_weights"] == (7, 7, 3, 5)
