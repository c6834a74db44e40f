"""LeNet, against golden data of research/slim's graph."""

import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.slim import golden
from inception_tf.slim.names import model_variables


def test_end_points(shapes):
    assert shapes("lenet") == {
        "conv1": (28, 28, 32),
        "pool1": (14, 14, 32),
        "conv2": (14, 14, 64),
        "pool2": (7, 7, 64),
        "Flatten": (3136,),
        "fc3": (1024,),
        "dropout3": (1024,),
        "fc4": (10,),
        "Logits": (10,),
        "Predictions": (10,),
    }


def test_equals_the_original_graph():
    case = golden.load("lenet")["cases"]["default"]
    model = itf.LeNet()
    variables = {f"LeNet/{name}": variable for name, variable in model_variables(model).items()}
    assert {name: list(variable.shape) for name, variable in variables.items()} == case["variable_shapes"]
    for name, variable in variables.items():
        variable.assign(golden.deterministic_weights(name, variable.shape))
    images = golden.deterministic_images(*case["images"])
    outputs = itf.feature_extractor(model, list(itf.end_points(model))).predict_on_batch(images)
    rows = golden.differences(case, outputs)
    assert [name for name, *_ in rows] == [
        "conv1", "pool1", "conv2", "pool2", "Flatten", "fc3", "dropout3", "Logits", "Predictions",
    ]  # fmt: skip
    assert max(relative for *_, relative in rows) < 1e-5


def test_smallest_images(shapes):
    assert shapes("lenet", input_shape=(4, 4, 1))["pool2"] == (1, 1, 64)
    with pytest.raises(UsageError, match="at least 4×4"):
        itf.LeNet(input_shape=(3, 4, 1))
    with pytest.raises(ValueError, match="Computed output size"):
        shapes.build("lenet", (3, 3, 1))


def test_sizes_and_colours(shapes):
    assert shapes("lenet", input_shape=(32, 40, 3))["Flatten"] == (8 * 10 * 64,)
    assert itf.LeNet(include_top=False, pooling="avg").input_shape == (None, None, None, 1)
    with pytest.raises(UsageError, match="needs the image's size.*None×28"):
        itf.LeNet(input_shape=(None, 28, 1))


def test_initial_weights():
    """Slim's lenet_arg_scope: truncated normals of 0.1."""
    for name, variable in model_variables(itf.LeNet()).items():
        values = variable.numpy()
        if name.endswith("weights"):
            assert np.abs(values).max() <= 0.23 and 0.08 < values.std() < 0.11
        else:
            assert not values.any()
