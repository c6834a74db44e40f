"""Keras's weights in HDF5: `.h5`, `.weights.h5`, and what a `.keras` file holds."""

import json
import re

import numpy as np

from inception_tf.errors import CheckpointError, raising
from inception_tf.models.untrusted import NO_CONFIG, check_weights_file
from inception_tf.slim.containers.base import Checkpoint

MAGIC = b"\x89HDF\r\n\x1a\n"


class HDF5Weights(Checkpoint):
    """The arrays of an HDF5 file by their paths in it, but for those of an optimizer."""

    def __init__(self, path, file, container):
        import h5py

        check_weights_file(file, path)
        found = {}
        with raising(CheckpointError, f"{path} is damaged or incomplete", Exception):
            self._file = h5py.File(file)

            def visit(name, item):
                if isinstance(item, h5py.Dataset):
                    found[name] = item

            self._file.visititems(visit)
            found = {n: item for n, item in found.items() if not n.startswith("optimizer") and item.dtype.kind == "f"}
            self.layers = _legacy_layers(self._file) or _layers(found)
            self.layers = [names for names in self.layers if all(name in found for name in names)]
            self.config = self._file.attrs.get("model_config")
            shapes = {name: tuple(item.shape) for name, item in found.items()}
            dtypes = {name: item.dtype for name, item in found.items()}
        super().__init__(path, container, shapes, dtypes)

    def read(self, name):
        with raising(CheckpointError, f"{self.path} is damaged or incomplete: {name} cannot be read", Exception):
            return np.asarray(self._file[name])


def _legacy_layers(file):
    """The layers of Keras 1 and 2, named in attributes; None where there are none."""
    group = file.get("model_weights", file)
    if "layer_names" not in group.attrs:
        return None
    prefix = group.name.strip("/")

    def texts(values):
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]

    layers = {layer: texts(group[layer].attrs.get("weight_names", ())) for layer in texts(group.attrs["layer_names"])}
    return [tuple("/".join(filter(None, (prefix, layer, n))) for n in names) for layer, names in layers.items()]


def _layers(names):
    """The layers of Keras 3: `layers/conv2d_1/vars/0`, numbered within a class."""
    layers = {}
    for name in names:
        if match := re.fullmatch(r"(?:_layer_checkpoint_dependencies|layers)/(\w+?)(?:_(\d+))?/vars/(\d+)", name):
            layers.setdefault((match[1], int(match[2] or 0)), []).append((int(match[3]), name))
    return [tuple(name for _, name in sorted(layers[layer])) for layer in sorted(layers)]


def is_hdf5(path):
    """Whether a file is HDF5, by its first bytes."""
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _head(layers, source):
    """What the configs of a model's layers say of its classifier, as options of our networks."""
    with raising(CheckpointError, NO_CONFIG.format(source), Exception):
        kinds = [layer["class_name"] for layer in layers]
        if "Dense" not in kinds:
            return {}
        if "GlobalMaxPooling2D" in kinds:
            raise CheckpointError(
                f"{source} has a classifier on features pooled by their maximum, which no network of Slim's has. Save "
                "the model below it, keras.Model(model.input, model.layers[…].output), and load that."
            )
        pooled = kinds.index("GlobalAveragePooling2D") if "GlobalAveragePooling2D" in kinds else len(kinds)
        strange = [kind for kind in kinds[pooled + 1 :] if kind not in ("Dropout", "Dense", "Activation", "Softmax")]
        after = layers[len(kinds) - 1 - kinds[::-1].index("Dense") :]
        found = [layer["config"].get("activation") or layer["class_name"].lower() for layer in after]
        found = [value["config"] if isinstance(value, dict) else value for value in found]
        strange += [name for name in found if name not in ("softmax", "sigmoid", "linear", "dense", "dropout")]
        if strange:
            raise CheckpointError(f"{source} has a classifier with {strange[0]}, which no network of Slim's has.")
        return {"classifier_activation": next((name for name in found if name in ("softmax", "sigmoid")), None)}


def open_weights(source, file, container="Keras HDF5", config=None):
    """The network of keras.applications in an HDF5 file, under Slim's names.

    `config` is the model's, as JSON, where it lies beside the file.

    Raises:
        CheckpointError: it holds another one, or is damaged.
    """
    from inception_tf.slim.translations import from_keras

    weights = HDF5Weights(source, file, container)
    if config := config or weights.config:
        with raising(CheckpointError, NO_CONFIG.format(source), Exception):
            config = json.loads(config)["config"]["layers"]
    checkpoint = from_keras(weights, weights.layers, "their order in the file", config)
    if checkpoint is None:
        nested = [names for names in weights.layers if len(names) > 4]
        nested += [name for name in weights if name.count("/layers/") and name.startswith(("layers/", "_layer_"))]
        inside = ""
        if nested:
            inside = (
                " It has one model inside another: save the inner one by itself, "
                'model.get_layer(…).save_weights("inner.weights.h5").'
            )
        raise CheckpointError(
            f"{source} holds weights of Keras, {len(weights)} arrays, and no network known here by their shapes "
            f"(keras.applications' InceptionV3 and InceptionResNetV2 are).{inside} A .weights.h5 file of this library "
            "needs its network: load_model(path, network=…)."
        )
    if config:
        checkpoint.options = _head(config, source)
    return checkpoint


def try_open(source, path):
    """The network of keras.applications in the HDF5 file `path`, or None where that is no HDF5."""
    return open_weights(source, path) if is_hdf5(path) else None
