"""What TF-Slim's own unit tests state of every network: end points, their shapes, and numbers of parameters.

The end points of the networks as published are in end_points.json: Slim's names, in order, with their shapes without
the batch. Those that differ by an option are in the table here. A network of later may go without: the test that
verifies it against the original graph compares every end point.
"""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.models.initialization import meta_init
from inception_tf.models.model import end_points
from inception_tf.models.registry import find_network, networks

FACTS = json.loads(Path(__file__).with_name("end_points.json").read_text())
DENSE = {"spatial_squeeze": False}


def blocks(*channels):
    """The blocks of Network in Network on 64×64 images."""
    return {f"mlpconv{i}": (side, side, c) for i, (side, c) in enumerate(zip((14, 7, 4, 2), channels), 1)}


CIFAR10_POINTS = {
    **{"mlpconv1": (32, 32, 96), "pool1": (16, 16, 96), "dropout1": (16, 16, 96)},
    **{"mlpconv2": (16, 16, 192), "pool2": (8, 8, 192), "dropout2": (8, 8, 192)},
    **{"mlpconv3": (8, 8, 192), "Logits": (10,), "Predictions": (10,)},
}
VARIANTS = [
    ("alexnet_v2", (300, 400), DENSE, {"fc8": (4, 7, 1000), "Predictions": (4, 7, 1000)}),
    ("inception_v1", (112, 112), {}, {"Mixed_5c": (4, 4, 1024), "Logits": (1001,)}),
    ("inception_v1", (224, 224), {**DENSE, "classes": 25}, {"Logits": (1, 1, 25)}),
    # Slim's 7×7 pooling has stride 1 here, unlike that of the later Inceptions.
    ("inception_v1", (320, 320), {**DENSE, "classes": 25}, {"Logits": (4, 4, 25)}),
    ("inception_v2", (112, 112), {}, {"Mixed_5c": (4, 4, 1024), "Logits": (1001,)}),
    ("inception_v2", (224, 224), {**DENSE, "classes": 25}, {"Logits": (1, 1, 25)}),
    ("inception_v2", (320, 320), {**DENSE, "classes": 25}, {"Logits": (2, 2, 25)}),
    ("inception_v3", (299, 299), {"classes": 1000, "aux_logits": True}, {"Logits": (1000,), "AuxLogits": (1000,)}),
    ("inception_v3", (150, 150), {}, {"Mixed_7c": (3, 3, 2048), "Logits": (1001,), "Predictions": (1001,)}),
    ("inception_v3", (None, None), {}, {"Mixed_7c": (None, None, 2048), "Logits": (1001,)}),
    ("inception_v3", (299, 299), {**DENSE, "classes": 25}, {"Logits": (1, 1, 25)}),
    ("inception_v3", (512, 512), {**DENSE, "classes": 25}, {"Logits": (4, 4, 25)}),
    ("nin", (224, 224), {"classes": 1000}, {"mlpconv4": (7, 7, 1024), "Logits": (1000,), "Predictions": (1000,)}),
    ("nin", (32, 32), {"layout": "cifar10"}, CIFAR10_POINTS),
    ("nin", (64, 64), {"depth_multiplier": 0.25}, {**blocks(24, 64, 96, 256), "Logits": (10,)}),
    ("nin", (64, 64), {"depth_multiplier": 0.01, "min_depth": 4}, blocks(4, 4, 4, 10)),
    ("resnet_v1_50", (224, 224), {"classes": 2, "classifier_activation": None}, {"spatial_squeeze": (2,)}),
    ("vgg_16", (256, 256), DENSE, {"fc8": (2, 2, 1000)}),
    ("vgg_16", (384, 384), DENSE, {"fc8": (6, 6, 1000)}),
    ("vgg_16", (256, 256), {}, {"fc8": (1000,)}),
    ("vgg_19", (256, 256), DENSE, {"fc8": (2, 2, 1000)}),
    ("vgg_19", (384, 384), DENSE, {"fc8": (6, 6, 1000)}),
    ("vgg_19", (256, 256), {}, {"fc8": (1000,)}),
]
# AuxLogits: two convolutions with batch norm (beta and two averages), one with a bias.
AUX = 768 * 128 + 3 * 128 + 25 * 128 * 768 + 3 * 768 + 768 * 1001 + 1001
PARAMETERS = [
    ("inception_v1", {"include_top": False}, 5607184),
    ("inception_v2", {"include_top": False}, 10173112),
    ("inception_v3", {"include_top": False}, 21802784),
    ("inception_v3", {"aux_logits": True}, 21802784 + 2048 * 1001 + 1001 + AUX),
    ("nin", {"classes": 1000}, 7595176),  # as the authors' networks in Caffe's model zoo
    ("nin", {"layout": "cifar10", "input_shape": (32, 32, 3)}, 966986),
    ("vgg_16", {}, 138357544),  # as the paper's table 2 rounds
    ("vgg_19", {}, 143667240),
]


def shapes_of(model):
    return {name: tuple(tensor.shape[1:]) for name, tensor in end_points(model, inner=False).items()}


@pytest.mark.parametrize("network", FACTS)
def test_published(published, network):
    found = shapes_of(published(network))
    facts = {name: tuple(shape) for name, shape in FACTS[network].items()}
    assert found == facts
    assert [name for name in found if name != "AuxLogits"] == [name for name in facts if name != "AuxLogits"]


@pytest.mark.parametrize("network, size, options, expected", VARIANTS)
def test_variants(shapes, network, size, options, expected):
    found = shapes(network, input_shape=(*size, 3), **options)
    assert {name: found[name] for name in expected} == expected
    assert ("classifier_activation" in options) == (list(found)[-1].lower() != "predictions")


@pytest.mark.parametrize("network, options, parameters", PARAMETERS)
def test_parameters(meta, network, options, parameters):
    """As Slim's model_analyzer counts, the moving averages of batch norm among them."""
    assert meta(network, **options).count_params() == parameters


def test_trainable_parameters(meta):
    trainable = meta("inception_v3", include_top=False).trainable_variables
    assert sum(np.prod(variable.shape, dtype=int) for variable in trainable) == 21768352


@pytest.mark.parametrize("network", ["inception_v2", "inception_v3"])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_depth_multiplier(shapes, network, factor):
    found = shapes(network, depth_multiplier=factor)
    for name in found:
        *sides, channels = FACTS[network][name]
        heads = name in ("Logits", "Predictions")
        assert found[name] == (*sides, channels if heads else factor * channels), name


@pytest.mark.parametrize("network", [name for name, info in networks().items() if info.min_size > 1])
@pytest.mark.parametrize("include_top", [True, False])
def test_smallest_images(shapes, network, include_top):
    """At the least side every layer has an output; at one pixel less the graph cannot be built."""
    info = find_network(network)
    side = info.smallest_side(include_top)
    found = shapes(network, input_shape=(side, side, info.channels), include_top=include_top)
    assert min(min(shape) for shape in found.values()) == 1
    too_small = (side - 1, side - 1, info.channels)
    with pytest.raises(UsageError, match=f"at least {side}×{side}"):
        itf.create_model(network, input_shape=too_small, include_top=include_top)
    with pytest.raises(ValueError, match="size"), meta_init():
        info.build(keras.Input(too_small), include_top=include_top)
