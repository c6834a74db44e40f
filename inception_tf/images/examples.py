"""Labelled images to train and evaluate on: class folders, Slim's TFRecords, any tf.data.Dataset."""

import contextlib
import copy
import glob
import hashlib
import io
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from inception_tf.errors import ImageError, UsageError
from inception_tf.images.decoding import decode_image
from inception_tf.images.files import IMAGE_SUFFIXES
from inception_tf.images.labels import load_labels
from inception_tf.progress import Progress

_VALIDATION = ("val", "validation", "valid")
# No photograph is longer in proportion, and VGG's training preprocessing could not resize it.
_LONGEST = 300
_MOST_CLASSES = 100_000


class Examples:
    """Labelled images that can be read in any order. `open_examples` makes them.

    Attributes:
        labels: int64 array of shape (N,), 0 to classes - 1.
        class_names: list of str, the name of every class. TFRecords may have a class without images.
        names: list of N different str, for reports: the path within the data, "shard:record", "element 12".
        skipped: dict from names to the reason why that image, or the rest of that shard, was left out.
    """

    def __init__(self, sources, labels, class_names, names, skipped=None, origins=()):
        self._sources = list(sources)
        self._origins = {os.path.realpath(path) for path in origins}
        self.labels = np.asarray(labels, np.int64).reshape(-1)
        self.class_names, self.names, self.skipped = list(class_names), list(names), dict(skipped or {})

    def __len__(self):
        return len(self._sources)

    def read(self, index):
        """The bytes of an image's file, as they are stored.

        Raises:
            ImageError: it cannot be read any more.
        """
        raise NotImplementedError

    def _size(self, index):
        raise NotImplementedError

    def _split_key(self, index):
        return self.names[index]

    def encoded(self, index):
        """An image for `decoding.decode_image_graph`, in TensorFlow ops: for `tf.data.Dataset.map`.

        The bytes of `read`; but GIF, BMP and animated WEBP become a PNG of the pixels `decode_image` gives, since
        TensorFlow does not decode all of them.

        Args:
            index: scalar int64 tensor, 0 to N - 1.

        Returns:
            Scalar string tensor.
        """
        import tensorflow as tf

        return _in_graph(lambda i: _decodable(self.read(int(i))), tf.cast(index, tf.int64))

    def subset(self, indices):
        """The examples at `indices` (integers, or N booleans), in that order, with the same classes."""
        indices = np.asarray(indices)
        indices = np.flatnonzero(indices) if indices.dtype == bool else indices.astype(np.int64)
        part = copy.copy(self)
        part._sources = [self._sources[i] for i in indices]
        part.names = [self.names[i] for i in indices]
        part.labels = self.labels[indices]
        part.class_names, part.skipped = list(self.class_names), dict(self.skipped)
        return part

    def split(self, fraction):
        """Splits every class by the names of its files: the same wherever they lie and in whatever order.

        A class's images are ordered by the SHA-256 of their file name, without the folders above it. The first
        `round(fraction * n)` are held out; at least one is, and at least one is not.

        Args:
            fraction: the part to hold out, between 0 and 1.

        Returns:
            Two Examples: the rest, and those held out. Both keep the order; `skipped` stays with the rest.

        Raises:
            UsageError: a fraction out of range, a class with one image only.
        """
        if not 0 < fraction < 1:
            raise UsageError(f"The fraction to hold out must be between 0 and 1. Received: {fraction}")
        held_out, single = np.zeros(len(self), bool), []
        for label in np.unique(self.labels):
            members = np.flatnonzero(self.labels == label)
            if len(members) == 1:
                single.append(self.class_names[label])
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            keys = {i: hashlib.sha256(_utf8(self._split_key(i))).digest() for i in members}
            held_out[sorted(members, key=lambda i: (keys[i], self.names[i]))[:count]] = True
        if single:
            raise UsageError(
                "A class of one image cannot be split into training and validation. Add images, or name the validation "
                f"images (--val, val=). Received: one image of {_some(single)}."
            )
        rest, part = self.subset(~held_out), self.subset(held_out)
        part.skipped = {}
        return rest, part

    def checked(self, workers=None, complete=True):
        """Decodes every image once and leaves out, with the reason in `skipped`, those that cannot be decoded.

        Args:
            workers: threads. Default: one a processor.
            complete: whether it is an error when a class loses all of its images.

        Returns:
            Examples, in the same order.

        Raises:
            UsageError: no image is left, or none of a class.
        """
        workers = workers or os.cpu_count() or 1
        reasons = {}
        block = 64 * workers  # Ctrl-C waits for one block, not for all
        with ThreadPoolExecutor(workers) as pool, Progress("checking", len(self), "images") as progress:
            for start in range(0, len(self), block):
                indices = range(start, min(start + block, len(self)))
                for i, reason in zip(indices, pool.map(self._fault, indices)):
                    progress.advance()
                    if reason:
                        reasons[i] = reason
        part = self.subset(np.array([i not in reasons for i in range(len(self))], bool))
        part.skipped |= {self.names[i]: reason for i, reason in reasons.items()}
        lost = sorted(set(self.labels.tolist()) - set(part.labels.tolist()))
        if not len(part) or (lost and complete):
            whose = f" of {_some([self.class_names[label] for label in lost])}" if len(part) else ""
            first = next((f" The first: {self.names[i]}: {reasons[i]}" for i in reasons if self.labels[i] in lost), "")
            raise UsageError(f"No image{whose} can be read.{first}")
        return part

    def _fault(self, index):
        try:
            height, width, _ = decode_image(self.read(index)).shape
        except ImageError as error:
            return str(error)
        if max(height, width) > _LONGEST * min(height, width):
            return f"The image is too long and narrow: {width} × {height} pixels."
        return None

    def fingerprint(self):
        """16 hexadecimal digits, other ones when the names, the labels, the class names or the files' sizes are."""
        digest = hashlib.sha256()
        for row in (self.class_names, *zip(self.names, self.labels.tolist(), map(self._size, range(len(self))))):
            digest.update(_utf8("\0".join(map(str, row)) + "\n"))
        return digest.hexdigest()[:16]


