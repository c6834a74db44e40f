"""WebDataset's tar files, a member for an image and one of the same key for its label, read in any order."""

import json
import os
import tarfile
import zlib
from pathlib import Path

try:
    from lzma import LZMAError
except ImportError:  # a Python that was built without it
    LZMAError = OSError

from inception_tf.errors import ImageError, UsageError, listed, reason
from inception_tf.images.examples import named_or_numbered
from inception_tf.images.files import IMAGE_SUFFIXES
from inception_tf.images.records import Record, RecordExamples
from inception_tf.progress import Progress

_LABELS = ("cls", "label", "txt", "json")
# What is raised of a shard that is damaged.
_BROKEN = tarfile.TarError, OSError, EOFError, zlib.error, LZMAError


def open_tars(files, labels=None, labels_offset=0):
    """The images of WebDataset's shards, tar files without compression, of which the offsets are kept.

    The members of an image have the same name up to the first dot: `000/17.jpg` and `000/17.cls`. The label is the text
    of `.cls`, `.label` or `.txt`, or of a `.json` the value of "label", "cls" or "class": a name, or always a number.

    Args:
        files: paths of tar files.
        labels, labels_offset: see `sources.open_examples`.

    Raises:
        UsageError: a file that is no tar file or is compressed; no labeled image.
    """
    records, raw, names, skipped = [], [], [], {}
    folder = os.path.commonpath([Path(file).absolute().parent for file in files])
    with Progress("indexing", len(files), "files") as progress:
        for file in files:
            shard = os.path.relpath(Path(file).absolute(), folder)
            for key, members in _samples(file, shard, skipped).items():
                name = f"{shard}:{key}"
                image = _first_image(members)
                label = _first_label(members)
                if not isinstance(image, tuple) or label is None:
                    skipped[name] = "has no image" if image is None else f"has no label ({', '.join(_LABELS)})"
                    continue
                records.append(Record(os.fspath(file), *image, key))
                raw.append(label)
                names.append(name)
            progress.advance()
    if not records:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise UsageError(f"No labeled images in {listed(files)}. {reasons}")
    return RecordExamples(records, *named_or_numbered(raw, labels_offset, labels, names), names, skipped, files)


def iterate_tar(file, name):
    """Yields (`name`:key, bytes, label or None) of the images of a tar file, which may be compressed.

    An `ImageError` stands in place of what is broken.
    """
    broken = {}
    try:
        samples = _samples(file, name, broken, "r:*")
        with tarfile.open(file, "r:*") as tar:
            for key, members in samples.items():
                image = _first_image(members)
                if isinstance(image, tuple):
                    tar.fileobj.seek(image[0])
                    data = tar.fileobj.read(image[1])
                    whole = len(data) == image[1]
                    yield f"{name}:{key}", data if whole else ImageError("breaks off"), _first_label(members)
    except (UsageError, *_BROKEN) as error:
        broken[name] = str(error)
    for why in broken.values():
        yield name, ImageError(why), None


def _samples(file, shard, skipped, mode="r:"):
    """A dict from keys to dicts from endings to (offset, length) of images, and the labels."""
    samples = {}
    try:
        with tarfile.open(file, mode) as tar:
            for member in tar:
                base = os.path.basename(member.name)
                if not member.isfile() or base.startswith("."):
                    continue
                stem, _, end = base.partition(".")
                sample, end = samples.setdefault(os.path.join(os.path.dirname(member.name), stem), {}), end.lower()
                if f".{end}".endswith(IMAGE_SUFFIXES):
                    sample[end] = member.offset_data, member.size
                elif end in _LABELS:
                    sample[end] = _label(end, tar.extractfile(member).read())
    except _BROKEN as error:
        if not samples:
            compressed = ", or a compressed one; unpack it" if mode == "r:" else ""
            raise UsageError(f"{shard} is no tar file{compressed}: {reason(error).rstrip(':')}") from error
        skipped[shard] = f"breaks off: {reason(error)}"
    return samples


def _first_image(members):
    return next((members[end] for end in members if f".{end}".endswith(IMAGE_SUFFIXES)), None)


def _first_label(members):
    return next((label for end in _LABELS if (label := members.get(end)) is not None), None)


def _label(end, data):
    """The label in a member, a str; None where there is none."""
    try:
        if end == "json":
            values = json.loads(data)
            data = str(next(values[key] for key in ("label", "cls", "class") if key in values)).encode()
        return data.decode().strip() or None
    except (ValueError, TypeError, StopIteration):
        return None
