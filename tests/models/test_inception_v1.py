"""Inception-v1: the twins of tf_slim/nets/inception_v1_test.py."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError

END_POINTS = {
    "Conv2d_1a_7x7": (112, 112, 64),
    "MaxPool_2a_3x3": (56, 56, 64),
    "Conv2d_2b_1x1": (56, 56, 64),
    "Conv2d_2c_3x3": (56, 56, 192),
    "MaxPool_3a_3x3": (28, 28, 192),
    "Mixed_3b": (28, 28, 256),
    "Mixed_3c": (28, 28, 480),
    "MaxPool_4a_3x3": (14, 14, 480),
    "Mixed_4b": (14, 14, 512),
    "Mixed_4c": (14, 14, 512),
    "Mixed_4d": (14, 14, 512),
    "Mixed_4e": (14, 14, 528),
    "Mixed_4f": (14, 14, 832),
    "MaxPool_5a_2x2": (7, 7, 832),
    "Mixed_5b": (7, 7, 832),
    "Mixed_5c": (7, 7, 1024),
}


def test_end_points(shapes):
    found = shapes("inception_v1")
    assert list(found) == [*END_POINTS, "PreLogits", "Logits", "Predictions"]
    assert {name: found[name] for name in END_POINTS} == END_POINTS
    assert found["Logits"] == found["Predictions"] == (1001,)


def test_parameters_of_the_base():
    with keras.StatelessScope(initialize_variables=False):
        assert itf.InceptionV1(include_top=False).count_params() == 5607184


def test_half_size_images(shapes):
    assert shapes("inception_v1", input_shape=(112, 112, 3))["Mixed_5c"] == (4, 4, 1024)


def test_logits_not_squeezed(shapes):
    assert shapes("inception_v1", classes=25, spatial_squeeze=False)["Logits"] == (1, 1, 25)
    # Slim's 7×7 pooling has stride 1 here, unlike that of the later Inceptions.
    assert shapes("inception_v1", classes=25, spatial_squeeze=False, input_shape=(320, 320, 3))["Logits"] == (4, 4, 25)


def test_any_size():
    model = itf.InceptionV1(classes=3, input_shape=(None, None, 3))
    for size in (1, 50):
        scores = np.asarray(model(np.ones((2, size, size + 1, 3), "float32")))
        assert scores.shape == (2, 3) and np.allclose(scores.sum(-1), 1)


def test_no_auxiliary_head():
    with pytest.raises(UsageError, match="aux_logits"):
        itf.create_model("inception_v1", aux_logits=True)
