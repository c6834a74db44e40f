"""Opening a checkpoint of any container, as a lazy mapping from variable names to arrays."""

import tempfile
from pathlib import Path

from inception_tf.errors import CheckpointError
from inception_tf.slim.archives import extract_checkpoint, find_checkpoint, is_archive
from inception_tf.slim.containers import graph_def, keras_file, saved_model, saver
from inception_tf.slim.containers.base import Checkpoint
from inception_tf.slim.containers.keras_file import ModelWeights
from inception_tf.slim.containers.saver import SaverCheckpoint

__all__ = ["Checkpoint", "ModelWeights", "SaverCheckpoint", "open_checkpoint"]

# A path is offered to each in turn. The last takes it for its own, and says what is wrong with it.
CONTAINERS = (keras_file, saved_model, graph_def, saver)


def open_checkpoint(path):
    """Opens a checkpoint as a lazy mapping from tensor names to numpy arrays.

    Args:
        path: a V1 file; a V2 prefix, sharded or not, or one of its files, `.meta` too; a directory with a `checkpoint`
            file, whose latest is opened, or with one checkpoint; a frozen graph, `.pb`; a TensorFlow 1 SavedModel; a
            `.tar`, `.tar.gz` or `.tgz` holding any of these; a `.keras` file of this library; or a `Checkpoint`, which
            is returned as it is.

    Returns:
        A `Checkpoint`.

    Raises:
        CheckpointError: nothing there, no checkpoint, several to choose from, a missing shard, or damage; a graph whose
            weights are not in it, or no longer as they were: quantized, or with its batch norm folded.
    """
    if isinstance(path, Checkpoint):
        return path
    try:
        return _open(Path(path))
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}") from error


def _open(given):
    if given.is_dir():
        return _open_place(given, find_checkpoint(given))
    if given.name == "checkpoint" and given.is_file():
        return _open_place(given, find_checkpoint(given.parent))
    if given.is_file() and is_archive(given):
        folder = tempfile.TemporaryDirectory(prefix="inception_tf_")
        # Of the files unpacked alone: a `checkpoint` file in an archive can name others.
        checkpoint = _open_place(given, find_checkpoint(extract_checkpoint(given, folder.name)))
        checkpoint.container += " in a tar archive"
        checkpoint.held = (checkpoint.held, folder)
        return checkpoint
    return _open_place(given, given)


def _open_place(given, place):
    opened = (container.open_here(given, place) for container in CONTAINERS)
    return next(checkpoint for checkpoint in opened if checkpoint is not None)
