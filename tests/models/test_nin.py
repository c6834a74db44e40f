"""Network in Network, against the paper (arXiv 1312.4400) and its authors' Caffe networks."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError

CIFAR10 = {"layout": "cifar10", "input_shape": (32, 32, 3)}


@pytest.fixture
def parameters(meta):
    return lambda **options: meta("nin", **options).count_params()


@pytest.mark.parametrize("layout, channels", [("imagenet", [96, 256, 384]), ("cifar10", [96, 192])])
def test_number_of_1x1_convolutions(meta, shapes, parameters, layout, channels):
    """The feature maps keep their widths; only the layers between them come and go."""
    counts = []
    for number in range(4):
        options = {"layout": layout, "convolutions_1x1": number, "input_shape": (64, 64, 3)}
        found = shapes("nin", **options)
        assert [found[f"mlpconv{i + 1}"][-1] for i in range(len(channels))] == channels
        assert found["Logits"] == (10,)
        layers = meta("nin", **options)._flatten_layers()
        kernels = [layer.kernel_size for layer in layers if isinstance(layer, keras.layers.Conv2D)]
        assert sum(kernel == (1, 1) for kernel in kernels) == number * (len(channels) + 1)
        assert sum(kernel != (1, 1) for kernel in kernels) == len(channels) + 1
        counts.append(parameters(**options))
    assert counts[1] < counts[2] < counts[3]


def test_global_average_pooling_against_fully_connected(parameters):
    assert parameters(**CIFAR10, fully_connected=True) - parameters(**CIFAR10) == 8 * 8 * 10 * 10 + 10
    with pytest.raises(UsageError, match="fully_connected needs"):
        itf.NetworkInNetwork(layout="cifar10", fully_connected=True, input_shape=(None, None, 3))
    with pytest.raises(UsageError, match="fully_connected needs"):
        itf.NetworkInNetwork(**CIFAR10, fully_connected=True, spatial_squeeze=False)


def test_rectified_logits():
    options = {"layout": "cifar10", "input_shape": (40, 24, 3), "classifier_activation": None, "spatial_squeeze": False}
    rectified, linear = (itf.NetworkInNetwork(**options, rectified_logits=rectified) for rectified in (True, False))
    linear.set_weights(rectified.get_weights())
    images = np.random.default_rng(0).normal(size=(2, 40, 24, 3)).astype("float32")
    scores = np.asarray(rectified(images))
    assert scores.min() == 0 < scores.max()
    assert np.allclose(np.maximum(linear(images), 0), scores, rtol=1e-5, atol=1e-6)


def test_width_of_a_checkpoint(tmp_path):
    model = itf.NetworkInNetwork(layout="cifar10", depth_multiplier=0.25, convolutions_1x1=1, input_shape=(32, 32, 3))
    itf.save_slim(model, tmp_path / "nin.ckpt")
    found = itf.detect(tmp_path / "nin.ckpt")
    assert found.options == {"layout": "cifar10", "convolutions_1x1": 1, "depth_multiplier": 0.25}


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
    model.compile(keras.optimizers.Adam(0.001), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, batch_size=16, epochs=8, verbose=0)
    assert model.evaluate(images, labels, verbose=0)[1] > 0.95
