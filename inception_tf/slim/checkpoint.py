"""Opening a checkpoint of any container, as a lazy mapping from variable names to arrays."""

import collections
import contextlib
import glob
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from inception_tf.errors import CheckpointError
from inception_tf.slim.archives import extract_checkpoint, find_checkpoint, is_archive
from inception_tf.slim.names import model_variables, scoped

# What follows a prefix in the names of a checkpoint's files; the Saver itself writes V1 shards as `-?????-of-00003`.
FILE_OF = re.compile(r"\.(index|meta)$|(\.data)?-(\d{5}|\?{5})-of-\d{5}$")


class Checkpoint(Mapping):
    """A checkpoint's tensors by name. Nothing is read before it is asked for.

    Attributes:
        path: what was opened, as given.
        container: "V1", "V2, 4 shards", "Keras", …
        prefix: what TensorFlow's Saver restores from, or None where it cannot.
        shapes, dtypes: dicts from names to tuples and to numpy dtypes.
    """

    prefix = None

    def __init__(self, path, container, shapes, dtypes):
        self.path, self.container = Path(path), container
        self.shapes, self.dtypes = dict(sorted(shapes.items())), dtypes
        if not self.shapes:
            raise CheckpointError(f"{self.path} holds no tensors.")

    def read(self, name):
        """The array called `name`, which is there."""
        raise NotImplementedError

    def __getitem__(self, name):
        if name not in self.shapes:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)

    def __contains__(self, name):
        return name in self.shapes

    @property
    def step(self):
        """The training step it was written at, or None."""
        return int(self["global_step"]) if self.shapes.get("global_step") == () else None


class SaverCheckpoint(Checkpoint):
    """What TensorFlow's Saver writes, in its format V1 or V2."""

    def __init__(self, path, prefix, container, held=None):
        self.path, self.prefix = path, prefix
        self._held = held  # keeps the directory of an unpacked archive alive
        with self._errors():
            from tensorflow.python.training import py_checkpoint_reader

            self._reader = py_checkpoint_reader.NewCheckpointReader(prefix)
            shapes = {name: tuple(shape) for name, shape in self._reader.get_variable_to_shape_map().items()}
            dtypes = {name: dtype.as_numpy_dtype for name, dtype in self._reader.get_variable_to_dtype_map().items()}
        super().__init__(path, container, shapes, dtypes)

    def read(self, name):
        with self._errors(f": its tensor {name} cannot be read"):
            return self._reader.get_tensor(name)

    @contextlib.contextmanager
    def _errors(self, what=""):
        try:
            yield
        except Exception as error:  # of many types, IndexError and MemoryError among them
            reason = str(getattr(error, "message", error)).strip().splitlines() or [type(error).__name__]
            raise CheckpointError(f"{self.path} is damaged or incomplete{what}: {reason[0][:200]}") from error


class ModelWeights(Checkpoint):
    """The variables of a Keras model under the names they have in a Slim checkpoint."""

    def __init__(self, model, path):
        card = getattr(model, "card", {})
        self.model = model
        scope = card.get("scope", "")
        self._variables = {scoped(scope, name): variable for name, variable in model_variables(model).items()}
        shapes = {name: tuple(variable.shape) for name, variable in self._variables.items()}
        super().__init__(path, "Keras", shapes, {name: np.dtype(v.dtype) for name, v in self._variables.items()})

    def read(self, name):
        return np.asarray(self._variables[name])


def open_checkpoint(path):
    """Opens a checkpoint as a lazy mapping from tensor names to numpy arrays.

    Args:
        path: a V1 file; a V2 prefix, sharded or not, or one of its files; a directory with a `checkpoint` file, whose
            latest is opened, or with one checkpoint; a `.tar`, `.tar.gz` or `.tgz` holding any of these; a `.keras`
            file of this library; or a `Checkpoint`, which is returned as it is.

    Returns:
        A `Checkpoint`.

    Raises:
        CheckpointError: nothing there, no checkpoint, several to choose from, a missing shard, or damage.
    """
    if isinstance(path, Checkpoint):
        return path
    try:
        return _open(Path(path))
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}") from error


