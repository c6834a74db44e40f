import inspect

import pytest

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.models.initialization import meta_init
from inception_tf.models.registry import find_network, networks

SMALL = {"depth_multiplier": 0.1, "classes": 5}


def test_lists_by_wildcard():
    assert itf.list_models() == sorted(networks())
    assert "inception_v3" in itf.list_models("inception*") and "vgg_16" not in itf.list_models("inception*")
    assert itf.list_models("no_such*") == []


def test_a_networks_signature():
    names = list(inspect.signature(itf.InceptionV3).parameters)
    assert names == [
        "include_top", "weights", "input_shape", "pooling", "classes", "classifier_activation", "dropout",
        "aux_logits", "depth_multiplier", "min_depth", "spatial_squeeze", "head_blocks", "name",
        "batch_norm", "batch_norm_scale", "batch_norm_epsilon", "batch_norm_decay",
    ]  # fmt: skip
    defaults = {name: p.default for name, p in inspect.signature(itf.InceptionV3).parameters.items()}
    assert (defaults["classes"], defaults["dropout"], defaults["weights"]) == (1001, 0.2, None)
    assert "Raises:" in itf.InceptionV3.__doc__ and "299×299" in itf.InceptionV3.__doc__


@pytest.mark.parametrize("network", networks())
def test_every_network_keeps_the_conventions(network):
    info = find_network(network)
    assert info.name == network
    parameters = list(inspect.signature(getattr(itf, info.build.__name__)).parameters)
    parameters = [name for name in parameters if not name.startswith("batch_norm")]
    assert parameters[:3] == ["include_top", "weights", "input_shape"] and parameters[-1] == "name"
    assert {"pooling", "classes", "classifier_activation"} <= set(parameters)


def test_defaults_of_the_model(meta):
    model, backbone = meta("inception_v3"), meta("inception_v3", include_top=False)
    assert model.input_shape == (None, 299, 299, 3) and model.output_shape == (None, 1001)
    assert backbone.input_shape == (None, None, None, 3)
    assert model.name == "InceptionV3" and model.card.scope == "InceptionV3"
    assert model.card.preprocessing == {"kind": "inception", "size": [299, 299], "channels": 3}
    assert model.get_layer("PreLogits").layers[0].rate == 0.2
    norm = model.get_layer("Conv2d_1a_3x3").batch_norm
    assert (norm.momentum, norm.epsilon, norm.scale, norm.center) == (0.9997, 1e-3, False, True)


def test_positions_and_names():
    with meta_init():
        assert itf.InceptionV3(False, None, (None, 299, 3)).input_shape == (None, None, 299, 3)
        assert itf.create_model("inception_v3", name="mine", **SMALL).name == "mine"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"classes": 0}, "classes must be a whole number of at least 1. Received: classes=0"),
        ({"classes": 5.0}, "classes must be a whole number"),
        ({"classes": "5"}, "classes must be a whole number"),
        ({"pooling": "mean", "include_top": False}, "pooling must be None, .avg. or .max.. Received: pooling='mean'"),
        ({"dropout": 1.0}, "dropout must be a rate of at least 0 and below 1"),
        ({"dropout": None}, "dropout must be a rate"),
        *(
            ({"depth_multiplier": x}, "depth_multiplier must be greater than zero")
            for x in ("1", -0.1, 0.0, float("nan"))
        ),
        ({"min_depth": 0}, "min_depth must be a whole number"),
        (
            {"input_shape": (299, 299)},
            r"input_shape is \(height, width, channels\). Received: input_shape=\(299, 299\)",
        ),
        ({"input_shape": 299}, "input_shape is"),
        ({"input_shape": (299, 299, None)}, "The number of channels must be known"),
        ({"input_shape": (299, 299, 0)}, "The number of channels must be known"),
        ({"input_shape": (74, None, 3)}, "inception_v3 needs images of at least 75×75"),
        ({"clases": 5}, r"has no option clases \(did you mean classes\?\). It has: include_top, weights"),
        ({"in_chans": 1}, r"has no option in_chans \(instead: input_shape=\(height, width, channels\)"),
        ({"global_pool": "avg", "foo": 1}, r"global_pool \(instead: pooling=.avg.*\), foo. It has"),
        ({"num_classes": 5, "classes": 6}, "Two words for one option. Received: .*classes=6"),
        ({"pretrained": True, "weights": "x.ckpt"}, "Two words for one option.*weights='x.ckpt'"),
        ({"num_classes": 0}, "include_top=False"),
        ({"ema": "require"}, "ema .*Received: weights=None"),
        ({"classifier_activation": "sofmax"}, "sofmax"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(UsageError, match=message):
        itf.create_model("inception_v3", **options)


def test_no_such_network():
    with pytest.raises(UsageError, match="There is no network 'inception_3'. Did you mean .*inception_v3"):
        itf.create_model("inception_3")
    with pytest.raises(UsageError, match="There is no network 'bert'. Did you mean"):
        itf.create_model("bert")
    with pytest.raises(UsageError, match="inception_v3 has published weights imagenet.*Received: weights='imagnet'"):
        itf.create_model("inception_v3", weights="imagnet")


def test_timms_words(monkeypatch):
    for model in (
        itf.create_model("lenet", pretrained=False, num_classes=7, drop_rate=0.25),
        itf.LeNet(num_classes=7, drop_rate=0.25),
    ):
        assert (model.card.options["classes"], model.card.options["dropout"]) == (7, 0.25)
    with pytest.raises(UsageError, match="no option in_chans .instead: input_shape"):
        itf.LeNet(in_chans=3)

    def find(network, weights):
        raise UsageError(f"{network} {weights}")

    monkeypatch.setattr("inception_tf.slim.catalogue.find", find)
    with pytest.raises(UsageError, match="inception_v3 imagenet"):
        itf.create_model("inception_v3", pretrained=True)
