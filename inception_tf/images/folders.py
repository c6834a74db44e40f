"""Class folders, `data/<class>/<image>`, as `Examples`."""

import contextlib
import os
import re
from pathlib import Path

from inception_tf.errors import ImageError, UsageError, listed, raising
from inception_tf.images.examples import Examples
from inception_tf.images.files import IMAGE_SUFFIXES, is_image_name, walk_images
from inception_tf.images.labels import load_labels
from inception_tf.remote import is_url, read_url

_VALIDATION = ("val", "validation", "valid")


class FolderExamples(Examples):
    """The files of class folders. `_sources` are their paths."""

    def read(self, index):
        path = self._sources[index]
        with raising(ImageError, f"Cannot read {path}"):
            return read_url(path) if is_url(path) else Path(path).read_bytes()

    def _size(self, index):
        with contextlib.suppress(OSError):
            return os.path.getsize(self._sources[index])
        return None

    def _split_key(self, index):
        return self.names[index].rpartition("/")[2]


def open_folder(root, labels=None, complete=True):
    """The images of the class folders in `root`; see `sources.open_examples`, errors too."""
    expected = f"Expected {root}/<class>/<image>."
    if split := split_folders(root):
        names = " and ".join(f"{folder.name}/" for folder in split if folder)
        raise UsageError(f"{root} holds {names}. Name one of them, for example {split[0]}.")
    folders, stray = _contents(root)
    if stray:
        raise UsageError(f"{expected} Received: {len(stray)} images beside the class folders, {stray[0].path}.")
    if not folders:
        raise UsageError(f"{expected} Received: a folder without folders. TFRecords: name a pattern, {root}/train-*.")
    if odd := [folder.name for folder in folders if re.search("[\n\ud800-\udfff]", folder.name)]:
        raise UsageError(f"The name of a class is a line of UTF-8. Received: the folder {odd[0]!r} in {root}.")
    names = load_labels(labels) if isinstance(labels, (str, Path)) else labels
    names = [folder.name for folder in folders] if names is None else list(names)
    _check_classes(root, {folder.name for folder in folders}, names, complete)
    sources, numbers, relative, skipped = [], [], [], {}
    for folder in sorted(folders, key=lambda folder: names.index(folder.name)):
        subfolders, images = _contents(folder)
        label = names.index(folder.name)
        if deep := [image for subfolder in subfolders for image in walk_images(subfolder)]:
            raise UsageError(f"{expected} Received: an image too deep, {deep[0]}.")
        for entry in images:
            name = f"{folder.name}/{entry.name}"
            if entry.is_file():
                sources.append(entry.path)
                relative.append(name)
                numbers.append(label)
            else:
                skipped[name] = "a link that leads nowhere" if entry.is_symlink() else "not a file"
    present = {names[label] for label in set(numbers)}
    empty = [folder.name for folder in folders if folder.name not in present]
    if not sources or (empty and complete):
        raise UsageError(f"{root}/ has no {' or '.join(IMAGE_SUFFIXES)} files in the class folders {listed(empty)}.")
    if len(names) < 2:
        raise UsageError(f"{root} holds one class, {names[0]!r}. Expected two or more.")
    return FolderExamples(sources, numbers, names, relative, skipped, [root])


def class_folders(data):
    """The names of the class folders, sorted, where all that `data` lists is one local directory with folders."""
    return [folder.name for folder in _contents(data[0])[0]] if len(data) == 1 and os.path.isdir(data[0]) else []


def split_folders(root):
    """(train, val or None) where `root` holds such folders of class folders; None where it does not."""
    folders = [folder for folder in _contents(root)[0] if folder.name.lower() in ("train", *_VALIDATION)]
    contents = {folder: _contents(folder) for folder in folders}
    folders = [folder for folder, (classes, images) in contents.items() if classes and not images]
    train = [folder for folder in folders if folder.name.lower() == "train"]
    val = [folder for folder in folders if folder not in train]
    if not train:
        return None
    if len(val) > 1 or len(train) > 1:
        raise UsageError(f"{root} holds {listed([f'{f.name}/' for f in folders])}. Name one of each.")
    return train[0], val[0] if val else None


def _contents(folder):
    """The visible subfolders and image files of a folder, sorted."""
    with raising(UsageError, f"Cannot read the folder {folder}"), os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    folders = [Path(entry.path) for entry in visible if entry.is_dir()]
    return folders, [entry for entry in visible if not entry.is_dir() and is_image_name(entry.name)]


def _check_classes(root, found, names, complete):
    problems = {
        "no class is called": sorted(found.difference(names)),
        "no folder is called": [name for name in names if complete and name not in found],
        "more than one class is called": [name for name in sorted(found) if names.count(name) > 1],
    }
    if text := "; ".join(f"{problem} {listed(wrong)}" for problem, wrong in problems.items() if wrong):
        raise UsageError(f"The folders of {root} and the {len(names)} classes ({listed(names)}) do not agree: {text}.")