class FolderExamples(Examples):
    """The files of class folders. Their paths are kept as the bytes that TensorFlow takes."""

    def read(self, index):
        path = Path(os.fsdecode(self._sources[index]))
        try:
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"Cannot read {path}: {error.strerror or error}.") from error

    def _size(self, index):
        with contextlib.suppress(OSError):
            return os.path.getsize(self._sources[index])
        return None

    def _split_key(self, index):
        return self.names[index].rpartition("/")[2]

    def encoded(self, index):
        import tensorflow as tf

        with tf.init_scope():  # once, beside the graph: not a constant in it
            paths = tf.constant(self._sources, tf.string)
        data = tf.io.read_file(paths[index])
        plain = (tf.strings.substr(data, 0, 3) == _JPEG) | (tf.strings.substr(data, 0, 8) == _PNG)
        return tf.cond(plain, lambda: data, lambda: _in_graph(_decodable, data))


_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def _in_graph(function, argument):
    import tensorflow as tf

    return tf.ensure_shape(tf.numpy_function(function, [argument], tf.string, stateful=False), ())


def _decodable(data):
    """`data` in a form that `decode_image_graph` takes, where there is one."""
    animated = data[12:16] == b"VP8X" and len(data) > 20 and data[20] & 2
    if data.startswith((_JPEG, _PNG)) or (data.startswith(b"RIFF") and not animated):
        return data
    from PIL import Image

    try:
        pixels = decode_image(data)
    except ImageError:
        return data  # let the graph's decoder say so
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def open_examples(data, labels=None, labels_offset=0, complete=True):
    """Labelled images, opened but not read.

    Args:
        data: one of
            a folder of class folders, `data/<class>/<image>`: the classes are the folders' names, sorted. Hidden files
                and files that do not end as an image's name does are left out.
            TFRecord files or patterns, one or a list, as Slim's scripts write them: `records.open_records`.
            a `tf.data.Dataset` of (image, label): `datasets.open_dataset`.
        labels: the class names in order, a list or the path of a labels file. Default: as said above.
        labels_offset: of TFRecords and datasets, is subtracted from every label, as Slim's option of that name: 1 turns
            ImageNet's labels 1 to 1000 into those of a network without a background class. A list of `labels` names the
            classes that result; a labels file names the labels that are in the data.
        complete: whether every one of `labels` must have a class folder, and every folder an image.

    Raises:
        UsageError: no such file; no images; fewer than two classes; images beside the class folders or below them; an
            empty class folder; class folders that do not agree with the labels; labels out of range.
    """
    if hasattr(data, "element_spec"):
        from inception_tf.images.datasets import open_dataset

        return open_dataset(data, labels, labels_offset)
    files = _files(data)
    if not files[0].is_dir():
        from inception_tf.images.records import open_records

        return open_records(files, labels, labels_offset)
    if labels_offset:
        raise UsageError("labels_offset is for labels that are numbers. The classes of folders are their names.")
    split = _split_folders(files[0])
    if split:
        names = " and ".join(f"{folder.name}/" for folder in split if folder)
        raise UsageError(f"{files[0]} holds {names}. Name the one that is meant, for example {split[0]}.")
    return _open_folder(files[0], load_labels(labels) if isinstance(labels, (str, Path)) else labels, complete)


