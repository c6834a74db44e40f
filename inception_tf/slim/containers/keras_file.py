"""A `.keras` file, of this library or of keras.applications."""

import tempfile
import zipfile
from pathlib import Path

import numpy as np

from inception_tf.errors import CheckpointError, raising
from inception_tf.models.untrusted import NO_MODEL, check_members
from inception_tf.slim.containers import hdf5
from inception_tf.slim.containers.base import Checkpoint
from inception_tf.slim.names import model_variables, scoped

# Layers by which InceptionV3, InceptionResNetV2 and the ResNets of keras.applications are known.
LAYERS = (b'"mixed10"', b'"conv_7b"', b'"conv1_conv"')

# Options of a network that its variables tell, or that a classifier is asked for by.
DETECTED = ("include_top", "pooling", "classes", "aux_logits", "head_blocks")


class ModelWeights(Checkpoint):
    """The variables of a Keras model under the names they have in a Slim checkpoint, and what its card says."""

    def __init__(self, model, path):
        card = getattr(model, "card", None)
        scope = card.scope if card else ""
        self._variables = {scoped(scope, name): variable for name, variable in model_variables(model).items()}
        shapes = {name: tuple(variable.shape) for name, variable in self._variables.items()}
        super().__init__(path, "Keras", shapes, {name: np.dtype(v.dtype) for name, v in self._variables.items()})
        if card:
            self.options = {option: value for option, value in card.options.items() if option not in DETECTED}
            if None not in model.input_shape[1:]:
                self.options["input_shape"] = model.input_shape[1:]
            facts = (card.preprocessing or {}).items()
            self.preprocessing = {fact: value for fact, value in facts if fact not in ("kind", "size", "channels")}
            self.labels, self.thresholds = card.labels, card.thresholds
        if scope and model.card.options.get("head_blocks"):
            self.notes += ("Its classifier is on several blocks (head_blocks), which no network of Slim's has.",)

    def read(self, name):
        return np.asarray(self._variables[name])


def try_open(source, path):
    """The weights of the `.keras` file `path`, or None where it has another name."""
    if not path.name.endswith(".keras"):
        return None
    if is_application(path):
        folder = tempfile.TemporaryDirectory(prefix="inception_tf_")
        file = Path(folder.name, "model.weights.h5")
        with raising(CheckpointError, NO_MODEL.format(source), Exception), zipfile.ZipFile(path) as archive:
            archive.extract(file.name, folder.name)
            config = archive.read("config.json")
        checkpoint = hdf5.open_weights(source, file, "Keras", config)
        checkpoint.held = folder
        return checkpoint
    from inception_tf.models.model import open_keras_file

    return ModelWeights(open_keras_file(path), source)


def is_application(path):
    """Whether a `.keras` file holds a model of keras.applications that is read here. Nothing of it is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_members(archive, path)
            config = archive.read("config.json")
    except Exception:  # what is damaged, `open_keras_file` reports
        return False
    return b"inception_tf" not in config and any(name in config for name in LAYERS)
