"""Opening a checkpoint of any container, as a lazy mapping from variable names to arrays."""

import re
import tempfile
from pathlib import Path

from inception_tf.errors import CheckpointError, listed, raising
from inception_tf.files import refuse_lfs_pointer
from inception_tf.slim.archives import candidates, extract_checkpoint, find_checkpoint, is_archive
from inception_tf.slim.containers import graph_def, hdf5, keras_file, saved_model, saver, torch_file
from inception_tf.slim.containers.base import Checkpoint
from inception_tf.slim.spellings import respelled

# Each tries a path in turn. The last never declines: it raises the error that says what is wrong with the file.
CONTAINERS = (keras_file, hdf5, saved_model, graph_def, torch_file, saver)

# Names that are not Slim's, of which `translations` may know what they stand for.
FOREIGN = re.compile(r"/\.ATTRIBUTES/VARIABLE_VALUE$|(^|/)mixed_35x35x256a/")


def open_checkpoint(path):
    """Opens a checkpoint as a lazy mapping from tensor names to numpy arrays.

    Args:
        path: a V1 file; a V2 prefix, sharded or not, or one of its files, `.meta` too; a directory with a `checkpoint`
            file, whose latest is opened, or with one checkpoint; a frozen graph, `.pb`; a TensorFlow 1 SavedModel; a
            `.tar`, `.tar.gz` or `.tgz` holding any of these; a `.keras` file of this library; InceptionV3 or
            InceptionResNetV2 of keras.applications, as `.keras`, `.h5`, `.weights.h5`, `tf.train.Checkpoint` or
            SavedModel; a `.pth` of the 2015 network; or a `Checkpoint`, which is returned as it is.

    Returns:
        A `Checkpoint`. Its names are as Slim spells them, and its `notes` say where the file's differ.

    Raises:
        CheckpointError: nothing there, no checkpoint, several to choose from, one that a `checkpoint` file names and
            that is not there, a missing shard, a pointer of Git LFS, or damage; two tensors of one name but for its
            spelling; a graph whose weights are not in it, or no longer as they were: quantized, or with its batch norm
            folded.
    """
    if isinstance(path, Checkpoint):
        return path
    with raising(CheckpointError, f"Cannot read {path}"):
        return _open(Path(path))


def _open(source):
    path, folder, files = source, None, None
    if source.is_dir() or (source.name == "checkpoint" and source.is_file()):
        files = source if source.is_dir() else source.parent
        try:
            path = find_checkpoint(files)
        except CheckpointError:
            for file in sorted(files.iterdir()):
                refuse_lfs_pointer(file)
            raise
    elif source.is_file() and is_archive(source):
        folder = tempfile.TemporaryDirectory(prefix="inception_tf_")
        # Of the files unpacked alone: a `checkpoint` file in an archive can name others.
        files = extract_checkpoint(source, folder.name)
        path = find_checkpoint(files, source)
    for file in saver.files_of(path):
        refuse_lfs_pointer(file)
    opened = (container.try_open(source, path) for container in CONTAINERS)
    checkpoint = next(checkpoint for checkpoint in opened if checkpoint is not None)
    if files and len(candidates(files)) > 1:
        checkpoint.notes += (f"{path.name} was opened, of {listed(other.name for other in candidates(files))}",)
    if folder:
        checkpoint.container += " in a tar archive"
        checkpoint.held = (checkpoint.held, folder)
    checkpoint = respelled(checkpoint)
    if any(FOREIGN.search(name) for name in checkpoint):
        from inception_tf.slim.translations import translated  # here, since it loads Keras

        return translated(checkpoint)
    return checkpoint