def open_training_data(data, val=None, val_fraction=0.2, labels=None, labels_offset=0):
    """Labelled images for training, and others for validation, with the same classes.

    Without `val`, the validation images of a folder with `train/` are those of its `val/`, `validation/` or `valid/`
    (of its `test/` never). Where there are none, `Examples.split` holds out a part of the training images.

    Args:
        data, labels, labels_offset: as for `open_examples`.
        val: the validation images, as `data`, or the name of a folder in `data`. They may lack images of a class.
        val_fraction: the part that is held out where there are no validation images.

    Returns:
        Two Examples.

    Raises:
        UsageError: as `open_examples` and `Examples.split`; training images of one class only; validation images that
            are also training images, or of other classes.
    """
    if not hasattr(data, "element_spec") and (root := _files(data)[0]).is_dir():
        train_folder, val_folder = _split_folders(root) or (None, None)
        data = train_folder or root
        if val is None:
            val = val_folder
        elif isinstance(val, (str, os.PathLike)) and not os.path.lexists(val) and (root / val).is_dir():
            val = root / val
    train = open_examples(data, labels, labels_offset)
    present = np.unique(train.labels)
    if len(present) < 2:
        raise UsageError(
            f"All training images are of one class, {train.class_names[present[0]]!r}. Expected two or more."
        )
    if val is None:
        return train.split(val_fraction)
    held_out = open_examples(val, train.class_names, labels_offset, complete=False)
    if held_out._origins & train._origins:
        both = _some(sorted(os.path.basename(path) for path in held_out._origins & train._origins))
        raise UsageError(
            f"The validation images would be training images too: {both}. Name others, or leave validation out: a part "
            "of the training images is held out then."
        )
    return train, held_out


def _files(data):
    """What paths and patterns stand for: files, or one directory."""
    arguments = [data] if isinstance(data, (str, os.PathLike)) else list(data)
    if not arguments:
        raise UsageError("No data given. Pass a folder of class folders, or TFRecord files.")
    files = {}
    for argument in arguments:
        path = os.path.expanduser(os.fspath(argument))
        matches = [path] if path and os.path.exists(path) else sorted(glob.glob(path, recursive=True))
        if not matches:
            raise UsageError(f"No such file or directory, and no pattern that matches one: {os.fspath(argument)!r}.")
        files |= dict.fromkeys(map(Path, matches))
    folders = [str(path) for path in files if path.is_dir()]
    if folders and len(files) > 1:
        raise UsageError(
            f"Expected one folder of class folders, or TFRecord files. Received: {_some(list(map(str, files)))}."
        )
    return list(files)


def _list(folder):
    """The visible subfolders and image files of a folder, sorted."""
    try:
        with os.scandir(folder) as entries:
            visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise UsageError(f"Cannot read the folder {folder}: {error.strerror}.") from error
    folders = [Path(entry.path) for entry in visible if entry.is_dir()]
    images = [entry for entry in visible if not entry.is_dir() and entry.name.lower().endswith(IMAGE_SUFFIXES)]
    return folders, images


def _split_folders(root):
    """(train, val or None) where `root` holds such folders of class folders; None where it does not."""

    def with_classes(names):
        candidates = [folder for folder in _list(root)[0] if folder.name.lower() in names]
        contents = {folder: _list(folder) for folder in candidates}
        return [folder for folder, (folders, images) in contents.items() if folders and not images]

    train = with_classes(["train"])
    if not train:
        return None
    val = with_classes(_VALIDATION)
    if len(val) > 1 or len(train) > 1:
        raise UsageError(f"{root} holds {_some([f'{f.name}/' for f in val + train])}. Name the ones that are meant.")
    return train[0], val[0] if val else None


