"""Facts of the Inception networks alone, with the twins of Slim's unit tests; keras.applications beside two of them."""

import keras
import numpy as np
import pytest
from run_networks import relative

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.models.model import end_points
from inception_tf.models.registry import find_network
from inception_tf.slim.golden import deterministic_images, deterministic_weights
from inception_tf.slim.names import model_variables, specification

SMALL = {"depth_multiplier": 0.1, "classes": 5}
STEM = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_3a_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]


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


def test_first_convolution():
    def first(**options):
        shapes = specification("inception_v2", **options)
        return {name.removeprefix("Conv2d_1a_7x7/"): shapes[name] for name in shapes if name.startswith("Conv2d_1a")}

    depthwise, pointwise = (7, 7, 3, 8), (1, 1, 24, 64)
    assert first() == {"depthwise_weights": depthwise, "pointwise_weights": pointwise, "biases": (64,)}
    norm = {f"BatchNorm/{word}": (64,) for word in ("beta", "moving_mean", "moving_variance")}
    assert first(use_separable_conv=False) == {"weights": (7, 7, 3, 64), **norm}
    # Of narrow networks no more depthwise filters than there are output channels.
    assert first(depth_multiplier=0.25)["depthwise_weights"] == (7, 7, 3, 5)
    shapes = specification("inception_v3", **SMALL, input_shape=(299, 299, 4))
    assert shapes["Conv2d_1a_3x3/weights"] == (3, 3, 4, 16)


def test_build_only_up_to_a_final_end_point(small):
    names = [name for name in end_points(small) if not name.endswith(("Logits", "Predictions"))]
    assert len(names) == 19
    for i, name in enumerate(names):
        model = itf.feature_extractor(small, name)
        assert [layer.name for layer in model.layers[1:]] == names[: i + 1]


@pytest.mark.parametrize("size", [(75, 75), (320, 240), (512, 512)])
def test_sizes(small, size):
    """A model of any size gives what a model of that size gives; heads are global where Slim's pooling is too small."""
    fixed = itf.InceptionV3(**SMALL, input_shape=(*size, 3))
    ours = model_variables(small)
    for name, variable in model_variables(fixed).items():
        variable.assign(ours[name])
    images = deterministic_images(2, *size)
    names = ["Mixed_7c", "PreLogits", "Logits", "Predictions"]
    points, expected = (outputs(itf.feature_extractor(model, names), images) for model in (small, fixed))
    assert all(relative(points[name], expected[name]) < 1e-4 for name in names)
    # PreLogits is the mean of Mixed_7c, and the logits its product with the 1×1 convolution, written out.
    pooled = points["Mixed_7c"].mean((1, 2))
    assert relative(points["PreLogits"][:, 0, 0], pooled) < 1e-4
    weights = {word: ours[f"Logits/Conv2d_1c_1x1/{word}"].numpy() for word in ("weights", "biases")}
    logits = pooled @ weights["weights"][0, 0] + weights["biases"]
    assert relative(points["Logits"], logits) < 1e-4
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(points["Predictions"], exp / exp.sum(-1, keepdims=True), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "network, size, kernel",
    [
        *(("inception_v3", (side, side), (k, k)) for side, k in ((107, 1), (139, 1), (160, 2), (224, 3), (512, 5))),
        ("inception_v3", (299, 170), (5, 2)),
        ("inception_v4", (448, 197), (8, 2)),
        ("inception_resnet_v2", (150, 197), (1, 2)),
        *((network, (None, None), (5, 5)) for network in ("inception_v3", "inception_v4", "inception_resnet_v2")),
    ],
)
def test_the_auxiliary_head_is_as_large_as_its_feature_map(network, size, kernel):
    """In Inception-v3 it is also named after it."""
    found = specification(network, aux_logits=True, input_shape=(*size, 3))
    words = {"inception_v3": f"{kernel[0]}x{kernel[1]}", "inception_resnet_v2": "5x5"}
    name = "_".join(filter(None, ["Conv2d_2a", words.get(network)]))
    assert found[f"AuxLogits/{name}/weights"] == (*kernel, 128, 768)
    convolutions = {scope.split("/")[1] for scope in found if scope.startswith("AuxLogits/")}
    assert len(convolutions) == 3 and name in convolutions
    if network == "inception_v3":
        assert convolutions == {"Conv2d_1b_1x1", name, "Conv2d_2b_1x1"}


@pytest.mark.parametrize("network, side", [("inception_v3", 106), ("inception_v4", 100), ("inception_resnet_v2", 100)])
def test_images_too_small_for_the_auxiliary_head(meta, network, side):
    with pytest.raises(UsageError, match="feature map is 4×4, below 5×5"):
        itf.create_model(network, input_shape=(side, side, 3), aux_logits=True)
    assert meta(network, input_shape=(side, side, 3)).output_shape == (None, 1001)


def test_the_auxiliary_head_in_a_model_for_any_size(small):
    """It is that of 299×299 images; smaller ones have the model's output all the same."""
    fixed = itf.InceptionV3(**SMALL, aux_logits=True)
    fixed.set_weights(small.get_weights())
    images = deterministic_images(1, 299, 299)
    np.testing.assert_array_equal(*(outputs(itf.feature_extractor(m, "AuxLogits"), images) for m in (small, fixed)))
    assert outputs(small, images[:, :90, :200]).shape == (1, 5)
    assert outputs(small, deterministic_images(1, 500, 99)).shape == (1, 5)


def test_no_auxiliary_head():
    with pytest.raises(UsageError, match="aux_logits"):
        itf.create_model("inception_v1", aux_logits=True)


