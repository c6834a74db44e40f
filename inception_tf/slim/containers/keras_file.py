"""A `.keras` file of this library."""

import numpy as np

from inception_tf.slim.containers.base import Checkpoint
from inception_tf.slim.names import model_variables, scoped


class ModelWeights(Checkpoint):
    """The variables of a Keras model under the names they have in a Slim checkpoint."""

    def __init__(self, model, path):
        scope = model.card.scope if getattr(model, "card", None) else ""
        self._variables = {scoped(scope, name): variable for name, variable in model_variables(model).items()}
        shapes = {name: tuple(variable.shape) for name, variable in self._variables.items()}
        super().__init__(path, "Keras", shapes, {name: np.dtype(v.dtype) for name, v in self._variables.items()})

    def read(self, name):
        return np.asarray(self._variables[name])


def try_open(source, path):
    """The weights of the `.keras` file `path`, or None where it has another name."""
    if not path.name.endswith(".keras"):
        return None
    from inception_tf.models.model import open_keras_file

    return ModelWeights(open_keras_file(path), source)