def _open_folder(root, labels, complete):
    expected = f"Expected {root}/<class>/<image>."
    folders, stray = _list(root)
    if stray:
        raise UsageError(f"{expected} Received: {len(stray)} images beside the class folders, {stray[0].path}.")
    if not folders:
        raise UsageError(
            f"{expected} Received: a folder without folders. TFRecords are named by a pattern, {root}/train-*."
        )
    found = [folder.name for folder in folders]
    names = list(found if labels is None else labels)
    _agree(root, found, names, complete)
    sources, numbers, relative, skipped, empty = [], [], [], {}, []
    for folder in sorted(folders, key=lambda folder: names.index(folder.name)):
        subfolders, images = _list(folder)
        deep = next((image for subfolder in subfolders for image in _deep_images(subfolder)), None)
        if deep:
            raise UsageError(f"{expected} Received: an image too deep, {deep}.")
        before = len(sources)
        for entry in images:
            name = f"{folder.name}/{entry.name}"
            if entry.is_file():
                sources.append(os.fsencode(entry.path))
                relative.append(name)
            else:
                skipped[name] = "a link that leads nowhere" if entry.is_symlink() else "not a file"
        numbers += [names.index(folder.name)] * (len(sources) - before)
        if len(sources) == before:
            empty.append(folder.name)
    if not sources or (empty and complete):
        raise UsageError(
            f"Class folders without images: {_some(empty)}. Looked in {root} for files that end in "
            f"{', '.join(IMAGE_SUFFIXES)}. Add some, or remove the folders."
        )
    if len(names) < 2:
        raise UsageError(f"{root} holds one class, {names[0]!r}. Expected two or more.")
    return FolderExamples(sources, numbers, names, relative, skipped, [root])


def _agree(root, found, names, complete):
    extra = [name for name in found if name not in set(names)]
    missing = [name for name in names if name not in set(found)]
    twice = [name for name, count in Counter(names).items() if count > 1 and name in found]
    parts = [f"no class is called {_some(extra)}"] if extra else []
    parts += [f"no folder is called {_some(missing)}"] if missing and complete else []
    parts += [f"more than one class is called {_some(twice)}"] if twice else []
    if parts:
        raise UsageError(
            f"The folders of {root} and the {len(names)} classes ({_some(names)}) do not agree: {'; '.join(parts)}."
        )


def _deep_images(folder):
    for inner, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (
            os.path.join(inner, name)
            for name in sorted(names)
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)
        )


def numbered_classes(raw, offset, names, source, examples):
    """The labels minus the offset, and the names of their classes, for data that numbers its classes.

    Args:
        raw: the labels in the data. examples: their names, for messages.
        names: the class names, or None for "class 0", "class 1", …
        source: where the names come from, for messages.

    Raises:
        UsageError: a label that is negative after the subtraction, or that has no name; one class.
    """
    labels = np.asarray(raw, np.int64).reshape(-1) - offset
    if (labels < 0).any():
        first = int(np.argmax(labels < 0))
        raise UsageError(
            f"{int((labels < 0).sum())} labels are negative after labels_offset {offset} is subtracted. "
            f"The first: {examples[first]}, whose label is {labels[first] + offset}."
        )
    classes = int(labels.max()) + 1 if names is None else len(names)
    if (labels >= min(classes, _MOST_CLASSES)).any():
        first = int(np.argmax(labels >= min(classes, _MOST_CLASSES)))
        limit = f"more than {_MOST_CLASSES:,} classes" if names is None else f"{classes} classes ({source})"
        raise UsageError(
            f"Labels out of range, 0 to {min(classes, _MOST_CLASSES) - 1}: {limit}. The first: {examples[first]}, "
            f"whose label is {labels[first]}{f' after labels_offset {offset}' if offset else ''}."
        )
    if classes < 2:
        raise UsageError(f"The data holds one class only, label {raw[0]}. Expected two or more.")
    return labels, [f"class {i}" for i in range(classes)] if names is None else list(names)


def _utf8(text):
    return text.encode("utf-8", "surrogateescape")


def _some(values, most=5):
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")
