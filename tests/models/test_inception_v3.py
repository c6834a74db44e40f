"""Inception-v3: the twins of tf_slim/nets/inception_v3_test.py, and keras.applications' network on the same weights."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.models.model import end_points
from inception_tf.slim.golden import deterministic_images, deterministic_weights
from inception_tf.slim.names import model_variables

BASE = {
    "Conv2d_1a_3x3": (149, 149, 32),
    "Conv2d_2a_3x3": (147, 147, 32),
    "Conv2d_2b_3x3": (147, 147, 64),
    "MaxPool_3a_3x3": (73, 73, 64),
    "Conv2d_3b_1x1": (73, 73, 80),
    "Conv2d_4a_3x3": (71, 71, 192),
    "MaxPool_5a_3x3": (35, 35, 192),
    "Mixed_5b": (35, 35, 256),
    "Mixed_5c": (35, 35, 288),
    "Mixed_5d": (35, 35, 288),
    "Mixed_6a": (17, 17, 768),
    "Mixed_6b": (17, 17, 768),
    "Mixed_6c": (17, 17, 768),
    "Mixed_6d": (17, 17, 768),
    "Mixed_6e": (17, 17, 768),
    "Mixed_7a": (8, 8, 1280),
    "Mixed_7b": (8, 8, 2048),
    "Mixed_7c": (8, 8, 2048),
}
# AuxLogits: two convolutions with batch norm (beta and two averages), one with a bias.
AUX = 768 * 128 + 3 * 128 + 25 * 128 * 768 + 3 * 768 + 768 * 1001 + 1001
SMALL = {"depth_multiplier": 0.1, "classes": 5}


def outputs(model, images):
    """A model's outputs as arrays, without the time that compiling it takes."""
    return keras.tree.map_structure(np.asarray, model(images, training=False))


@pytest.fixture(scope="module")
def small():
    """A small Inception-v3 with its auxiliary head, of deterministic weights, for images of any size."""
    model = itf.InceptionV3(**SMALL, aux_logits=True, input_shape=(None, None, 3))
    for name, variable in model_variables(model).items():
        variable.assign(deterministic_weights(name, variable.shape))
    return model


def test_build_classification_network(shapes):
    found = shapes("inception_v3", classes=1000)
    assert found["Logits"] == found["Predictions"] == (1000,)


def test_build_base_network_and_all_end_points(shapes):
    assert shapes("inception_v3", include_top=False, input_shape=(299, 299, 3)) == BASE
    names = ["AuxLogits", "PreLogits", "Logits", "Predictions"]
    found = shapes("inception_v3", aux_logits=True)
    assert set(found) == {*BASE, *names} and {name: found[name] for name in BASE} == BASE


def test_build_only_up_to_a_final_end_point(small):
    for i, name in enumerate(BASE):
        model = itf.feature_extractor(small, name)
        assert [layer.name for layer in model.layers[1:]] == list(BASE)[: i + 1]


def test_expected_number_of_parameters():
    with keras.StatelessScope(initialize_variables=False):
        base = itf.InceptionV3(include_top=False)
        whole = itf.InceptionV3(aux_logits=True, classes=1001)
    # As Slim's model_analyzer counts, the moving averages of batch norm among them.
    assert base.count_params() == 21_802_784
    assert sum(np.prod(v.shape, dtype=int) for v in base.trainable_variables) == 21_768_352
    assert whole.count_params() == 21_802_784 + 2048 * 1001 + 1001 + AUX


def test_end_points_of_the_heads(shapes):
    found = shapes("inception_v3", classes=1000, aux_logits=True)
    assert found["Logits"] == found["AuxLogits"] == (1000,)
    assert found["Mixed_7c"] == (8, 8, 2048) and found["PreLogits"] == (1, 1, 2048)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_depth_multiplier(shapes, factor):
    found = shapes("inception_v3", depth_multiplier=factor)
    assert {name: found[name][2] for name in BASE} == {name: factor * shape[2] for name, shape in BASE.items()}