# testBuildEndPointsWithAlignFeatureMaps, …WithAlignedFeatureMapsAndOutputStride8 and …WithOutputStride8.
@pytest.mark.parametrize(
    "output_stride, align, sides, last",
    [
        (16, True, [150, 150, 150, 75, 75, 75, 38, 38, 19, 19], ("Conv2d_7b_1x1", 10, 1536)),
        (8, True, [150, 150, 150, 75, 75, 75, 38, 38, 38, 38], ("PreAuxLogits", 38, 1088)),
        (8, False, [149, 147, 147, 73, 73, 71, 35, 35, 33, 33], ("PreAuxLogits", 33, 1088)),
    ],
)
def test_output_stride(shapes, output_stride, align, sides, last):
    options = {"include_top": False, "output_stride": output_stride, "align_feature_maps": align}
    found = shapes("inception_resnet_v2", input_shape=(299, 299, 3), **options)
    names = [*STEM, "MaxPool_5a_3x3", "Mixed_5b", "Mixed_6a", "PreAuxLogits"]
    assert [found[name][0] for name in names] == sides
    assert list(found)[-1] == last[0] and found[last[0]] == (last[1], last[1], last[2])


@pytest.mark.slow
def test_scales():
    """A residual of scale 0 leaves its input, which is not below 0, as it is."""
    images = np.random.default_rng(0).uniform(-1, 1, (1, 75, 75, 3)).astype("float32")
    model = itf.InceptionResNetV2(include_top=False, activation_scales=(0, 0.1, 0))
    names = ["Mixed_5b", "Repeat", "Mixed_6a", "Repeat_1", "Mixed_7a", "Repeat_2"]
    found = outputs(itf.feature_extractor(model, names), images)
    assert np.array_equal(found["Mixed_5b"], found["Repeat"])
    assert not np.array_equal(found["Mixed_6a"], found["Repeat_1"])
    assert np.array_equal(found["Mixed_7a"], found["Repeat_2"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output_stride": 8}, "output_stride must be 16, or 8 with include_top=False"),
        ({"output_stride": 32, "include_top": False}, "output_stride must be 16, or 8"),
        ({"activation": "tanh"}, 'activation must be "relu" or "relu6"'),
        ({"activation_scales": (1, 2)}, "activation_scales"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        itf.InceptionResNetV2(**options)


# keras.applications' layers by our end points.
MIXED = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]
THEIRS = {
    "inception_v3": {**{f"Mixed_{block}": f"mixed{i}" for i, block in enumerate(MIXED)}, "Predictions": "predictions"},
    "inception_resnet_v2": {
        **{f"Mixed_{block}": f"mixed_{block}" for block in ("5b", "6a", "7a")},
        **{"Conv2d_7b_1x1": "conv_7b_ac", "global_pool": "avg_pool", "Predictions": "predictions"},
    },
}


@pytest.mark.parametrize("network", ["inception_v3", pytest.param("inception_resnet_v2", marks=pytest.mark.slow)])
def test_keras_applications(slim_variables, network):
    """keras.applications' network on random weights and statistics, loaded into ours, gives the same outputs."""
    keras.utils.set_random_seed(0)
    info, rng, shape = find_network(network), np.random.default_rng(0), (139, 151, 3)
    theirs = getattr(keras.applications, info.build.__name__)(weights=None, classes=1000, input_shape=shape)
    for variable in theirs.weights:
        if variable.path.endswith(("beta", "moving_mean", "bias")):
            variable.assign(rng.normal(0, 0.1, variable.shape))
        elif variable.path.endswith("moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))

    layers = {layer.name: layer for layer in theirs.layers}

    def in_order(kind):
        """Their layers without a name of their own, numbered on from those of models before, in Slim's order."""
        numbers = {name.removeprefix(kind).removeprefix("_"): layers[name] for name in layers if name.startswith(kind)}
        return [numbers[number] for number in sorted(numbers, key=lambda number: int(number or 0))]

    pairs = zip(in_order("conv2d"), in_order("batch_normalization"), strict=True)

    def source(scope):
        """Their layers for our convolution: itself and its batch norm, or the one with a bias."""
        unit = scope.split("/")[-2] if "/" in scope else ""
        if scope == "Conv2d_7b_1x1":
            return layers["conv_7b"], layers["conv_7b_bn"]
        if unit.startswith("block"):
            return (layers[f"{unit}_conv"],)
        return (layers["block8_10_conv"],) if unit == "Block8" else next(pairs)

    ours = itf.create_model(network, classes=1000, input_shape=shape)
    variables = model_variables(ours)
    for name in slim_variables(network):
        scope, _, word = name.removeprefix(f"{info.scope}/").rpartition("/")
        if word != "weights" or "Logits" in name:
            continue
        conv, *norms = source(scope)
        values = {"weights": conv.kernel} | ({} if norms else {"biases": conv.bias})
        for norm in norms:
            values |= {f"BatchNorm/{w}": getattr(norm, w) for w in ("beta", "moving_mean", "moving_variance")}
        for own, value in values.items():
            variables.pop(f"{scope}/{own}").assign(value)
    assert next(pairs, None) is None and {name.split("/")[0] for name in variables} == {"Logits"}
    for name, variable in variables.items():
        own = layers["predictions"].kernel if name.endswith("weights") else layers["predictions"].bias
        variable.assign(keras.ops.reshape(own, variable.shape))

    images, names = deterministic_images(2, *shape[:2]), THEIRS[network]
    found = outputs(itf.feature_extractor(ours, list(names)), images)
    expected = outputs(keras.Model(theirs.input, [layers[name].output for name in names.values()]), images)
    for name, value in zip(names, expected, strict=True):
        assert relative(found[name].reshape(value.shape), value) < 1e-5, name