def _open(given):
    if given.name.endswith(".keras"):
        from inception_tf.models.model import load_model

        return ModelWeights(load_model(given), given)
    if given.is_dir():
        return _open_prefix(given, find_checkpoint(given))
    if given.name == "checkpoint" and given.is_file():
        return _open_prefix(given, find_checkpoint(given.parent))
    if given.is_file() and is_archive(given):
        held = tempfile.TemporaryDirectory(prefix="inception_tf_")
        # Of the files unpacked alone: a `checkpoint` file in an archive can name others.
        prefix = find_checkpoint(extract_checkpoint(given, held.name))
        return _open_prefix(given, prefix, " in a tar archive", held)
    return _open_prefix(given, given)


def _open_prefix(given, prefix, suffix="", held=None):
    prefix = Path(prefix).absolute()
    prefix = prefix.with_name(FILE_OF.sub("", prefix.name))
    if set("*?[\\") & set(str(prefix)):
        # TensorFlow takes its paths for patterns, and not all can be escaped.
        links = tempfile.TemporaryDirectory(prefix="inception_tf_")
        for file in prefix.parent.glob(glob.escape(prefix.name) + "*"):
            Path(links.name, "model" + file.name.removeprefix(prefix.name)).symlink_to(file)
        prefix, held = Path(links.name, "model"), (held, links)
    index = f"{prefix.name}.index"
    total, absent = _shards(prefix, ".data")
    if prefix.with_name(index).is_file():
        absent = absent if total else [f"{prefix.name}.data-00000-of-00001"]
        if absent:
            raise CheckpointError(f"{given} is incomplete: {', '.join(absent)} missing beside {index}.")
        return SaverCheckpoint(given, str(prefix), f"V2{f', {total} shards' if total > 1 else ''}{suffix}", held)
    if total:
        raise CheckpointError(f"{given} is incomplete: {index} is missing beside its .data files.")
    total, absent = _shards(prefix, "")
    if not total:
        _check_v1(given, prefix)
        return SaverCheckpoint(given, str(prefix), f"V1{suffix}", held)
    if absent:
        raise CheckpointError(f"{given} is incomplete: {', '.join(absent)} missing.")
    return SaverCheckpoint(given, f"{prefix}-?????-of-{total:05d}", f"V1, {total} shards{suffix}", held)


def _shards(prefix, mark):
    """How many shards `prefix` has, 0 for none, and the names of those missing. Of several shardings the fullest."""
    found = collections.defaultdict(set)
    for file in prefix.parent.glob(f"{glob.escape(prefix.name)}{mark}-*-of-*"):
        if match := re.fullmatch(r"-(\d{5})-of-(\d{5})", file.name.removeprefix(prefix.name + mark)):
            found[int(match[2])].add(int(match[1]))
    total = max(found, key=lambda total: (len(found[total]) / total, total), default=0)
    return total, [f"{prefix.name}{mark}-{i:05d}-of-{total:05d}" for i in range(total) if i not in found[total]]


def _check_v1(given, path):
    """Raises a `CheckpointError` where there is no file, or one that is no V1 checkpoint."""
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob(glob.escape(path.name) + "*"))[:5]
        hint = f" Beside it: {', '.join(near)}." if near else ""
        raise CheckpointError(f"There is no checkpoint at {given}.{hint}")
    with path.open("rb") as file:
        head = file.read(512)
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        magic = file.read()
    if magic != bytes.fromhex("57fb808b247547db"):
        kind = "is empty" if not size else f"is {guess(head)}, or a damaged checkpoint"
        raise CheckpointError(f"{given} is no checkpoint: it {kind}.")


def guess(head):
    """What a file that is no checkpoint looks like, by its first bytes."""
    kinds = [
        (b"\x89HDF", "an HDF5 (Keras) file"),
        (b"PK\x03\x04", "a zip (.keras) file"),
        (b"\x1f\x8b", "a gzip file"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"\x89PNG", "a PNG image"),
    ]
    for magic, kind in kinds:
        if head.startswith(magic):
            return kind
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "an HTML page"
    return "a file of another kind"
