"""Inception-ResNet-v2: the twins of research/slim/nets/inception_resnet_v2_test.py; keras.applications beside it."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.slim.names import model_variables, specification

STEM = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_3a_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]


def test_end_points(shapes):
    found = shapes("inception_resnet_v2", aux_logits=True)
    units = {"Repeat": (35, 35, 320), "Repeat_1": (17, 17, 1088), "Repeat_2": (8, 8, 2080), "Block8": (8, 8, 2080)}
    assert {name: found.pop(name) for name in units} == units
    assert found == {
        "Conv2d_1a_3x3": (149, 149, 32),
        "Conv2d_2a_3x3": (147, 147, 32),
        "Conv2d_2b_3x3": (147, 147, 64),
        "MaxPool_3a_3x3": (73, 73, 64),
        "Conv2d_3b_1x1": (73, 73, 80),
        "Conv2d_4a_3x3": (71, 71, 192),
        "MaxPool_5a_3x3": (35, 35, 192),
        "Mixed_5b": (35, 35, 320),
        "Mixed_6a": (17, 17, 1088),
        "PreAuxLogits": (17, 17, 1088),
        "Mixed_7a": (8, 8, 2080),
        "Conv2d_7b_1x1": (8, 8, 1536),
        "AuxLogits": (1001,),
        "global_pool": (1, 1, 1536),
        "PreLogitsFlatten": (1536,),
        "Logits": (1001,),
        "Predictions": (1001,),
    }


def test_variables(slim_variables):
    facts = slim_variables("inception_resnet_v2")
    found = specification("inception_resnet_v2", aux_logits=True)
    assert {f"InceptionResnetV2/{name}": shape for name, shape in found.items()} == facts


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
    found = itf.feature_extractor(model, names).predict_on_batch(images)
    assert np.array_equal(found["Mixed_5b"], found["Repeat"])
    assert not np.array_equal(found["Mixed_6a"], found["Repeat_1"])
    assert np.array_equal(found["Mixed_7a"], found["Repeat_2"])


def test_auxiliary_head_is_as_large_as_its_map():
    for shape, kernel in (((150, 197, 3), (1, 2)), ((None, None, 3), (5, 5))):
        found = specification("inception_resnet_v2", aux_logits=True, input_shape=shape)
        assert found["AuxLogits/Conv2d_2a_5x5/weights"] == (*kernel, 128, 768)
    with pytest.raises(UsageError, match="below 5×5"):
        itf.InceptionResNetV2(aux_logits=True, input_shape=(100, 100, 3))


def test_smallest_images(shapes):
    assert shapes("inception_resnet_v2", input_shape=(75, 75, 3))["Conv2d_7b_1x1"] == (1, 1, 1536)
    with pytest.raises(UsageError, match="at least 75×75"):
        itf.InceptionResNetV2(input_shape=(75, 74, 3))
    with pytest.raises(ValueError):
        shapes.build("inception_resnet_v2", (75, 74, 3))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output_stride": 8}, "output_stride must be 16, or 8 with include_top=False"),
        ({"output_stride": 32, "include_top": False}, "output_stride must be 16, or 8"),
        ({"activation": "tanh"}, 'activation must be "relu" or "relu6"'),
        ({"activation_scales": (1, 2)}, "activation_scales are three factors"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        itf.InceptionResNetV2(**options)


@pytest.mark.slow
def test_keras_file(tmp_path):
    images = np.random.default_rng(0).uniform(-1, 1, (1, 75, 75, 3)).astype("float32")
    options = {"activation": "relu6", "activation_scales": (0.2, 0.1, 0.3), "align_feature_maps": True}
    model = itf.InceptionResNetV2(classes=3, input_shape=(75, 75, 3), **options)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(again.predict_on_batch(images), model.predict_on_batch(images))
    assert [v.path for v in again.weights] == [v.path for v in model.weights]


@pytest.mark.slow
def test_keras_applications(slim_variables):
    """keras.applications' network on random weights and statistics, loaded into ours, gives the same outputs."""
    rng = np.random.default_rng(0)
    theirs = keras.applications.InceptionResNetV2(weights=None, input_shape=(139, 107, 3), include_top=True)
    for variable in theirs.weights:
        if variable.path.endswith(("beta", "moving_mean", "bias")):
            variable.assign(rng.normal(0, 0.1, variable.shape))
        elif variable.path.endswith("moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))

    # Convolutions without a name are numbered in the order they were made, which is Slim's.
    layers = {layer.name: layer for layer in theirs.layers}
    numbered = sorted((n for n in layers if n.startswith("conv2d")), key=lambda n: int(f"0{n[7:]}"))
    norms = sorted((n for n in layers if n.startswith("batch_norm")), key=lambda n: int(f"0{n[20:]}"))
    pairs = iter(zip(numbered, norms, strict=True))

    def source(scope):
        """Their layers for our convolution: itself and its batch norm, or the one with a bias."""
        unit = scope.split("/")[-2] if "/" in scope else ""
        if scope == "Conv2d_7b_1x1":
            return layers["conv_7b"], layers["conv_7b_bn"]
        if unit.startswith("block"):
            return (layers[f"{unit}_conv"],)
        if unit == "Block8":
            return (layers["block8_10_conv"],)
        return tuple(layers[name] for name in next(pairs))

    ours = itf.InceptionResNetV2(classes=1000, input_shape=(139, 107, 3))
    variables = model_variables(ours)
    names = [name.removeprefix("InceptionResnetV2/") for name in slim_variables("inception_resnet_v2")]
    for name in names:
        scope, _, word = name.rpartition("/")
        if word != "weights" or "Logits" in name:
            continue
        conv, *norm = source(scope)
        values = {"weights": conv.kernel} | ({} if norm else {"biases": conv.bias})
        for layer in norm:
            values |= {f"BatchNorm/{w}": getattr(layer, w) for w in ("beta", "moving_mean", "moving_variance")}
        for own, value in values.items():
            variables.pop(f"{scope}/{own}").assign(value)
    variables.pop("Logits/Logits/weights").assign(layers["predictions"].kernel)
    variables.pop("Logits/Logits/biases").assign(layers["predictions"].bias)
    assert not variables

    images = rng.uniform(-1, 1, (2, 139, 107, 3)).astype("float32")
    pairs = {"Mixed_5b": "mixed_5b", "Mixed_6a": "mixed_6a", "Mixed_7a": "mixed_7a"}
    pairs |= {"Conv2d_7b_1x1": "conv_7b_ac", "global_pool": "avg_pool", "Predictions": "predictions"}
    found = itf.feature_extractor(ours, list(pairs)).predict_on_batch(images)
    expected = keras.Model(theirs.input, [layers[name].output for name in pairs.values()]).predict_on_batch(images)
    for name, value in zip(pairs, expected):
        difference = np.abs(found[name].reshape(value.shape) - value).max()
        assert difference < 1e-5 * np.abs(value).max(), name
