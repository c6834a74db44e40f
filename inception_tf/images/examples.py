"""Labeled images in any order: the base of class folders, TFRecords and datasets."""

import copy
import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from inception_tf.errors import ImageError, UsageError, listed
from inception_tf.images.decoding import decode_image
from inception_tf.images.labels import load_labels
from inception_tf.progress import Progress

# No photograph has a larger aspect ratio, and VGG's training preprocessing could not resize it.
_MAX_ASPECT_RATIO = 300
_MAX_CLASSES = 100_000
TAKEN = (
    "Labeled images are taken as: a folder of class folders; CSV, TSV or Parquet files of paths and labels; "
    "WebDataset's .tar files; Slim's TFRecords; hf:NAME or tfds:NAME; in Python, also a tf.data.Dataset or a "
    "datasets.Dataset."
)


class Examples:
    """Labeled images that can be read in any order. `sources.open_examples` makes them.

    A subclass says in `read` and `_size` what an element of `sources` means.

    Attributes:
        labels: int64 array of shape (N,), 0 to classes - 1; where images have several labels, or none, a float32 array
            N×classes of 0 and 1.
        class_names: list of str, the name of every class. TFRecords may have a class without images.
        names: list of N different str, for reports: the path within the data, "shard:record", "element 12".
        skipped: dict from names to the reason why that image, or the rest of that shard, was left out.
        origins: set of the resolved paths that the images come from.
    """

    def __init__(self, sources, labels, class_names, names, skipped=None, origins=()):
        self._sources = list(sources)
        self.origins = {os.path.realpath(path) for path in origins}
        several = np.ndim(labels) == 2 and getattr(labels, "dtype", None) == np.float32
        self.labels = labels if several else np.asarray(labels, np.int64).reshape(-1)
        self.class_names, self.names, self.skipped = list(class_names), list(names), dict(skipped or {})

    def __len__(self):
        return len(self._sources)

    @property
    def multi_label(self):
        """Whether an image has several labels, or none."""
        return self.labels.ndim == 2

    @property
    def class_counts(self):
        """int64 array (classes,): how many images a class has."""
        if self.multi_label:
            return self.labels.sum(axis=0).astype(np.int64)
        return np.bincount(self.labels, minlength=len(self.class_names))

    def members(self, label):
        """int64 array: the indices of the images that have a class."""
        return np.flatnonzero(self.labels[:, label] if self.multi_label else self.labels == label)

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
        """Splits every class by the names of its files: independent of their folder and their order.

        A class's images are ordered by the SHA-256 of their file name, without the folders above it. The first
        `fraction * n` are held out, halves rounded up; at least one is, and at least one is not. Where images have
        several labels, the rarest class goes first, and those without a label last; what one class decided stays
        (arXiv 1310.5288 has it so too), so that the others' numbers are about those.

        Args:
            fraction: the part to hold out, between 0 and 1.

        Returns:
            Two Examples: the rest, and those held out. Both keep the order; `skipped` stays with the rest.

        Raises:
            UsageError: a fraction out of range, a class with one image only.
        """
        if not 0 < fraction < 1:
            raise UsageError(f"The fraction to hold out must be between 0 and 1. Received: {fraction}")
        held_out, open_, counts = np.zeros(len(self), bool), np.ones(len(self), bool), self.class_counts
        groups = [self.members(label) for label in np.argsort(counts, kind="stable") if counts[label]]
        if self.multi_label and not self.labels.any(axis=1).all():
            groups.append(np.flatnonzero(~self.labels.any(axis=1)))
        single = [self.class_names[label] for label in np.flatnonzero(counts == 1)]
        for members in groups:
            count = min(max(math.floor(fraction * len(members) + 0.5), 1), len(members) - 1)
            count = max(count - held_out[members].sum(), 0)
            free = members[open_[members]]
            keys = {i: (hashlib.sha256(_utf8(self._split_key(i))).digest(), self.names[i]) for i in free}
            held_out[sorted(free, key=keys.get)[:count]] = True
            open_[members] = False
        if single:
            advice = "Add images, or name the validation images (--val, val=)."
            raise UsageError(f"One image cannot be split. {advice} Received: one image of {listed(single)}.")
        rest, part = self.subset(~held_out), self.subset(held_out)
        part.skipped = {}
        return rest, part

    def checked(self, complete=True):
        """Decodes every image once and leaves out, with the reason in `skipped`, those that cannot be decoded.

        Args:
            complete: whether it is an error when a class loses all of its images.

        Returns:
            Examples, in the same order.

        Raises:
            UsageError: no image is left, or none of a class.
        """
        workers = os.cpu_count() or 1
        reasons = {}
        block = 64 * workers  # Ctrl-C waits for one block, not for all
        with ThreadPoolExecutor(workers) as pool, Progress("checking", len(self), "images") as progress:
            for start in range(0, len(self), block):
                indices = range(start, min(start + block, len(self)))
                for i, reason in zip(indices, pool.map(self._decoding_error, indices)):
                    progress.advance()
                    if reason:
                        reasons[i] = reason
        part = self.subset([i for i in range(len(self)) if i not in reasons])
        part.skipped |= {self.names[i]: reason for i, reason in reasons.items()}
        lost = np.flatnonzero((self.class_counts > 0) & (part.class_counts == 0)).tolist()
        if not len(part) or (lost and complete):
            whose = f" of {listed([self.class_names[label] for label in lost])}" if len(part) else ""
            theirs = {i for label in lost for i in self.members(label)}
            first = next((f" The first: {self.names[i]}: {reasons[i]}" for i in reasons if i in theirs), "")
            raise UsageError(f"No image{whose} can be read.{first}")
        return part

    def _decoding_error(self, index):
        try:
            height, width, _ = decode_image(self.read(index)).shape
        except ImageError as error:
            return str(error)
        if max(height, width) > _MAX_ASPECT_RATIO * min(height, width):
            return f"The image is too long and narrow: {width} × {height} pixels."
        return None

    def described(self):
        """Where the images come from, in a few words."""
        return listed(sorted(map(os.path.basename, self.origins))) or "images in memory"

    def fingerprint(self):
        """16 hexadecimal digits, other ones when the names, the labels, the class names or the files' sizes are."""
        digest = hashlib.sha256()
        for row in (self.class_names, *zip(self.names, self.labels.tolist(), map(self._size, range(len(self))))):
            digest.update(_utf8("\0".join(map(str, row)) + "\n"))
        return digest.hexdigest()[:16]


