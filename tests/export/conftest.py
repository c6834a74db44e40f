import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from inception_tf.export import check
from inception_tf.export.savedmodel import save_savedmodel
from inception_tf.models.registry import create_model


def randomized(model, seed=0):
    """Weights of a trained network's size, the batch norms' too, so that nothing cancels out."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if len(variable.shape) > 1:
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(random.normal(0, (2 / fan_in) ** 0.5, variable.shape))
        else:
            low, high = (0.5, 1.5) if "variance" in variable.path or "gamma" in variable.path else (-0.2, 0.2)
            variable.assign(random.uniform(low, high, variable.shape))
    return model


@pytest.fixture(scope="session")
def model():
    """A small Inception-v3 with an auxiliary head, of images 107×107×3 and 7 classes; not to be changed."""
    model = randomized(
        create_model("inception_v3", depth_multiplier=0.1, classes=7, aux_logits=True, input_shape=(107, 107, 3))
    )
    model.card["labels"] = ["daisy", "dandelion", "roses", "sunflowers", "tulips", "Gänseblümchen, weiß", "玫瑰"]
    return model


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory):
    """The SavedModel of `model`, checked in a fresh process."""
    return save_savedmodel(model, tmp_path_factory.mktemp("exports") / "flowers", top=3)


@pytest.fixture(scope="session")
def lenet():
    """A network that is exported in a second."""
    keras.utils.set_random_seed(0)
    return randomized(create_model("lenet", classes=10))


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
