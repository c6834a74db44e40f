import keras
import numpy as np
import pytest

from inception_tf.models.initialization import drawn_on_host, meta_init, skip_init
from inception_tf.zoo import create_model


class Counting(keras.initializers.Zeros):
    """An initializer that counts what it fills."""

    filled = 0

    def __call__(self, *args, **kwargs):
        Counting.filled += 1
        return super().__call__(*args, **kwargs)


def dense():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, kernel_initializer=Counting())])


@pytest.mark.parametrize("nested", [False, True])
def test_nothing_is_ever_filled(nested):
    Counting.filled = 0
    with meta_init():
        model = dense()
        if nested:
            with meta_init():
                dense()
    assert model.count_params() == 16 and model.weights[0].path.endswith("kernel")
    dense()  # Keras builds it in scopes of its own, at whose end it fills what waits
    assert Counting.filled == 1


def test_after_a_failure_too():
    Counting.filled = 0
    with pytest.raises(RuntimeError), meta_init():
        dense()
        raise RuntimeError
    dense()
    assert Counting.filled == 1


@pytest.mark.parametrize("all_loaded", [True, False])
def test_kernels_that_are_loaded_next(all_loaded):
    with skip_init(all_loaded):
        model = create_model("inception_v3", depth_multiplier=0.1, include_top=False)
    kernels = [weight for weight in model.weights if weight.name == "kernel"]
    assert len(kernels) == 94 and all(keras.ops.any(kernel != 0) != all_loaded for kernel in kernels)
    layer = model.get_layer("Conv2d_1a_3x3")
    assert isinstance(layer.kernel_initializer, keras.initializers.HeNormal)
    assert keras.ops.any(type(layer).from_config(layer.get_config())(keras.ops.ones((1, 9, 9, 3))) != 0)


@pytest.mark.parametrize(
    "initializer",
    [
        "he_normal",
        "glorot_uniform",
        "lecun_uniform",
        "ones",
        {"class_name": "TruncatedNormal", "config": {"stddev": 0.01, "mean": 0.02}},
        {"class_name": "VarianceScaling", "config": {"mode": "fan_out", "distribution": "untruncated_normal"}},
        {"class_name": "RandomUniform", "config": {"maxval": 0.2}},  # Keras's own draw
    ],
)
def test_weights_drawn_on_the_host_are_distributed_as_keras_draws_them(initializer):
    def kernel(seed):
        keras.utils.set_random_seed(seed)
        with drawn_on_host():
            layer = keras.layers.Conv2D(64, (3, 5), kernel_initializer=initializer)
            layer.build((None, 9, 9, 64))
        return keras.ops.convert_to_numpy(layer.kernel)

    drawn = kernel(1)
    theirs = keras.ops.convert_to_numpy(keras.initializers.get(initializer)(drawn.shape))
    points = np.linspace(0, 1, 41)
    spread = np.ptp(theirs) or 1
    assert np.abs(np.quantile(drawn, points) - np.quantile(theirs, points))[1:-1].max() < 0.01 * spread
    assert (
        abs(np.ptp(drawn) / spread - 1) < (0.2 if "untruncated" in str(initializer) else 0.01) or initializer == "ones"
    )
    assert np.array_equal(drawn, kernel(1))
    assert initializer == "ones" or not np.array_equal(drawn, kernel(2))


def test_an_initializer_of_ones_own_is_called():
    Counting.filled = 0
    with drawn_on_host():
        dense()
    assert Counting.filled == 1
    with meta_init(), drawn_on_host():
        dense()
    assert Counting.filled == 1