@pytest.mark.parametrize("factor", [-0.1, 0.0, float("nan")])
def test_invalid_depth_multiplier(factor):
    with pytest.raises(UsageError, match="depth_multiplier must be greater than zero. Received"):
        itf.InceptionV3(depth_multiplier=factor)


def test_half_size_images(shapes):
    found = shapes("inception_v3", classes=1000, input_shape=(150, 150, 3))
    assert found["Logits"] == (1000,) and found["Mixed_7c"] == (3, 3, 2048)


def test_unknown_image_shape(shapes, small):
    found = shapes("inception_v3", classes=1000, input_shape=(None, None, 3))
    assert found["Logits"] == (1000,) and found["Mixed_7c"] == (None, None, 2048)
    features = itf.feature_extractor(small, "Mixed_7c")
    assert outputs(features, np.zeros((2, 299, 299, 3))).shape == (2, 8, 8, 203)


def test_unknown_batch_size(small):
    assert small.output.shape == (None, 5)
    for batch in (1, 3):
        assert outputs(small, np.zeros((batch, 299, 299, 3))).shape == (batch, 5)


def test_training_then_evaluation(small):
    """Training normalises by the batch and moves the averages; evaluation after it uses them."""
    model = keras.models.clone_model(small)
    model.set_weights(small.get_weights())
    images = deterministic_images(5, 150, 150)
    before = model(images, training=False).numpy()
    trained = model(images, training=True).numpy()
    after = model(images, training=False).numpy()
    assert trained.shape == after.shape == (5, 5)
    assert not np.allclose(before, trained) and not np.array_equal(before, after)
    moved = [not np.array_equal(a, b) for a, b in zip(model.non_trainable_weights, small.non_trainable_weights)]
    assert np.mean(moved) > 0.9  # all but the seeds of dropout


def test_logits_not_squeezed(shapes):
    assert shapes("inception_v3", classes=25, spatial_squeeze=False)["Logits"] == (1, 1, 25)
    assert shapes("inception_v3", classes=25, spatial_squeeze=False, input_shape=(512, 512, 3))["Logits"] == (4, 4, 25)