def named_or_numbered(raw, offset, labels, examples):
    """As `numbered_classes`, for data whose labels are names too: their classes, sorted unless `labels` orders them."""
    if all(str(label).removeprefix("-").isdecimal() for label in raw):
        return numbered_classes([int(label) for label in raw], offset, labels, examples)
    if offset:
        raise UsageError("labels_offset is for labels that are numbers. Those of this data are names.")
    raw = list(map(str, raw))
    names, number = _named_classes(set(raw), labels)
    return np.array([number[label] for label in raw], np.int64), names


def several_labels(raw, offset, labels):
    """The labels float32 N×classes of 0 and 1, and the classes' names, sorted unless `labels` orders them.

    Args:
        raw: a list of names for every image.
        offset, labels: `labels_offset` and `labels` of `sources.open_examples`.

    Raises:
        UsageError: an offset; a name that is not among `labels`; fewer than two classes.
    """
    if offset:
        raise UsageError("labels_offset is for labels that are numbers. Several labels of an image are names.")
    names, number = _named_classes({name for row in raw for name in row}, labels)
    matrix = np.zeros((len(raw), len(names)), np.float32)
    for i, row in enumerate(raw):
        matrix[i, [number[name] for name in row]] = 1
    return matrix, names


def _named_classes(there, labels):
    """The classes' names, those that are `there` unless `labels` has them, and a dict from them to their numbers."""
    names = load_labels(labels) if isinstance(labels, (str, Path)) else labels
    names = sorted(there) if names is None else list(names)
    if unknown := sorted(there.difference(names)):
        raise UsageError(f"Labels that are not among the {len(names)} classes ({listed(names)}): {listed(unknown)}.")
    if len(names) < 2:
        found = f"one class only, {names[0]!r}" if names else "no labels"
        raise UsageError(f"The data holds {found}. Expected two classes or more.")
    return names, {name: i for i, name in enumerate(names)}


def numbered_classes(raw, offset, labels, examples):
    """The labels minus the offset, and the names of their classes, for data that numbers its classes.

    Args:
        raw: the labels in the data.
        examples: their names, for messages.
        offset, labels: `labels_offset` and `labels` of `sources.open_examples`.

    Raises:
        UsageError: a label that is negative after the subtraction, or that has no name; one class.
    """
    numbers = np.asarray(raw, np.int64).reshape(-1) - offset
    if labels is None:
        names = [f"class {i}" for i in range(min(max(numbers.max(), 0) + 1, _MAX_CLASSES))]
    else:
        names = load_labels(labels)[offset:] if isinstance(labels, (str, Path)) else list(labels)
    wrong = np.flatnonzero((numbers < 0) | (numbers >= len(names)))
    if wrong.size:
        after = f" after labels_offset {offset} is subtracted" if offset else ""
        source = labels if isinstance(labels, (str, Path)) else "the labels given"
        known = "" if labels is None else f", the {len(names)} classes of {source}"
        more = ""
        if not offset and numbers.min() == 1 and numbers.max() == len(names):
            more = " The data counts from 1: give --labels-offset 1 (labels_offset=1)"
            more += f", and {source} a first line for label 0." if isinstance(labels, (str, Path)) else "."
        raise UsageError(
            f"Labels out of range{after}. Expected 0 to {len(names) - 1}{known}. Received: {numbers[wrong[0]]}, "
            f"{examples[wrong[0]]}, the first of {wrong.size}.{more}"
        )
    if len(names) < 2:
        raise UsageError(f"The data holds one class only, label {raw[0]}. Expected two or more.")
    return numbers, names


def _utf8(text):
    return text.encode("utf-8", "surrogateescape")
