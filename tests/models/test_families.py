"""What holds for every one of Inception-v1 and v2, VGG, AlexNet, LeNet and Network in Network."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.models.registry import find_network
from inception_tf.slim.names import specification

SMALL = {
    "inception_v1": ("inception_v1", {"input_shape": (32, 40, 3)}),
    "inception_v2": ("inception_v2", {"input_shape": (32, 40, 3), "depth_multiplier": 0.1}),
    "inception_v2_plain": (
        "inception_v2",
        {"input_shape": (32, 40, 3), "depth_multiplier": 0.1, "use_separable_conv": False},
    ),
    "alexnet_v2": ("alexnet_v2", {}),
    "lenet": ("lenet", {}),
    "nin": ("nin", {"input_shape": (16, 16, 1)}),
    "nin_cifar10": ("nin", {"input_shape": (16, 16, 3), "layout": "cifar10", "fully_connected": True}),
    "vgg_16_trunk": ("vgg_16", {"input_shape": (32, 32, 3), "include_top": False}),
    "vgg_16": ("vgg_16", {}),
    "vgg_19": ("vgg_19", {}),
}
LARGE = {"alexnet_v2", "vgg_16", "vgg_19"}
DEEP = {"inception_v1", "inception_v2", "inception_v2_plain"}


def each(names, slow):
    """Runs a test on networks of SMALL."""
    marked = [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in names]
    return pytest.mark.parametrize("small", marked)


def create(small, **options):
    """A small model with 7 classes, whose batch norms and biases count."""
    keras.utils.set_random_seed(0)
    network, own = SMALL[small]
    model = itf.create_model(network, **{"classes": 7, **own, **options})
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.path.split("/")[-1] in ("moving_mean", "beta", "bias"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
        elif variable.path.split("/")[-1] == "moving_variance":
            variable.assign(rng.uniform(0.5, 1, variable.shape))
    return model


def images(model, batch=2):
    return np.random.default_rng(1).normal(size=(batch, *model.input_shape[1:])).astype("float32")


def assert_close(a, b, tolerance=1e-5):
    assert np.abs(np.asarray(a) - np.asarray(b)).max() <= tolerance * np.abs(np.asarray(b)).max()


@pytest.mark.parametrize("network", ["inception_v1", "inception_v2", "vgg_16", "vgg_19", "alexnet_v2"])
def test_variables(slim_variables, network):
    facts, scope = slim_variables(network), find_network(network).scope
    assert {f"{scope}/{name}": shape for name, shape in specification(network).items()} == facts


@each(SMALL, slow=LARGE)
def test_keras_round_trip(small, tmp_path):
    model = create(small)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [v.path for v in loaded.weights] == [v.path for v in model.weights]
    assert loaded.card == model.card
    assert list(itf.end_points(loaded)) == list(itf.end_points(model))
    batch = images(model)
    assert np.array_equal(loaded(batch), model(batch))


@each(SMALL, slow=LARGE)
def test_slim_round_trip(small, tmp_path):
    import tensorflow as tf

    model = create(small)
    names = itf.save_slim(model, tmp_path / "model.ckpt")
    network, options = SMALL[small]
    scope = model.card.scope
    reader = tf.train.load_checkpoint(str(tmp_path / "model.ckpt"))
    found = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
    own = {"classes": 7, **options}
    assert found == {f"{scope}/{name}": shape for name, shape in specification(network, **own).items()}
    assert sorted(found) == names
    given = {name: options[name] for name in ("input_shape", "include_top", "fully_connected") if name in options}
    again = itf.create_model(network, weights=tmp_path / "model.ckpt", **given)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))


@pytest.mark.parametrize(
    "network, channels, options",
    [
        ("inception_v1", 1024, {}),
        ("inception_v2", 1024, {}),
        ("vgg_16", 512, {}),
        ("vgg_19", 512, {}),
        ("alexnet_v2", 256, {}),
        ("lenet", 64, {}),
        ("nin", 1024, {}),
        ("nin", 192, {"layout": "cifar10"}),
    ],
)
def test_without_top(network, channels, options):
    with keras.StatelessScope(initialize_variables=False):
        for pooling, shape in (
            (None, (None, None, None, channels)),
            ("avg", (None, channels)),
            ("max", (None, channels)),
        ):
            model = itf.create_model(network, include_top=False, pooling=pooling, **options)
            assert model.output_shape == shape
            assert not any(name in itf.end_points(model) for name in ("Logits", "fc6", "fc3", "Predictions"))
    with pytest.raises(UsageError, match="pooling must be"):
        itf.create_model(network, include_top=False, pooling="mean")


@each(SMALL, slow=LARGE | DEEP)
def test_mixed_precision(small):
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        mixed = create(small)
    finally:
        keras.config.set_dtype_policy(policy)
    model = create(small)
    mixed.set_weights(model.get_weights())
    assert all(v.dtype == "float32" for v in mixed.weights)
    assert_close(keras.ops.cast(mixed(images(model)), "float32"), model(images(model)), 0.1)
    if SMALL[small][1].get("include_top", True):
        assert mixed.output.dtype == "float32"


@each(SMALL, slow=LARGE | DEEP)
def test_xla(small):
    import tensorflow as tf

    model = create(small)
    compiled = tf.function(model, jit_compile=True)
    batch = images(model)
    assert_close(compiled(batch), model(batch))


@each(["inception_v1", "inception_v2", "alexnet_v2", "lenet", "nin"], slow=DEEP)
def test_trains(small):
    """Every weight gets a gradient, dropout and batch norm do their work in training alone."""
    model = create(small, classes=3)
    model.compile(keras.optimizers.SGD(1e-4), "sparse_categorical_crossentropy")
    batch = images(model, 4)
    before = model.get_weights()
    assert np.array_equal(model(batch), model(batch)) and not np.array_equal(model(batch, training=True), model(batch))
    model.train_on_batch(batch, np.array([0, 1, 2, 0]))
    paths = [v.path for v in model.weights]
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights())]
    # A few weights may sit behind rectifiers that are all zero on these images.
    assert sum(moved) > 0.9 * len(moved), [path for path, m in zip(paths, moved) if not m]
