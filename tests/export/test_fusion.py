"""What of a network is fused in an export."""

import pytest

import inception_tf as itf
from inception_tf.export.fusion import network_for, pays
from inception_tf.models.blocks import Siblings
from inception_tf.slim.golden import deterministic_images


@pytest.fixture(scope="module")
def model():
    return itf.create_model("inception_v3", depth_multiplier=0.1, input_shape=(75, 75, 3), classes=5)


def openings(network):
    return sum(layer.opening is not None for layer in network.layers if isinstance(layer, Siblings))


@pytest.mark.parametrize(
    ("fuse", "precision", "fused"),
    [(None, None, True), (None, "float16", True), (None, "int8", False), (True, "int8", True), (False, None, False)],
)
def test_networks(model, fuse, precision, fused):
    network = network_for(model, pays(fuse, precision))
    assert (network is not model) == fused == bool(network.card.fused)
    assert openings(network) == 0


def test_a_savedmodel_is_fused_unless_told_otherwise(model, tmp_path):
    import tensorflow as tf

    given, answers = deterministic_images(1, 75, 75), []
    for name, options in ("fused", {}), ("plain", {"fuse": False}):
        path = itf.export_savedmodel(model, tmp_path / name, check=False, batch=1, **options)
        loaded = tf.saved_model.load(str(path))
        norms = [variable for variable in loaded.weights if "moving_mean" in variable]
        assert bool(norms) == (name == "plain")
        answers.append(loaded.signatures["serving_default"](images=tf.constant(given))["probabilities"].numpy())
    assert abs(answers[0] - answers[1]).max() < 1e-6
