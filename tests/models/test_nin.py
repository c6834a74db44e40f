"""Network in Network, against the paper (arXiv 1312.4400) and its authors' Caffe networks."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError

CIFAR10 = {"layout": "cifar10", "input_shape": (32, 32, 3)}


def parameters(**options):
    with keras.StatelessScope(initialize_variables=False):
        return itf.NetworkInNetwork(**options).count_params()


def test_parameters_as_published():
    """The sizes of the authors' Caffe models: kernels, then biases."""
    assert parameters(classes=1000) == (
        (11 * 11 * 3 * 96 + 2 * 96 * 96)
        + (5 * 5 * 96 * 256 + 2 * 256 * 256)
        + (3 * 3 * 256 * 384 + 2 * 384 * 384)
        + (3 * 3 * 384 * 1024 + 1024 * 1024 + 1024 * 1000)
        + (3 * 96 + 3 * 256 + 3 * 384 + 2 * 1024 + 1000)
    )
    assert parameters(classes=1000) == 7595176
    assert parameters(**CIFAR10) == 966986


def test_end_points(shapes):
    assert shapes("nin", classes=1000) == {
        "mlpconv1": (54, 54, 96),
        "pool1": (27, 27, 96),
        "mlpconv2": (27, 27, 256),
        "pool2": (14, 14, 256),
        "mlpconv3": (14, 14, 384),
        "pool3": (7, 7, 384),
        "dropout3": (7, 7, 384),
        "mlpconv4": (7, 7, 1024),
        "Logits": (1000,),
        "Predictions": (1000,),
    }
    assert shapes("nin", **CIFAR10) == {
        "mlpconv1": (32, 32, 96),
        "pool1": (16, 16, 96),
        "dropout1": (16, 16, 96),
        "mlpconv2": (16, 16, 192),
        "pool2": (8, 8, 192),
        "dropout2": (8, 8, 192),
        "mlpconv3": (8, 8, 192),
        "Logits": (10,),
        "Predictions": (10,),
    }


@pytest.mark.parametrize("layout, channels", [("imagenet", [96, 256, 384]), ("cifar10", [96, 192])])
def test_number_of_1x1_convolutions(shapes, layout, channels):
    """The maps keep their widths; only the layers between them come and go."""
    counts = []
    for number in range(4):
        options = {"layout": layout, "convolutions_1x1": number, "input_shape": (64, 64, 3)}
        found = shapes("nin", **options)
        assert [found[f"mlpconv{i + 1}"][-1] for i in range(len(channels))] == channels
        assert found["Logits"] == (10,)
        with keras.StatelessScope(initialize_variables=False):
            layers = itf.NetworkInNetwork(**options)._flatten_layers()
        kernels = [layer.kernel_size for layer in layers if isinstance(layer, keras.layers.Conv2D)]
        assert sum(kernel == (1, 1) for kernel in kernels) == number * (len(channels) + 1)
        assert sum(kernel != (1, 1) for kernel in kernels) == len(channels) + 1
        counts.append(parameters(**options))
    assert counts[1] < counts[2] < counts[3]


def test_global_average_pooling_against_fully_connected():
    assert parameters(**CIFAR10, fully_connected=True) - parameters(**CIFAR10) == 8 * 8 * 10 * 10 + 10
    with pytest.raises(UsageError, match="fully_connected needs"):
        itf.NetworkInNetwork(layout="cifar10", fully_connected=True, input_shape=(None, None, 3))
    with pytest.raises(UsageError, match="fully_connected needs"):
        itf.NetworkInNetwork(**CIFAR10, fully_connected=True, spatial_squeeze=False)


def test_logits_are_the_mean_of_the_class_maps():
    options = {"layout": "cifar10", "input_shape": (40, 24, 3), "classifier_activation": None}
    dense = itf.NetworkInNetwork(**options, spatial_squeeze=False)
    pooled = itf.NetworkInNetwork(**options)
    pooled.set_weights(dense.get_weights())
    images = np.random.default_rng(0).normal(size=(2, 40, 24, 3)).astype("float32")
    maps = dense.predict_on_batch(images)
    assert maps.shape == (2, 10, 6, 10) and maps.min() == 0 < maps.max()
    assert np.allclose(pooled.predict_on_batch(images), maps.mean((1, 2)), rtol=1e-5, atol=1e-6)
    linear = itf.NetworkInNetwork(**options, spatial_squeeze=False, rectified_logits=False)
    linear.set_weights(dense.get_weights())
    assert np.allclose(np.maximum(linear.predict_on_batch(images), 0), maps, rtol=1e-5, atol=1e-6)


def test_width(shapes):
    """All widths but that of the last map, which is the number of classes; read off a checkpoint too."""
    found = shapes("nin", depth_multiplier=0.25, input_shape=(64, 64, 3))
    assert [found[f"mlpconv{i}"][-1] for i in (1, 2, 3, 4)] == [24, 64, 96, 256]
    assert found["Logits"] == (10,)
    least = shapes("nin", depth_multiplier=0.01, min_depth=4, input_shape=(64, 64, 3))
    assert [least[f"mlpconv{i}"][-1] for i in (1, 2, 3, 4)] == [4, 4, 4, 10]


def test_width_of_a_checkpoint(tmp_path):
    model = itf.NetworkInNetwork(layout="cifar10", depth_multiplier=0.25, convolutions_1x1=1, input_shape=(32, 32, 3))
    itf.save_slim(model, tmp_path / "nin.ckpt")
    found = itf.detect(tmp_path / "nin.ckpt")
    assert found.options == {"layout": "cifar10", "convolutions_1x1": 1, "depth_multiplier": 0.25}


def test_smallest_images(shapes):
    assert shapes("nin", input_shape=(11, 11, 1))["mlpconv4"] == (1, 1, 1024)
    with pytest.raises(UsageError, match="at least 11×11"):
        itf.NetworkInNetwork(input_shape=(10, 10, 3))
    with pytest.raises(ValueError, match="Computed output size"):
        shapes.build("nin", (10, 10, 3))


@pytest.mark.parametrize("options", [{"layout": "cifar"}, {"convolutions_1x1": -1}, {"convolutions_1x1": 1.5}])
def test_options_out_of_range(options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} must be"):
        itf.NetworkInNetwork(**options)


@pytest.mark.parametrize("fully_connected", [False, True])
def test_learns(fully_connected):
    """Two kinds of stripes, told apart after a few steps."""
    keras.utils.set_random_seed(1)
    labels = np.arange(64) % 2
    images = np.random.default_rng(0).normal(0, 0.3, (64, 16, 16, 1)).astype("float32")
    images[labels == 0, ::4] += 1
    images[labels == 1, :, ::4] += 1
    options = {"layout": "cifar10", "convolutions_1x1": 1, "rectified_logits": False, "input_shape": (16, 16, 1)}
    model = itf.NetworkInNetwork(classes=2, fully_connected=fully_connected, **options)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, batch_size=16, epochs=8, verbose=0)
    assert model.evaluate(images, labels, verbose=0)[1] > 0.95
