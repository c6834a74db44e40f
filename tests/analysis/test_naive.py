"""Naive designs, against the arithmetic of the papers."""

import pytest

from inception_tf.analysis.naive import naive_blocks
from inception_tf.analysis.profile import profile
from inception_tf.errors import UsageError
from inception_tf.models.initialization import meta_init
from inception_tf.zoo import create_model


def blocks(network, **options):
    with meta_init():
        return {block["block"]: block for block in naive_blocks(profile(create_model(network, **options)))}


def test_googlenet_3a():
    """The 3a of "Going Deeper with Convolutions": 5×5 in the paper where Slim has 3×3."""
    block = blocks("inception_v1")["Mixed_3b"]
    direct, reduced_3x3, reduced_5x5 = 1 * 192 * 64, 1 * 192 * 96 + 9 * 96 * 128, 1 * 192 * 16 + 25 * 16 * 32
    assert block["weights"]["paper"] == direct + reduced_3x3 + reduced_5x5 == 157184
    assert block["weights"]["built"] == direct + reduced_3x3 + 1 * 192 * 16 + 9 * 16 * 32
    assert (
        block["weights"]["naive"] == block["weights"]["unreduced"] == direct + 9 * 192 * 128 + 25 * 192 * 32 == 387072
    )
    assert block["channels"] == {"built": 256, "unprojected": 416}
    assert block["projection_weights"] == 192 * 32
    assert block["multiply_adds"]["naive"] == 28 * 28 * 387072


def test_the_channels_of_the_outputs():
    found = blocks("inception_v1").values()
    assert [block["channels"]["built"] for block in found] == [256, 480, 512, 512, 512, 528, 832, 832, 1024]


def test_inception_v3():
    found = blocks("inception_v3")
    block = found["Mixed_6b"]
    assert block["weights"]["unfactorized"] == (
        768 * 192 + (768 * 128 + 49 * 128 * 192) + (768 * 128 + 49 * 128 * 128 + 49 * 128 * 192)
    )
    assert block["weights"]["naive"] == 768 * 192 + 49 * 768 * 192 + (49 * 768 * 128 + 49 * 128 * 192)
    assert block["weights"]["unreduced"] == (
        768 * 192 + (7 * 768 * 128 + 7 * 128 * 192) + (7 * 768 * 128 + 2 * 7 * 128 * 128 + 7 * 128 * 192)
    )
    # 1×3 and 3×1 side by side stand for a 3×3 as wide as both.
    block = found["Mixed_7b"]
    assert block["weights"]["unfactorized"] == (
        1280 * 320 + (1280 * 384 + 9 * 384 * 768) + (1280 * 448 + 9 * 448 * 384 + 9 * 384 * 768)
    )
    # Two 3×3 stand for a 5×5, whose stride is the second's.
    block = found["Mixed_6a"]
    assert block["weights"]["naive"] == 9 * 288 * 384 + 25 * 288 * 96
    assert block["multiply_adds"]["naive"] == 17 * 17 * block["weights"]["naive"]
    assert block["projection"] == [] and set(block["channels"].values()) == {768}


def test_inception_v4_merges_each_pair_once():
    branch = blocks("inception_v4")["Mixed_7b"]["designs"]["unfactorized"]["Branch_2"]
    assert branch == [[1, 1, 1536, 384], [3, 3, 384, 512], [3, 3, 512, 512]]


def test_residual_units():
    """The 1×1 convolution back to the unit's input stays; every design adds the same to it."""
    found = blocks("inception_resnet_v2")
    block = found["Repeat/block35_10"]
    last = 128 * 320
    assert block["weights"]["built"] == (
        320 * 32 + (320 * 32 + 9 * 32 * 32) + (320 * 32 + 9 * 32 * 48 + 9 * 48 * 64) + last
    )
    assert block["weights"]["naive"] == 320 * 32 + 9 * 320 * 32 + 25 * 320 * 64 + last
    assert set(block["channels"].values()) == {320}
    assert len(found) == 1 + 10 + 1 + 20 + 1 + 10


def test_other_options():
    """The width and the size of the image are the model's."""
    block = blocks("inception_v2", depth_multiplier=0.5, input_shape=(97, 130, 3))["Mixed_3b"]
    weights = 96 * 32 + 9 * 96 * 32 + 25 * 96 * 48
    assert (block["weights"]["naive"], block["multiply_adds"]["naive"]) == (weights, 13 * 17 * weights)


@pytest.mark.parametrize("network", ["nin", "vgg_16", "resnet_v1_50"])
def test_networks_without_blocks(network):
    with pytest.raises(UsageError, match=f"{network} has no mixed blocks"):
        blocks(network)
