"""Keras files of strangers: read only where opening them runs no code of theirs and takes no more than they hold.

Keras' safe mode refuses Python lambdas. What else of a file's config makes Keras import modules, run other programs or
read other files, and what HDF5 links to, is refused here, before Keras sees the file.
"""

import json
import math
import re
import zipfile
from pathlib import PurePosixPath, PureWindowsPath

from inception_tf.errors import CheckpointError, raising

# The rooms of Keras whose objects are parts of models. `keras.utils`, `keras.saving` and others hold what downloads,
# writes and loads.
_ROOMS = "activations|constraints|dtype_policies|initializers|layers|losses|metrics|models|optimizers|regularizers"
_MODULE = re.compile(rf"keras|keras\.(src\.)?({_ROOMS})(\.\w+)*|builtins")
# Keras' own, and yet with a program of the file's or of another file's in them.
_PROGRAMS = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "__lambda__", "__typespec__"}
_OURS = "inception_tf>"
# How much larger than its file what is in it may be.
_TIMES, _SPARE = 2, 1 << 28
_MAX_CONFIG = 1 << 26
NO_MODEL = "{} is no Keras model, or damaged"
NO_CONFIG = "{} is damaged: its model's config cannot be read"
_BY_HAND = "If you trust it, open it with keras.saving.load_model yourself."


def check_keras_file(path):
    """Raises a `CheckpointError` for a `.keras` file that is none, unsafe, or a bomb; see above."""
    with raising(CheckpointError, NO_MODEL.format(path), Exception), zipfile.ZipFile(path) as archive:
        check_members(archive, path)
        config = json.loads(archive.read("config.json"))
        check_config(config, path)
        size = path.stat().st_size
        if "model.weights.h5" in archive.namelist():
            with archive.open("model.weights.h5") as weights:
                _check_hdf5(weights, path, size)
        _check_size(config, path, size)


def check_members(archive, path):
    """Raises a `CheckpointError` for a zip archive of which a path leads out, or that unpacks to more than it holds."""
    members = archive.infolist()
    for name in (member.filename for member in members):
        parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
        if name.startswith(("/", "\\")) or ".." in parts or PureWindowsPath(name).drive:
            raise CheckpointError(f"{path} is unsafe: it holds the path {name!r}, which leads out of it. {_BY_HAND}")
    if sum(member.file_size for member in members) > _TIMES * path.stat().st_size + _SPARE:
        raise CheckpointError(f"{path} is unsafe: it unpacks to more than {_TIMES} times its size. {_BY_HAND}")
    if archive.getinfo("config.json").file_size > _MAX_CONFIG:
        raise CheckpointError(f"{path} is unsafe: its config.json is larger than any model's. {_BY_HAND}")


def check_weights_file(path, source=None):
    """Raises a `CheckpointError` for an HDF5 file that is none, reads others, or holds less than it says.

    `source` is what the message calls it.
    """
    with raising(CheckpointError, f"{source or path} is no HDF5 file, or damaged", Exception):
        _check_hdf5(path, source or path, path.stat().st_size)


def check_config(config, path):
    """Raises a `CheckpointError` for a Keras config with anything but Keras' own objects and this library's."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if isinstance(value, dict) and "class_name" in value:
            kind, module, registered = (value.get(key) for key in ("class_name", "module", "registered_name"))
            function = value.get("config") if kind == "function" else None
            own = f"{registered}".startswith(_OURS) and f"{module}".startswith("inception_tf.")
            named = own or registered in (None, "", kind, function) or registered == f"keras>{kind}"
            keras = module is None or (isinstance(module, str) and _MODULE.fullmatch(module))
            if kind in _PROGRAMS or not isinstance(kind, str) or not named or not (own or keras):
                what = " ".join(f"{part}" for part in (module, registered or kind, function) if part)
                raise CheckpointError(
                    f"{path} is refused, since opening it may run a program of its author's: it holds {what[:100]}, "
                    f"which is neither of Keras' own layers nor of this library. {_BY_HAND}"
                )


def _check_hdf5(file, path, size):
    """Raises a `CheckpointError` for what HDF5 would read from other files, or make of nothing."""
    import h5py

    with h5py.File(file) as root:
        total, waiting, seen = 0, [root], set()
        while waiting:
            group = waiting.pop()
            for name in group:
                item = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
                if item is None or (isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)):
                    raise CheckpointError(f"{path} is unsafe: its {name} lies in another file. {_BY_HAND}")
                if isinstance(item, h5py.Dataset):
                    total += math.prod(item.shape or ()) * item.dtype.itemsize
                elif item.id not in seen:
                    seen.add(item.id)
                    waiting.append(item)
        if total > _TIMES * size + _SPARE:
            raise CheckpointError(f"{path} is unsafe: its weights are larger than the file. {_BY_HAND}")


def _check_size(config, path, size):
    """Raises a `CheckpointError` for a model that is larger than the weights in its file."""
    import keras

    from inception_tf.models.initialization import meta_init

    with meta_init():  # takes no memory for them
        try:
            weights = keras.saving.deserialize_keras_object(config).weights
        except ValueError as error:
            if "stateless scope" in str(error):  # recurrent layers cannot be built in there, nor can optimizers
                return
            raise
    if sum(4 * math.prod(weight.shape) for weight in weights) > 4 * size + _SPARE:  # of half precision, too
        raise CheckpointError(f"{path} is unsafe: its model is larger than its weights. {_BY_HAND}")
