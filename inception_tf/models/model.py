"""The Keras model that every network is, and its end points."""

import shutil
import zipfile
from pathlib import Path

import keras

from inception_tf.errors import CheckpointError, UsageError, reason
from inception_tf.models.blocks import Auxiliary, Repeat, serializable


@serializable
class SlimModel(keras.Model):
    """A functional Keras model that knows what it is, in memory and in its `.keras` file.

    Attributes:
        card: a JSON-like dict: "network" and "options" it was built with, the Slim "scope" of its variables,
            "preprocessing", and "labels", one class name a logit, or None.
    """

    def __init__(self, inputs, outputs, name=None, *, card=None, **kwargs):
        super().__init__(inputs, outputs, name=name, **kwargs)
        self._card = dict(card or {})

    @property
    def card(self):
        return self._card

    def get_config(self):
        return {**super().get_config(), "card": self._card}


def load_model(path):
    """Loads a `.keras` file.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no model at {path}.")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is no Keras model, or damaged: a `.keras` file is a zip archive, and this is none."
        )
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is no Keras model, or damaged: {reason(error)}") from error


def with_dtype(model, policy):
    """A model of the same layers, weights and card under another Keras dtype policy.

    Args:
        model: a model of this library, or a fused one.
        policy: "float32", "float16", "bfloat16", or "mixed_float16" and "mixed_bfloat16", whose variables are float32.

    Returns:
        A `SlimModel`. Its inputs are of the type they were; its outputs are of the policy's compute dtype.
    """

    def changed(config):
        if isinstance(config, (list, tuple)):
            return [changed(value) for value in config]
        if not isinstance(config, dict) or config.get("class_name") == "InputLayer":
            return config
        return {key: policy if key == "dtype" else changed(value) for key, value in config.items()}

    other = type(model).from_config({**changed(model.get_config()), "card": model.card})
    other.set_weights(model.get_weights())
    return other


def save_weights(model, path):
    """Writes a model's weights alone, `path` a `.weights.h5`, by way of a `.keras` file beside it.

    On a full disk HDF5 crashes the process; for a `.keras` file Keras has it write to memory.

    Raises:
        OSError: the disk is full.
    """
    part = Path(path)
    whole = part.with_name("whole.keras")
    model.save(whole)
    with zipfile.ZipFile(whole) as archive, archive.open("model.weights.h5") as weights, part.open("wb") as out:
        shutil.copyfileobj(weights, out)
    whole.unlink()


def end_points(model):
    """Slim's end points of a model: the outputs of its layers by name, in order.

    Returns:
        A dict from Slim's names (Conv2d_1a_3x3 … Mixed_7c, AuxLogits, PreLogits, Logits, Predictions) to Keras
        tensors, from which `keras.Model(model.input, tensor)` makes a model.
    """
    tensors = {}
    for layer in model.layers:
        if isinstance(layer, Repeat):
            tensors.update(layer.end_points(layer.input, layer.output))
        elif not isinstance(layer, (keras.layers.InputLayer, Auxiliary)):
            tensors[layer.name] = layer.output
    return tensors


def feature_extractor(model, names):
    """A model from the same images to end points of `model`, sharing its weights.

    Args:
        model: a model of this library.
        names: an end point, for a model with one output; or a list of them, for one whose output is a dict by name.

    Raises:
        UsageError: no such end point; lists those there are.
    """
    tensors = end_points(model)
    unknown = [name for name in ([names] if isinstance(names, str) else names) if name not in tensors]
    if unknown:
        raise UsageError(f"{model.name} has no end point {', '.join(unknown)}. It has: {', '.join(tensors)}.")
    outputs = tensors[names] if isinstance(names, str) else {name: tensors[name] for name in names}
    return keras.Model(model.inputs[0], outputs, name=f"{model.name}_features")
