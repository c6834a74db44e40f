import dataclasses
import pickle

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from random_weights import randomized

from inception_tf.exports import check
from inception_tf.exports.savedmodel import save_savedmodel
from inception_tf.slim.golden import deterministic_images
from inception_tf.zoo import create_model


@pytest.fixture(scope="session")
def model():
    """A small Inception-v3 with an auxiliary head, of images 107×107×3 and 7 classes; not to be changed."""
    model = randomized(
        create_model("inception_v3", depth_multiplier=0.1, classes=7, aux_logits=True, input_shape=(107, 107, 3))
    )
    model.card = dataclasses.replace(
        model.card, labels=["daisy", "dandelion", "roses", "sunflowers", "tulips", "Gänseblümchen, weiß", "玫瑰"]
    )
    return model


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory):
    """The SavedModel of `model`. The tests check it themselves."""
    return save_savedmodel(model, tmp_path_factory.mktemp("exports") / "flowers", top=3, check=False)


@pytest.fixture(scope="session")
def lenet():
    """A network that is exported in a second."""
    return randomized(create_model("lenet", classes=10))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A folder of 12 image files, always the same, and `broken.png`, which is none."""
    folder = tmp_path_factory.mktemp("photographs")
    for i, pixels in enumerate(deterministic_images(12, 120, 140)):
        Image.fromarray(np.uint8((pixels + 1) * 127.5)).save(folder / f"{i:02}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def checked_here(monkeypatch):
    """The check's fresh process within this one, to spare the seconds TensorFlow takes to start."""

    def run(path, inputs):
        signatures = tf.saved_model.load(str(path)).signatures
        inputs = pickle.loads(pickle.dumps(inputs))
        return {
            name: {
                key: output.numpy()
                for key, output in signatures[name](**{k: tf.constant(v) for k, v in arrays.items()}).items()
            }
            for name, arrays in inputs.items()
        }

    monkeypatch.setattr(check, "run_fresh", run)
