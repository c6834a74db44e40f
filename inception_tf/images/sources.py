"""Labeled images to train and evaluate on, opened by their kind: class folders, tables, archives, datasets."""

import os

import numpy as np

from inception_tf.errors import UsageError, listed
from inception_tf.images.examples import TAKEN
from inception_tf.images.files import expand
from inception_tf.images.folders import open_folder, split_folders
from inception_tf.images.hubs import PREFIXES, open_hub, open_hugging_face
from inception_tf.images.records import open_records
from inception_tf.images.table import SUFFIXES, open_table
from inception_tf.images.webdataset import open_tars


def open_examples(data, labels=None, labels_offset=0, complete=True):
    """Labeled images, opened but not read.

    Args:
        data: one of
            a folder of class folders, `data/<class>/<image>`: the classes are the folders' names, sorted. Hidden files
                and files that do not end as an image's name does are left out.
            CSV or Parquet files or patterns, one or a list: `table.open_table`.
            WebDataset's tar files, likewise: `webdataset.open_tars`.
            "hf:NAME" or "tfds:NAME", a data set of Hugging Face's or TensorFlow's packages: `hubs.open_hub`.
            TFRecord files or patterns, one or a list, as Slim's scripts write them: `records.open_records`.
            a `tf.data.Dataset` of (image, label): `datasets.open_dataset`; a `datasets.Dataset`.
        labels: the class names in order, a list or the path of a labels file. Default: as said above.
        labels_offset: where labels are numbers, is subtracted from every label, as Slim's option of that name: 1 turns
            ImageNet's labels 1 to 1000 into those of a network without a background class. A list of `labels` names the
            classes that result; a labels file names the labels that are in the data.
        complete: whether every one of `labels` must have a class folder, and every folder an image.

    Returns:
        `Examples`: so many (`len`) images with labels, and their `class_names`.

    Raises:
        UsageError: no such file; no images; fewer than two classes; images beside the class folders or below them; an
            empty class folder; class folders that do not agree with the labels; labels out of range.
    """
    if hasattr(data, "element_spec"):
        from inception_tf.images.datasets import open_dataset  # imports TensorFlow

        return open_dataset(data, labels, labels_offset)
    if hasattr(data, "cast_column"):
        return open_hugging_face(data, labels, labels_offset)
    if isinstance(data, str) and data.startswith(PREFIXES):
        return open_hub(data, labels, labels_offset)
    files = _files(data)
    if not files[0].is_dir():
        openers = {**dict.fromkeys(SUFFIXES, open_table), ".tar": open_tars}
        kinds = {openers.get(file.suffix.lower(), open_records) for file in files}
        if len(kinds) > 1:
            raise UsageError(f"Expected files of one kind. Received: {listed(files)}. {TAKEN}")
        return kinds.pop()(files, labels, labels_offset)
    if labels_offset:
        raise UsageError("labels_offset is for labels that are numbers. The classes of folders are their names.")
    return open_folder(files[0], labels, complete)


def open_training_data(data, val=None, val_fraction=0.2, labels=None, labels_offset=0):
    """Labeled images for training, and others for validation, with the same classes.

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
    in_memory = hasattr(data, "element_spec") or hasattr(data, "cast_column")
    of_a_hub = isinstance(data, str) and data.startswith(PREFIXES)
    if not in_memory and not of_a_hub and (root := _files(data)[0]).is_dir():
        train_folder, val_folder = split_folders(root) or (None, None)
        data = train_folder or root
        if val is None:
            val = val_folder
        elif isinstance(val, (str, os.PathLike)) and not os.path.lexists(val) and (root / val).is_dir():
            val = root / val
    train = open_examples(data, labels, labels_offset)
    present = np.flatnonzero(train.class_counts)
    if len(present) < 2:
        raise UsageError(f"All training images are of one class, {train.class_names[present[0]]!r}.")
    if val is None:
        return train.split(val_fraction)
    held_out = open_examples(val, train.class_names, labels_offset, complete=False)
    if both := held_out.origins & train.origins:
        both = listed(sorted(map(os.path.basename, both)))
        raise UsageError(f"Training images cannot be validation images too: {both}. Name others, or leave out --val.")
    return train, held_out


def _files(data):
    """What paths and patterns stand for: files, or one directory."""
    files = list(dict.fromkeys(path for _, matches in expand(data) for path in matches))
    if not files:
        raise UsageError(f"No data given. {TAKEN}")
    if len(files) > 1 and any(path.is_dir() for path in files):
        raise UsageError(f"Expected one folder of class folders, or files. Received: {listed(files)}. {TAKEN}")
    return files
