"""What TensorFlow's Saver writes: V1 and V2, sharded or not. What no other container takes is tried as one of these."""

import collections
import functools
import glob
import re
import tempfile
from pathlib import Path

from inception_tf.errors import CheckpointError, raising
from inception_tf.slim.archives import is_table
from inception_tf.slim.containers.base import Checkpoint
from inception_tf.slim.containers.bundle import check_index

# What follows a prefix in the names of a checkpoint's files; the Saver itself writes V1 shards as `-?????-of-00003`.
FILE_OF = re.compile(r"\.(index|meta)$|(\.data)?-(\d{5}|\?{5})-of-\d{5}$")

# What a file that is no checkpoint may be, by its first bytes.
KINDS = {
    b"\x89HDF": "an HDF5 (Keras) file",
    b"PK\x03\x04": "a zip file (unpack it first; a .keras file ends in .keras)",
    b"BZh": "a bzip2 file (unpack it first)",
    b"\xfd7zXZ": "an xz file (unpack it first)",
    b"\x1f\x8b": "a gzip file",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"<!doctype": "an HTML page",
    b"<html": "an HTML page",
}


class SaverCheckpoint(Checkpoint):
    """What TensorFlow's Saver writes, in its format V1 or V2."""

    def __init__(self, path, prefix, container, meta, held=None):
        self.prefix, self.meta, self.held = prefix, meta, held
        with raising(CheckpointError, f"{path} is damaged or incomplete", Exception):
            from tensorflow.python.training import py_checkpoint_reader

            self._reader = py_checkpoint_reader.NewCheckpointReader(prefix)
            shapes = {name: tuple(shape) for name, shape in self._reader.get_variable_to_shape_map().items()}
            dtypes = {name: dtype.as_numpy_dtype for name, dtype in self._reader.get_variable_to_dtype_map().items()}
        super().__init__(path, container, shapes, dtypes)

    def read(self, name):
        with raising(CheckpointError, f"{self.path} is damaged or incomplete: {name} cannot be read", Exception):
            return self._reader.get_tensor(name)

    @functools.cached_property
    def written_by(self):
        """Read from the graph beside it, `.meta`, where there is one."""
        from google.protobuf.message import DecodeError
        from tensorflow.compat.v1 import MetaGraphDef

        try:
            return tensorflow_of(MetaGraphDef.FromString(self.meta.read_bytes()))
        except (OSError, DecodeError):
            return None


def tensorflow_of(meta_graph):
    """The version of TensorFlow that a MetaGraphDef says it was written by, or None."""
    version = meta_graph.meta_info_def.tensorflow_version
    return f"TensorFlow {version}" if version else None


def files_of(path):
    """The files there are of the checkpoint of which `path` is the prefix or a file."""
    prefix = FILE_OF.sub("", path.name)
    return sorted(file for file in path.parent.glob("*") if FILE_OF.sub("", file.name) == prefix)


def try_open(source, path):
    """The checkpoint of which `path` is the prefix or a file."""
    held, prefix = None, Path(path).absolute()
    prefix = prefix.with_name(FILE_OF.sub("", prefix.name))
    if set("*?[\\") & set(str(prefix)):
        # TensorFlow takes its paths for patterns, and not all can be escaped.
        links = tempfile.TemporaryDirectory(prefix="inception_tf_")
        for file in prefix.parent.glob(glob.escape(prefix.name) + "*"):
            Path(links.name, "model" + file.name.removeprefix(prefix.name)).symlink_to(file)
        prefix, held = Path(links.name, "model"), links
    index, meta = f"{prefix.name}.index", prefix.with_name(f"{prefix.name}.meta")
    total, absent = _shards(prefix, ".data")
    if prefix.with_name(index).is_file():
        absent = absent if total else [f"{prefix.name}.data-00000-of-00001"]
        if absent:
            raise CheckpointError(f"{source} is incomplete: {', '.join(absent)} missing beside {index}.")
        data = [prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{total:05d}") for i in range(total)]
        check_index(source, prefix.with_name(index), data)
        return SaverCheckpoint(source, str(prefix), f"V2, {total} shards" if total > 1 else "V2", meta, held)
    if total:
        raise CheckpointError(f"{source} is incomplete: {index} is missing beside its .data files.")
    total, absent = _shards(prefix, "")
    if not total:
        if path.suffix == ".meta" and path.is_file() and not prefix.exists():
            raise CheckpointError(f"{source} is a graph without its weights: {index} and its .data files are missing.")
        _check_v1(source, prefix)
        return SaverCheckpoint(source, str(prefix), "V1", meta, held)
    if absent:
        raise CheckpointError(f"{source} is incomplete: {', '.join(absent)} missing.")
    return SaverCheckpoint(source, f"{prefix}-?????-of-{total:05d}", f"V1, {total} shards", meta, held)


def _shards(prefix, mark):
    """How many shards `prefix` has, 0 for none, and the names of those missing. Of several shardings the fullest."""
    found = collections.defaultdict(set)
    for file in prefix.parent.glob(f"{glob.escape(prefix.name)}{mark}-*-of-*"):
        if match := re.fullmatch(r"-(\d{5})-of-(\d{5})", file.name.removeprefix(prefix.name + mark)):
            found[int(match[2])].add(int(match[1]))
    total = max(found, key=lambda total: (len(found[total]) / total, total), default=0)
    return total, [f"{prefix.name}{mark}-{i:05d}-of-{total:05d}" for i in range(total) if i not in found[total]]


def _is_pytorch(path):
    """Whether a file is a state dict: a zip archive or a pickle of torch.save, or safetensors."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PK\x03\x04"):
        return b"/data.pkl" in head
    if path.suffix in (".pth", ".pt", ".bin", ".pkl", ".tar") and head[:1] == b"\x80":
        return True
    return head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < path.stat().st_size


def _check_v1(source, path):
    """Raises a `CheckpointError` where there is no file, or one that is no V1 checkpoint."""
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob(glob.escape(path.name) + "*"))[:5]
        hint = f" Beside it: {', '.join(near)}." if near else ""
        raise CheckpointError(f"There is no checkpoint at {source}.{hint}")
    if _is_pytorch(path):
        raise CheckpointError(
            f"{source} holds weights of PyTorch, which are not read here. Those of timm's tf_inception_v3, "
            "inception_v4 and inception_resnet_v2 came from Slim's published checkpoints: load those. The way from "
            "here to timm is to_timm."
        )
    if not is_table(path):
        with path.open("rb") as file:
            head = file.read(512).lstrip().lower()
        kind = next((kind for magic, kind in KINDS.items() if head.startswith(magic.lower())), "a file of another kind")
        kind = f"is {kind}, or a damaged checkpoint" if path.stat().st_size else "is empty"
        raise CheckpointError(f"{source} is no checkpoint: it {kind}.")
