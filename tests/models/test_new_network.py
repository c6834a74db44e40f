"""What CONTRIBUTING promises: a network is one file that registers itself, and everything else follows."""

import keras
import numpy as np
import pytest
from slim_files import read_tensors

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.models import blocks, registry
from inception_tf.models.blocks import Mixed, conv, max_pool


@pytest.fixture
def toy(monkeypatch):
    """A network of this file alone."""
    monkeypatch.setattr(registry, "_NETWORKS", dict(registry.networks()))

    @registry.network(
        name="toy", scope="Toy", input_size=16, min_size=4, classes=3, backbone="Mixed_2b", heads=("Logits",)
    )
    def ToyNet(inputs, include_top=True, pooling=None, classes=3, classifier_activation="softmax", dropout=0.1):
        """A toy (no paper)."""
        x = conv("Conv2d_1a_3x3", 4, 3, strides=2, normalizer={"scale": False})(inputs)  # 8×8×4
        x = Mixed([[conv("Conv2d_0a_1x1", 3, 1)], [max_pool("MaxPool_0a_3x3")]], name="Mixed_2b")(x)  # 8×8×7
        if not include_top:
            return blocks.global_pool(x, pooling)
        return blocks.predictions(blocks.flattened_logits(x, classes, dropout), None, classifier_activation)

    yield "toy"
    itf.zoo.constructor.cache_clear()


def test_by_its_name_and_by_its_constructor(toy):
    assert toy in itf.list_models("t*")
    model = itf.ToyNet(classes=5)
    assert model.output_shape == (None, 5) and "16×16" in itf.ToyNet.__doc__ and "ToyNet" in dir(itf)
    assert model.backbone_output.shape[1:] == (8, 8, 7) and model.logits.shape == (None, 5)
    assert itf.create_model(toy, include_top=False).output_shape == (None, None, None, 7)
    with pytest.raises(UsageError, match="toy has no published weights"):
        itf.create_model(toy, weights="imagenet")


def test_to_slim_and_back(toy, tmp_path):
    model = itf.create_model(toy, classes=5)
    itf.save_slim(model, tmp_path / "toy.ckpt")
    assert "Toy/Mixed_2b/Branch_0/Conv2d_0a_1x1/weights" in read_tensors(tmp_path / "toy.ckpt")
    found = itf.detect(tmp_path / "toy.ckpt")
    assert (found.network, found.scope, found.classes, found.match) == (toy, "Toy", 5, 1)

    itf.convert(tmp_path / "toy.ckpt", tmp_path / "toy.keras", check=False)
    images = keras.random.uniform((2, 16, 16, 3))
    again = itf.load_model(tmp_path / "toy.keras")
    assert again.card.network == toy and again.card.weights.complete
    np.testing.assert_array_equal(again(images), model(images))
    np.testing.assert_allclose(itf.fuse_for_inference(again)(images), model(images), atol=1e-6)
