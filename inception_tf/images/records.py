"""Slim's TFRecords: tf.train.Examples with `image/encoded` and `image/class/label`, read in any order."""

import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from inception_tf.errors import ImageError, UsageError, listed, raising
from inception_tf.images.examples import TAKEN, Examples, numbered_classes
from inception_tf.images.labels import imagenet_labels, load_labels
from inception_tf.progress import Progress
from inception_tf.quiet import start_tensorflow

# Around a record's data: its length (8 bytes) and the length's checksum (4) before, its own checksum (4) after.
_BEFORE, _AFTER = 12, 4


class Record(NamedTuple):
    """Where the bytes of an image lie, and what its file was called ("" where the record does not say)."""

    shard: str
    offset: int
    length: int
    filename: str


class RecordExamples(Examples):
    """Images in TFRecord files, of which only the offsets are kept."""

    def read(self, index):
        record = self._sources[index]
        with raising(ImageError, f"Cannot read {record.shard}"), Path(record.shard).open("rb") as file:
            file.seek(record.offset)
            data = file.read(record.length)
        if len(data) != record.length:
            raise ImageError(f"{record.shard} is shorter than it was when it was opened.")
        return data

    def _size(self, index):
        return self._sources[index].length

    def _split_key(self, index):
        return self._sources[index].filename or self.names[index]


def open_records(files, labels=None, labels_offset=0):
    """The images of TFRecord files as the scripts of research/slim/datasets write them.

    Every file is read once from end to end, its checksums are verified, and the offsets of the images are kept. A file
    that breaks off or is corrupted keeps the records before; it and records without an image or a label are listed in
    `skipped`. The classes are named by `labels`, else by a `labels.txt` beside the files, else by `image/class/text`
    where every label has one text, else "class 0", "class 1", …

    Args:
        files: paths, without compression.
        labels, labels_offset: see `sources.open_examples`.

    Raises:
        UsageError: no record can be used; compressed files; labels out of range.
    """
    start_tensorflow()
    records, raw, names, skipped, texts = [], [], [], {}, defaultdict(set)
    folder = os.path.commonpath([Path(file).absolute().parent for file in files])
    with Progress("indexing", sum(map(os.path.getsize, files)), "B") as progress:
        for file in files:
            shard = os.path.relpath(Path(file).absolute(), folder)
            for number, (offset, data) in enumerate(read_shard(file, shard, skipped)):
                progress.advance(_BEFORE + len(data) + _AFTER)
                name = f"{shard}:{number}"
                try:
                    image, label, filename, text = _parse(data)
                except ValueError as error:
                    skipped[name] = str(error)
                    continue
                records.append(Record(os.fspath(file), offset + data.find(image), len(image), filename))
                raw.append(label)
                names.append(name)
                if text:
                    texts[label].add(text)
    if not records:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise UsageError(f"No labeled images in {len(files)} TFRecord files. {reasons}. {TAKEN}")
    labels = _labels_beside(files) if labels is None else labels
    numbers, class_names = numbered_classes(raw, labels_offset, labels, names)
    if labels is None:
        texts = _unique_texts(texts)
        class_names = [texts.get(i + labels_offset, name) for i, name in enumerate(class_names)]
    return RecordExamples(records, numbers, class_names, names, skipped, files)


def read_shard(file, shard, skipped):
    """Yields (offset of the data, data) of every record; the reason why a file ends too early goes to `skipped`."""
    import tensorflow as tf

    offset = count = 0
    try:
        for data in tf.data.TFRecordDataset(os.fspath(file)).as_numpy_iterator():
            yield offset + _BEFORE, data
            offset += _BEFORE + len(data) + _AFTER
            count += 1
        complete = offset == os.path.getsize(file)  # to TensorFlow, less than a length at the end is the end
    except tf.errors.DataLossError:
        complete = False
    except tf.errors.OpError as error:
        skipped[shard] = f"cannot be read: {error.message.splitlines()[0]}"
        return
    if not count:
        with Path(file).open("rb") as opened:
            start = opened.read(3)
        if start == b"\x1f\x8b\x08" or (start[:1] == b"\x78" and int.from_bytes(start[:2], "big") % 31 == 0):
            raise UsageError(f"{file} is compressed, so its records cannot be read in any order. Unpack it (gunzip).")
        skipped[shard] = "holds no records" if complete else "not a TFRecord file, or broken from its start"
    elif not complete:
        skipped[shard] = f"breaks off after record {count - 1}: truncated or corrupted"


def iterate_records(file, name, names=False):
    """Yields (`name`:number, `image/encoded`, the label) of every record; where it is broken, an `ImageError`.

    The label is a number, or None; with `names` what the `labels.txt` beside the file or the record itself calls it.
    """
    start_tensorflow()
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    beside = _labels_beside([file]) if names else None
    beside, broken, number = load_labels(beside) if beside else [], {}, -1
    for number, (_, data) in enumerate(read_shard(file, name, broken)):
        try:
            features = tf.train.Example.FromString(data).features.feature
        except DecodeError:
            yield f"{name}:{number}", ImageError("is no tf.train.Example"), None
            continue
        images = features["image/encoded"].bytes_list.value
        label = next(iter(features["image/class/label"].int64_list.value), None)
        if label is not None and names:
            text = b"".join(features["image/class/text"].bytes_list.value).decode("utf-8", "replace")
            if 0 <= label < len(beside):
                text = beside[label]
            label = text if imagenet_labels().count(text) < 2 and text else label  # that list has "crane" twice
        yield f"{name}:{number}", images[0] if images else ImageError("has no image/encoded"), label
    for why in broken.values():
        yield f"{name}:{number + 1}", ImageError(why), None


def _parse(data):
    """(image, label, file name, class text) of a tf.train.Example."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        features = tf.train.Example.FromString(data).features.feature
    except DecodeError as error:
        raise ValueError("is no tf.train.Example") from error

    def values(key, kind):
        return getattr(features[key], kind).value if key in features else ()

    def text(key):
        value = values(key, "bytes_list")
        return value[0].decode("utf-8", "replace") if len(value) == 1 else ""

    image, label = values("image/encoded", "bytes_list"), values("image/class/label", "int64_list")
    if len(image) != 1 or not image[0]:
        raise ValueError("has no image/encoded")
    if len(label) != 1:
        raise ValueError(f"has {len(label) or 'no'} image/class/label, expected one int64")
    return image[0], label[0], os.path.basename(text("image/filename")), text("image/class/text")


def _labels_beside(files):
    """The `labels.txt` beside the files, or None."""
    paths = dict.fromkeys(Path(file).parent / "labels.txt" for file in files)
    paths = [path for path in paths if path.is_file()]
    if len({tuple(load_labels(path)) for path in paths}) > 1:
        raise UsageError(f"The labels beside the TFRecords differ. Pass one of them: {listed(paths)}")
    return paths[0] if paths else None


def _unique_texts(texts):
    """The text of every label where each has one of its own, else nothing."""
    named = {label: min(several) for label, several in texts.items()}
    # ImageNet's own texts have "crane" twice.
    consistent = all(len(several) == 1 for several in texts.values()) and len(set(named.values())) >= len(named) - 1
    return named if consistent else {}
