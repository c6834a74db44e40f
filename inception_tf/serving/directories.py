"""Directories of models, laid out as TensorFlow Serving has them: NAME/VERSION/saved_model.pb."""

import re
from pathlib import Path

from inception_tf.errors import UsageError


def versions_in(base):
    """The versions in a base directory, a dict from numbers to paths: numbered children that hold a SavedModel."""
    paths = [file.parent for file in Path(base).glob("*/saved_model.pb")]
    return {int(path.name): path for path in paths if re.fullmatch("[0-9]{1,18}", path.name)}


def find_models(directory):
    """The models of a directory: itself, where it holds versions, else its children that do.

    Returns:
        A dict from names to base directories.

    Raises:
        UsageError: there are none.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory. Name one of models, or of one model's versions.")
    if (directory / "saved_model.pb").is_file():
        raise UsageError(f"{directory} is a version of a model itself. Name its parent.")
    if versions_in(directory):
        return {directory.resolve().name: directory}
    models = {p.name: p for p in sorted(directory.iterdir()) if not p.name.startswith(".") and versions_in(p)}
    if not models:
        raise UsageError(f"{directory} holds no models: no [NAME/]VERSION/saved_model.pb. See `inception-tf export`.")
    return models
