"""Facts of AlexNet, VGG and LeNet alone."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.slim import golden
from inception_tf.slim.names import model_variables, scoped


@pytest.mark.parametrize(
    "network, shape, options, logits",
    [
        ("alexnet_v2", (227, 259, 3), {"classes": 3}, (2, 2, 3, 3)),
        ("nin", (40, 24, 3), {"layout": "cifar10"}, (2, 10, 6, 10)),
    ],
)
def test_a_larger_image_has_the_mean_of_its_logits(network, shape, options, logits):
    images = golden.deterministic_images(2, *shape)
    options = {**options, "input_shape": shape, "classifier_activation": None}
    dense = itf.create_model(network, spatial_squeeze=False, **options)
    mean = itf.create_model(network, **options)
    for name, variable in model_variables(dense).items():
        variable.assign(golden.deterministic_weights(scoped(dense.card.scope, name), variable.shape))
    mean.set_weights(dense.get_weights())
    scores = np.asarray(dense(images))
    assert scores.shape == logits and np.ptp(scores[0, ..., 0]) > 0
    assert np.allclose(mean(images), scores.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_initial_weights_of_alexnet():
    """Slim's alexnet_v2_arg_scope: biases of 0.1, zero in the classifier; truncated normals of 0.005 at the top."""
    model = itf.AlexNetV2(classes=10)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            assert np.all(layer.bias.numpy() == np.float32(0 if layer.name == "fc8" else 0.1))
    top = [model.get_layer(name).kernel.numpy() for name in ("fc6", "fc7", "fc8")]
    assert all(np.abs(kernel).max() <= 0.0115 for kernel in top)
    assert all(0.0042 < kernel.std() < 0.0046 for kernel in top)  # 0.88 of 0.005, cut off at two deviations
    assert not np.allclose(model.get_layer("conv3").kernel[:, :, :192], model.get_layer("conv4").kernel[:, :, :192])


def test_initial_weights_of_lenet():
    """Slim's lenet_arg_scope: truncated normals of 0.1."""
    for name, variable in model_variables(itf.LeNet()).items():
        values = variable.numpy()
        if name.endswith("weights"):
            assert np.abs(values).max() <= 0.23 and 0.08 < values.std() < 0.11
        else:
            assert not values.any()


def test_inner_end_points_of_vgg():
    """What `slim.repeat` makes are end points of their own, and cost no weights of their own."""
    model = itf.VGG16(include_top=False, input_shape=(32, 32, 3))
    features = itf.feature_extractor(model, ["conv1/conv1_1", "conv1/conv1_2", "pool1"])
    images = golden.deterministic_images(1, 32, 32)
    outputs = features.predict_on_batch(images)
    first, second = model.get_layer("conv1").layers
    assert np.allclose(outputs["conv1/conv1_1"], first(images), atol=1e-6)
    assert np.allclose(outputs["conv1/conv1_2"], second(first(images)), atol=1e-6)
    assert outputs["pool1"].shape == (1, 16, 16, 64)
    assert features.count_params() == first.count_params() + second.count_params()


def test_lenet_equals_the_original_graph():
    case = golden.load("lenet")["cases"]["default"]
    model = itf.LeNet()
    variables = {f"LeNet/{name}": variable for name, variable in model_variables(model).items()}
    assert {name: list(variable.shape) for name, variable in variables.items()} == case["variable_shapes"]
    for name, variable in variables.items():
        variable.assign(golden.deterministic_weights(name, variable.shape))
    images = golden.deterministic_images(*case["images"])
    rows = golden.differences(case, itf.feature_extractor(model, list(itf.end_points(model))).predict_on_batch(images))
    expected = "conv1 pool1 conv2 pool2 Flatten fc3 dropout3 Logits Predictions"
    assert " ".join(name for name, *_ in rows) == expected
    assert max(relative for *_, relative in rows) < 1e-5


def test_sizes_of_lenet(shapes):
    """Its fully connected layer takes a size; any number of channels."""
    assert shapes("lenet", input_shape=(32, 40, 3))["Flatten"] == (8 * 10 * 64,)
    with pytest.raises(UsageError, match="needs the image's size.*None×28"):
        itf.LeNet(input_shape=(None, 28, 1))
