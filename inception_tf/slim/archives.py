"""Finding the checkpoint in a directory, and getting it out of a .tar, .tar.gz or .tgz. Needs no TensorFlow.

Archives are untrusted: nothing is written outside the given directory, only regular files of a checkpoint are kept,
and the unpacked size is bounded.
"""

import contextlib
import gzip
import os
import re
import tarfile
import tempfile
import zlib
from pathlib import Path, PureWindowsPath

from inception_tf.errors import CheckpointError, InceptionTFError, listed, raising
from inception_tf.files import refuse_existing, refuse_lfs_pointer

MAX_BYTES = 4 << 30
MAX_MEMBERS = 10_000

# A V1 checkpoint is a LevelDB table, and so is the .index of a V2 one: their last 8 bytes
# (tensorflow/core/lib/io/format.h, kTableMagicNumber).
_TABLE_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_BELONGS = re.compile(
    r"checkpoint|.+\.(index|meta|data-\d{5}-of-\d{5}|pb)"
    r"|imagenet_2012_challenge_label_map_proto\.pbtxt|imagenet_synset_to_human_label_map\.txt"  # of the graph of 2015
    r"|cropped_panda\.jpg|(retrained|output)_labels\.txt"
)
# What follows the prefix of V1 shards; the Saver's `checkpoint` file has question marks for the number.
_SHARD = re.compile(r"-(\d{5}|\?{5})-of-\d{5}$")
_CHUNK = 1 << 20
_BY_HAND = "If you trust it, unpack it yourself and give the checkpoint's path."
# tarfile reads a header's extension into memory: no valid one is near this.
_MAX_READ = 16 << 20


def is_archive(path):
    """Whether `path` is a gzip or tar file, by its first bytes. False for what cannot be read."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
        return head.startswith(b"\x1f\x8b") or bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape"))
    except (tarfile.TarError, OSError):
        return False


def find_checkpoint(where, place=None):
    """The checkpoint that a directory stands for.

    The one its `checkpoint` file names as the latest (beside that file first, since the paths in it may be another
    machine's); without such a file the only one of `candidates`, else the highest step of `stem-<step>`.

    Args:
        where: a directory (its subdirectories are not searched), or a list of files, as `extract_checkpoint` returns.
        place: what messages call it. Default: the directory.

    Returns:
        The path of a V1 file, a V2 prefix (`model.ckpt-20000`, which is not itself a file), a SavedModel's directory
        or a frozen graph.

    Raises:
        CheckpointError: there is none; the `checkpoint` file names one that is not there, whatever else is, or holds
            something else; or there are several and nothing says which.
    """
    files, found = _list(where), candidates(where)
    in_archive = not isinstance(where, (str, Path))
    place = place or (where if not in_archive else (files[0].parent if files else "The list of files"))
    states = [file for file in files if file.name == "checkpoint"]
    states = [state for state in states if state.parent in {path.parent for path in found}] or states
    latest = _latest(states[0], place) if len(states) == 1 else None
    if latest:
        beside = states[0].parent / _SHARD.sub("", PureWindowsPath(latest).name)
        if beside in found:
            return beside
        # A list of files may be that of an archive, which must not lead to files outside it.
        named = states[0].parent / latest
        if not in_archive and (named.is_file() or Path(f"{named}.index").is_file()):
            return named
    if not found:
        alone = [file.name for file in files if ".data-" in file.name]
        but = f" {alone[0]} is there without its .index file." if alone else ""
        but += f" Its `checkpoint` file names {latest}, which is not there." if latest else ""
        raise CheckpointError(
            f"{place} holds no TF-Slim checkpoint: no .index file, no V1 checkpoint, no frozen graph.{but}"
        )
    if not latest and len(found) == 1:
        return found[0]
    steps = [re.fullmatch(r"(.*)-(\d+)", str(path)) for path in found]
    if not latest and all(steps) and len({match[1] for match in steps}) == 1:
        return max(zip(found, steps), key=lambda pair: int(pair[1][2]))[0]
    root = os.path.commonpath([path.parent for path in found]) if in_archive else ""
    names = ", ".join(os.path.relpath(path, root) if root else str(path) for path in found)
    give = f"{_BY_HAND} It holds: {names}" if in_archive else f"Give the path of what is there: {names}"
    if latest:
        raise CheckpointError(f"The `checkpoint` file of {place} names {latest}, which is not there.\n{give}")
    raise CheckpointError(
        f"{place} holds several checkpoints, and a `checkpoint` file to say which is missing.\n{give}"
    )


def candidates(where):
    """The checkpoints in a directory or a list of files, by the first of these kinds that is there.

    V2 prefixes; V1 files and prefixes of V1 shards; the directories of SavedModels; frozen graphs.
    """
    files = _list(where)
    saved_models = [file.parent for file in files if file.name == "saved_model.pb"]
    inside = [folder / "variables" for folder in saved_models]
    files = [file for file in files if file.parent not in inside]
    prefixes = [file.with_suffix("") for file in files if file.suffix == ".index"]
    v1 = (file.with_name(_SHARD.sub("", file.name)) for file in files if is_table(file))
    graphs = [file for file in files if file.suffix == ".pb"]
    return prefixes or list(dict.fromkeys(v1)) or saved_models or graphs


def extract_checkpoint(archive, directory, max_bytes=MAX_BYTES):
    """Unpacks the files of the checkpoints in an archive, and nothing else.

    Args:
        archive: path of a .tar, .tar.gz or .tgz, recognized by its content.
        directory: where to; created if missing. Files land directly in it, or where two share a name and for a
            SavedModel, in the archive's own directories.
        max_bytes: the most the archive may unpack to, with all it holds.

    Returns:
        The paths written, sorted; for `find_checkpoint`.

    Raises:
        CheckpointError: truncated, corrupt, no checkpoint in it, too large, or unsafe: a path that leads out of the
            directory, a link, a device. Nothing is written then.
        InceptionTFError: the operating system refused.
        UsageError: a file it would write exists.
    """
    archive, directory = Path(archive), Path(directory)
    with raising(InceptionTFError, f"Cannot unpack {archive} into {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        with _unpacked(archive, directory, max_bytes) as parts:
            names = [name.name for name in parts]
            flat = len(set(names)) == len(names) and "saved_model.pb" not in names
            targets = {directory / (name.name if flat else name): part for name, part in parts.items()}
            for target in targets:
                refuse_existing(target)
            for target, part in targets.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                part.rename(target)
    return sorted(targets)


def check_archive(archive, max_bytes=MAX_BYTES):
    """Unpacks an archive beside it for a moment and raises the `CheckpointError` that `extract_checkpoint` would."""
    with _unpacked(Path(archive), Path(archive).parent, max_bytes):
        pass


@contextlib.contextmanager
def _unpacked(archive, directory, max_bytes):
    """Unpacks to a temporary directory in `directory`; yields {path in the archive: file} for the checkpoints."""
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=directory) as scratch:
        _unpack(archive, scratch, max_bytes)
        files = _list(Path(scratch).rglob("*"))
        tables = [file for file in files if is_table(file)]
        for file in files:
            refuse_lfs_pointer(file, f"{file.name} in {archive}")
        if not tables and not any(file.suffix == ".pb" for file in files):
            names = listed(str(file.relative_to(scratch)) for file in files) or "nothing"
            raise CheckpointError(f"{archive} holds no checkpoint. It holds: {names}")
        yield {file.relative_to(scratch): file for file in files if file in tables or _BELONGS.fullmatch(file.name)}


def _unpack(archive, directory, max_bytes):
    """Unpacks an archive's files to `directory`, reading the archive to its end."""
    try:
        with archive.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = _Bounded(gzip.GzipFile(fileobj=raw) if compressed else raw, archive, max_bytes)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for number, member in enumerate(tar):
                    if number == MAX_MEMBERS:
                        raise CheckpointError(f"{archive} holds more than {MAX_MEMBERS} files. {_BY_HAND}")
                    if member.issparse() or not (member.isreg() or member.isdir()):
                        raise CheckpointError(f"{archive} is unsafe: {member.name!r} is a link or a device. {_BY_HAND}")
                    tar.extract(member, directory, set_attrs=False, filter="data")
            # gzip compares its checksum at the end, which tarfile does not read to.
            while stream.read(_CHUNK):
                pass
    except tarfile.FilterError as error:
        raise CheckpointError(f"{archive} is unsafe: {error}. {_BY_HAND}") from error
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, RecursionError) as error:
        alone = " If it is one file that was compressed, decompress it first (gunzip)." if compressed else ""
        raise CheckpointError(f"{archive} is no tar archive, or a truncated or corrupt one: {error}.{alone}") from error