@pytest.mark.parametrize("size", [(75, 75), (139, 139), (320, 240), (512, 512)])
def test_sizes(small, size):
    """A model of any size gives what a model of that size gives."""
    fixed = itf.InceptionV3(**SMALL, input_shape=(*size, 3))
    ours, variables = model_variables(small), model_variables(fixed)
    for name, variable in variables.items():
        variable.assign(ours[name])
    images = deterministic_images(2, *size)
    scores = outputs(fixed, images)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    logits = itf.feature_extractor(small, "Mixed_7c")
    expected = outputs(itf.feature_extractor(fixed, "Mixed_7c"), images)
    np.testing.assert_allclose(outputs(logits, images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "size, kernel",
    [
        ((107, 107), "1x1"),
        ((139, 139), "1x1"),
        ((160, 160), "2x2"),
        ((224, 224), "3x3"),
        ((299, 170), "5x2"),
        ((512, 512), "5x5"),
    ],
)
def test_the_auxiliary_head_is_named_after_its_map(size, kernel):
    with keras.StatelessScope(initialize_variables=False):
        model = itf.InceptionV3(**SMALL, aux_logits=True, input_shape=(*size, 3))
        names = {name.split("/")[1] for name in model_variables(model) if name.startswith("AuxLogits/")}
        assert names == {"Conv2d_1b_1x1", f"Conv2d_2a_{kernel}", "Conv2d_2b_1x1"}
        assert end_points(model)["AuxLogits"].shape == (None, 5)


def test_the_auxiliary_head_in_a_model_for_any_size(small):
    """It is that of 299×299 images; smaller ones have the model's output all the same."""
    fixed = itf.InceptionV3(**SMALL, aux_logits=True)
    fixed.set_weights(small.get_weights())
    images = deterministic_images(1, 299, 299)
    points = [outputs(itf.feature_extractor(model, ["AuxLogits"]), images)["AuxLogits"] for model in (small, fixed)]
    np.testing.assert_array_equal(*points)
    assert outputs(small, images[:, :90, :200]).shape == (1, 5)
    assert outputs(small, deterministic_images(1, 500, 99)).shape == (1, 5)


def test_images_too_small():
    with pytest.raises(UsageError, match=r"at least 75×75. Received: input_shape=\(74, 299, 3\)"):
        itf.InceptionV3(input_shape=(74, 299, 3))
    with pytest.raises(UsageError, match="aux_logits needs larger images: the head.s map is 4×4, below 5×5"):
        itf.InceptionV3(input_shape=(106, 106, 3), aux_logits=True)
    with keras.StatelessScope(initialize_variables=False):
        assert itf.InceptionV3(input_shape=(106, 106, 3)).output.shape == (None, 1001)


def test_channels():
    with keras.StatelessScope(initialize_variables=False):
        model = itf.InceptionV3(**SMALL, input_shape=(299, 299, 4))
        assert model.get_layer("Conv2d_1a_3x3").kernel.shape == (3, 3, 4, 16)


@pytest.mark.parametrize("pooling, shape", [(None, (None, None, 203)), ("avg", (203,)), ("max", (203,))])
def test_without_the_top(small, pooling, shape):
    model = itf.InceptionV3(include_top=False, depth_multiplier=0.1, pooling=pooling)
    assert model.output.shape[1:] == shape
    ours = model_variables(small)
    for name, variable in model_variables(model).items():
        variable.assign(ours[name])
    images = deterministic_images(2, 160, 139)
    maps = outputs(itf.feature_extractor(small, "Mixed_7c"), images)
    expected = {None: maps, "avg": maps.mean((1, 2)), "max": maps.max((1, 2))}[pooling]
    np.testing.assert_allclose(outputs(model, images), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_heads_are_slims_of_a_large_image(small):
    """PreLogits is the mean of Mixed_7c, and the logits its product with the 1×1 convolution, written out."""
    images = deterministic_images(2, 320, 240)
    points = outputs(itf.feature_extractor(small, ["Mixed_7c", "PreLogits", "Logits", "Predictions"]), images)
    pooled = points["Mixed_7c"].mean((1, 2))
    np.testing.assert_allclose(points["PreLogits"][:, 0, 0], pooled, rtol=1e-4, atol=1e-5 * np.abs(pooled).max())
    weights = {name: variable.numpy() for name, variable in model_variables(small).items()}
    logits = pooled @ weights["Logits/Conv2d_1c_1x1/weights"][0, 0] + weights["Logits/Conv2d_1c_1x1/biases"]
    np.testing.assert_allclose(points["Logits"], logits, rtol=1e-4, atol=1e-5 * np.abs(logits).max())
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(points["Predictions"], exp / exp.sum(-1, keepdims=True), rtol=1e-3, atol=1e-6)


def test_keras_applications_on_the_same_weights():
    """Keras's own Inception-v3 (batch norm without gamma too, a dense head) computes the same."""
    theirs = keras.applications.InceptionV3(weights=None, classes=7, input_shape=(139, 151, 3))
    ours = itf.InceptionV3(classes=7, input_shape=(139, 151, 3))
    rng = np.random.default_rng(0)
    convolutions = [layer for layer in theirs.layers if isinstance(layer, keras.layers.Conv2D)]
    norms = [layer for layer in theirs.layers if isinstance(layer, keras.layers.BatchNormalization)]
    # Keras numbers its layers in the order it makes them, on from those made before: conv2d, conv2d_1, …
    for layers in (convolutions, norms):
        layers.sort(key=lambda layer: int(number) if (number := layer.name.rpartition("_")[2]).isdigit() else 0)
    for conv, norm in zip(convolutions, norms, strict=True):
        fan_in = np.prod(conv.kernel.shape[:3])
        conv.kernel.assign(rng.normal(0, np.sqrt(2 / fan_in), conv.kernel.shape))
        norm.beta.assign(rng.normal(0, 0.1, norm.beta.shape))
        norm.moving_mean.assign(rng.normal(0, 0.1, norm.beta.shape))
        norm.moving_variance.assign(rng.uniform(0.5, 1.5, norm.beta.shape))
    values = {}
    for slim, conv, norm in zip(KERAS_ORDER, convolutions, norms, strict=True):
        values[f"{slim}/weights"] = conv.kernel
        for word in ("beta", "moving_mean", "moving_variance"):
            values[f"{slim}/BatchNorm/{word}"] = getattr(norm, word)
    kernel, bias = theirs.layers[-1].kernel, theirs.layers[-1].bias
    values["Logits/Conv2d_1c_1x1/weights"] = keras.ops.reshape(kernel, (1, 1, 2048, 7))
    values["Logits/Conv2d_1c_1x1/biases"] = bias
    variables = model_variables(ours)
    assert set(variables) == set(values)
    for name, variable in variables.items():
        variable.assign(values[name])
    images = deterministic_images(2, 139, 151)
    mixed = keras.Model(theirs.input, [theirs.get_layer(f"mixed{i}").output for i in range(11)] + [theirs.output])
    names = [name for name in BASE if name.startswith("Mixed")] + ["Predictions"]
    features = outputs(itf.feature_extractor(ours, names), images)
    for name, expected in zip(names, outputs(mixed, images), strict=True):
        difference = np.abs(features[name] - expected).max() / np.abs(expected).max()
        assert difference < 1e-5, (name, difference)


def keras_order():
    """The scopes of Inception-v3's convolutions in the order in which keras.applications/inception_v3.py makes them."""
    yield from ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
    for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        first, second = ("0b_1x1", "Conv_1_0c_5x5") if block == "Mixed_5c" else ("0a_1x1", "Conv2d_0b_5x5")
        names = ["Branch_0/Conv2d_0a_1x1", f"Branch_1/Conv2d_{first}", f"Branch_1/{second}", "Branch_2/Conv2d_0a_1x1"]
        names += ["Branch_2/Conv2d_0b_3x3", "Branch_2/Conv2d_0c_3x3", "Branch_3/Conv2d_0b_1x1"]
        yield from (f"{block}/{name}" for name in names)
    names = ["Branch_0/Conv2d_1a_1x1", "Branch_1/Conv2d_0a_1x1", "Branch_1/Conv2d_0b_3x3", "Branch_1/Conv2d_1a_1x1"]
    yield from (f"Mixed_6a/{name}" for name in names)
    for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        names = ["Branch_0/Conv2d_0a_1x1", *(f"Branch_1/Conv2d_{n}" for n in ("0a_1x1", "0b_1x7", "0c_7x1"))]
        names += [f"Branch_2/Conv2d_{n}" for n in ("0a_1x1", "0b_7x1", "0c_1x7", "0d_7x1", "0e_1x7")]
        yield from (f"{block}/{name}" for name in [*names, "Branch_3/Conv2d_0b_1x1"])
    names = ["Branch_0/Conv2d_0a_1x1", "Branch_0/Conv2d_1a_3x3"]
    names += [f"Branch_1/Conv2d_{n}" for n in ("0a_1x1", "0b_1x7", "0c_7x1", "1a_3x3")]
    yield from (f"Mixed_7a/{name}" for name in names)
    for block, tall in (("Mixed_7b", "0b_3x1"), ("Mixed_7c", "0c_3x1")):
        names = ["Branch_0/Conv2d_0a_1x1", *(f"Branch_1/Conv2d_{n}" for n in ("0a_1x1", "0b_1x3", tall))]
        names += [f"Branch_2/Conv2d_{n}" for n in ("0a_1x1", "0b_3x3", "0c_1x3", "0d_3x1")]
        yield from (f"{block}/{name}" for name in [*names, "Branch_3/Conv2d_0b_1x1"])


KERAS_ORDER = list(keras_order())
