"""Opening a checkpoint of any container, as a lazy mapping from variable names to arrays."""

import tempfile
from pathlib import Path

from inception_tf.errors import CheckpointError
from inception_tf.slim.archives import extract_checkpoint, find_checkpoint, is_archive
from inception_tf.slim.containers import graph_def, keras_file, saved_model, saver, torch_file
from inception_tf.slim.containers.base import Checkpoint

# Each tries a path in turn. The last never declines: it raises the error that says what is wrong with the file.
CONTAINERS = (keras_file, saved_model, graph_def, torch_file, saver)


def open_checkpoint(path):
    """Opens a checkpoint as a lazy mapping from tensor names to numpy arrays.

    Args:
        path: a V1 file; a V2 prefix, sharded or not, or one of its files, `.meta` too; a directory with a `checkpoint`
            file, whose latest is opened, or with one checkpoint; a frozen graph, `.pb`; a TensorFlow 1 SavedModel; a
            `.tar`, `.tar.gz` or `.tgz` holding any of these; a `.pth` of the 2015 network; a `.keras` file of this
            library; or a `Checkpoint`, which is returned as it is.

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


def _open(source):
    path, folder = source, None
    if source.is_dir():
        path = find_checkpoint(source)
    elif source.name == "checkpoint" and source.is_file():
        path = find_checkpoint(source.parent)
    elif source.is_file() and is_archive(source):
        folder = tempfile.TemporaryDirectory(prefix="inception_tf_")
        # Of the files unpacked alone: a `checkpoint` file in an archive can name others.
        path = find_checkpoint(extract_checkpoint(source, folder.name))
    opened = (container.try_open(source, path) for container in CONTAINERS)
    checkpoint = next(checkpoint for checkpoint in opened if checkpoint is not None)
    if folder:
        checkpoint.container += " in a tar archive"
        checkpoint.held = (checkpoint.held, folder)
    return checkpoint
