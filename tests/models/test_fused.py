"""What fusing leaves of a network. test_networks.py has every fused network beside its own."""

import keras
import numpy as np
import pytest
from run_networks import relative, with_weights

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.models.blocks import Conv2D, Siblings
from inception_tf.models.fused import fuse_for_inference
from inception_tf.slim.golden import deterministic_images

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model():
    return with_weights("inception_v3", classes=5)


@pytest.fixture(scope="module")
def fused(model):
    return itf.fuse_for_inference(model)


@pytest.fixture(scope="module")
def images(model):
    return deterministic_images(2, *model.input_shape[1:])


def test_training_makes_no_difference(fused, images):
    assert np.array_equal(fused(images, training=True), fused(images))


def test_the_model_stays_as_it_is(model, fused):
    names = [variable.name for variable in model.weights]
    assert names.count("moving_mean") == 96 and "moving_mean" not in {variable.name for variable in fused.weights}
    assert not {id(variable) for variable in model.weights} & {id(variable) for variable in fused.weights}


def test_what_is_gone(model, fused):
    def every(layers):
        for layer in layers:
            yield layer
            yield from every(layer._flatten_layers(include_self=False))

    kinds = [type(layer) for layer in every(fused.layers)]
    assert keras.layers.Dropout not in kinds and keras.layers.BatchNormalization not in kinds
    assert not [layer for layer in fused.layers if "Aux" in layer.name]
    assert [layer.name for layer in fused.layers if isinstance(layer, Siblings)] == [
        layer.name for layer in model.layers if layer.name.startswith("Mixed_")
    ]


def test_siblings_share_their_opening_and_pooling_comes_last(fused):
    block = fused.get_layer("Mixed_5b")
    assert block.widths == [16, 16, 16, 0] and block.opening.filters == 48
    convolution, pool, activation = block.branches[3].layers
    assert isinstance(convolution, Conv2D) and convolution.activation is keras.activations.linear
    assert isinstance(pool, keras.layers.AveragePooling2D) and activation.activation is keras.activations.relu


def test_saved_and_loaded(fused, images, tmp_path):
    fused.save(tmp_path / "fused.keras")
    again = keras.saving.load_model(tmp_path / "fused.keras")
    assert np.array_equal(again(images), fused(images))
    assert again.card == fused.card and again.card.fused


def test_without_the_top(images):
    backbone = with_weights("inception_v3", include_top=False, aux_logits=False)
    assert relative(np.asarray(fuse_for_inference(backbone)(images)), np.asarray(backbone(images))) < TOLERANCE


def test_siblings_apart(model, fused, images):
    apart = fuse_for_inference(model, siblings=False)
    assert relative(np.asarray(apart(images)), np.asarray(fused(images))) < TOLERANCE
    assert len(apart.weights) > len(fused.weights)
    assert not any(layer.opening for layer in apart.layers if isinstance(layer, Siblings))


def test_fused_again(fused, images):
    again = fuse_for_inference(fused)
    assert len(again.weights) == len(fused.weights)
    np.testing.assert_array_equal(again(images), fused(images))


def test_what_needs_the_own_layers(fused, tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(path, np.zeros((8, 8, 3)))
    for use in (
        lambda: itf.save_slim(fused, tmp_path / "model.ckpt"),
        lambda: itf.to_timm(fused, tmp_path / "model.safetensors"),
        lambda: itf.finetune(fused, tmp_path / "data", val_fraction=0.5, out=tmp_path / "run"),
    ):
        with pytest.raises(UsageError, match="needs the model that InceptionV3 was fused from: its own"):
            use()
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_other_models_are_refused():
    with pytest.raises(UsageError, match="create_model"):
        fuse_for_inference(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
