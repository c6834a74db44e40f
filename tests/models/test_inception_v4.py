"""Inception-v4: the twins of research/slim/nets/inception_v4_test.py."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.slim.names import specification


def test_end_points(shapes):
    found = shapes("inception_v4", aux_logits=True)
    expected = {"Conv2d_1a_3x3": (149, 149, 32), "Conv2d_2a_3x3": (147, 147, 32), "Conv2d_2b_3x3": (147, 147, 64)}
    expected |= {"Mixed_3a": (73, 73, 160), "Mixed_4a": (71, 71, 192), "Mixed_5a": (35, 35, 384)}
    expected |= {f"Mixed_5{letter}": (35, 35, 384) for letter in "bcde"}
    expected |= {f"Mixed_6{letter}": (17, 17, 1024) for letter in "abcdefgh"}
    expected |= {f"Mixed_7{letter}": (8, 8, 1536) for letter in "abcd"}
    assert list(found)[: len(expected)] == list(expected)
    expected |= {"AuxLogits": (1001,), "global_pool": (1, 1, 1536), "PreLogitsFlatten": (1536,)}
    expected |= {"Logits": (1001,), "Predictions": (1001,)}
    assert found == expected


def test_variables(slim_variables):
    facts = slim_variables("inception_v4")
    found = specification("inception_v4", aux_logits=True)
    assert {f"InceptionV4/{name}": shape for name, shape in found.items()} == facts


def test_auxiliary_head_is_as_large_as_its_map():
    for shape, kernel in (((448, 197, 3), (8, 2)), ((None, None, 3), (5, 5))):
        found = specification("inception_v4", aux_logits=True, input_shape=shape)
        assert found["AuxLogits/Conv2d_2a/weights"] == (*kernel, 128, 768)
    with pytest.raises(UsageError, match="below 5×5"):
        itf.InceptionV4(aux_logits=True, input_shape=(100, 100, 3))


def test_smallest_images(shapes):
    assert shapes("inception_v4", input_shape=(75, 75, 3))["Mixed_7d"] == (1, 1, 1536)
    with pytest.raises(UsageError, match="at least 75×75"):
        itf.InceptionV4(input_shape=(74, 75, 3))
    with pytest.raises(ValueError):
        shapes.build("inception_v4", (74, 75, 3))


@pytest.mark.slow
def test_files_and_heads(tmp_path):
    model = itf.InceptionV4(classes=3, aux_logits=True, input_shape=(110, 110, 3))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 110, 110, 3)).astype("float32")
    outputs = [
        itf.feature_extractor(m, ["AuxLogits", "Mixed_7d", "Logits", "Predictions"]).predict_on_batch(images)
        for m in (model, again)
    ]
    for name, output in outputs[0].items():
        assert np.array_equal(output, outputs[1][name])
    assert again.card == model.card
    assert outputs[0]["AuxLogits"].shape == outputs[0]["Predictions"].shape == (2, 3)

    trunk = itf.InceptionV4(include_top=False, pooling="avg")
    trunk.set_weights([w.numpy() for w in model.weights if "Logits/" not in w.path])
    assert np.allclose(trunk.predict_on_batch(images), outputs[0]["Mixed_7d"].mean((1, 2)), atol=1e-5)