class _Bounded:
    """A file that ends in an error past `limit` bytes, so that what it unpacks to costs neither disk nor memory."""

    def __init__(self, file, archive, limit):
        self.file, self.archive, self.limit = file, archive, limit
        self.tell = file.tell

    def _check(self, position):
        if position > self.limit:
            raise CheckpointError(f"{self.archive} unpacks to more than {self.limit:,} bytes. {_BY_HAND}")

    def read(self, size):
        if not 0 <= size <= _MAX_READ:
            raise CheckpointError(f"{self.archive} has a header of {size:,} bytes: corrupt or malicious.")
        data = self.file.read(size)
        self._check(self.file.tell())
        return data

    def seek(self, position):
        self._check(position)
        return self.file.seek(position)


def _list(where):
    with raising(CheckpointError, f"Cannot read {where}"):
        files = Path(where).iterdir() if isinstance(where, (str, Path)) else map(Path, where)
        return sorted(file for file in files if file.is_file() and not file.name.startswith("._"))


def is_table(path):
    """Whether a file is a LevelDB table: a V1 checkpoint, or the index of a V2 one. False for what cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_TABLE_MAGIC), os.SEEK_END)
            return file.read() == _TABLE_MAGIC
    except OSError:
        return False


def _latest(state, place):
    """`model_checkpoint_path` of a `checkpoint` file, a CheckpointState in text format; None where it is empty."""
    text = re.sub(rb"(?m)^\s*#.*", b"", state.read_bytes())
    match = re.search(rb"""(?<!\w)model_checkpoint_path\s*:\s*(?:"((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.)*)')""", text)
    if not match:
        if text.strip() and not is_table(state):
            raise CheckpointError(
                f"The `checkpoint` file of {place} cannot be read: there is no model_checkpoint_path in it. "
                "Give the path of the checkpoint itself."
            )
        return None
    # The text format escapes as Python does, and writes UTF-8 as octal escapes, byte by byte.
    named = match[1] or match[2] or b""
    with contextlib.suppress(ValueError):  # a path of Windows, written by hand, is not escaped
        named = named.decode("unicode_escape").encode("latin-1")
    return named.decode("utf-8", "surrogateescape")
