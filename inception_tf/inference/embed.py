"""The feature vectors of image files, in a file: for search, duplicates and whatever else takes vectors."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from inception_tf.errors import CheckpointError, UsageError, reason
from inception_tf.files import atomic_write
from inception_tf.images.files import find_images
from inception_tf.inference.pipeline import Pipeline, pipeline
from inception_tf.progress import Progress

SUFFIXES = (".parquet", ".npz")


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Feature vectors of image files.

    Attributes:
        paths: the files, a list of strings.
        values: float32 array N×C, PreLogits.
    """

    paths: list
    values: np.ndarray

    def __len__(self):
        return len(self.paths)

    def save(self, path, overwrite=False):
        """Writes a `.parquet` with the columns `path` and `vector`, a list of C float32; or a `.npz` of the arrays
        `path` and `vector`.

        Raises:
            UsageError: as `check_target`; file names that are no text, which Parquet does not hold.
            InceptionTFError: it cannot be written.
        """
        check_target(path)
        with atomic_write(path, overwrite) as part:
            if Path(path).suffix.lower() == ".npz":
                np.savez(part, path=np.array(self.paths, "U"), vector=self.values)
                return
            import pyarrow
            from pyarrow import parquet

            flat = pyarrow.array(np.ascontiguousarray(self.values, np.float32).ravel())
            vectors = pyarrow.FixedSizeListArray.from_arrays(flat, self.values.shape[1])
            try:
                parquet.write_table(pyarrow.table({"path": pyarrow.array(self.paths), "vector": vectors}), part)
            except UnicodeEncodeError as error:
                raise UsageError("A file's name is no text, which Parquet does not hold: write a .npz.") from error


def check_target(path):
    """Raises a `UsageError` where `Vectors.save` could not write to `path`: another suffix, or pyarrow is missing."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"Vectors are kept as {' or '.join(SUFFIXES)}. Received: {path}")
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UsageError(
                f"{path} needs pyarrow: pip install 'inception-tf[data]', or name a .npz, which needs nothing."
            ) from None


def load_vectors(path):
    """The `Vectors` in a file that `Vectors.save` wrote, or in a folder that `embed --out FOLDER` did.

    Raises:
        UsageError: another suffix, pyarrow is missing.
        CheckpointError: there is none, it is damaged, has other columns, or vectors of different lengths.
    """
    folder = Path(path).is_dir()
    check_target("x.parquet" if folder else path)
    try:
        if not folder and Path(path).suffix.lower() == ".npz":
            with np.load(path) as file:
                paths, values = file["path"].tolist(), file["vector"]
        else:
            from pyarrow import parquet

            name = "embedding" if folder else "vector"
            table = parquet.read_table(path, columns=["path", name])
            table = table.filter(table[name].is_valid())
            paths, values = table["path"].to_pylist(), np.array(table[name].to_pylist(), np.float32)
        values = np.asarray(values, np.float32)
        if values.ndim != 2 or not len(values) == len(paths) > 0:
            raise ValueError(f"vectors of shape {values.shape} for {len(paths)} paths")
    except (OSError, ValueError, KeyError, EOFError) as error:  # pyarrow's are of these
        why = getattr(error, "strerror", None) or reason(error)
        raise CheckpointError(f"{path} holds no vectors that embed wrote: {why}") from error
    return Vectors(list(map(str, paths)), values)


def embed(model, paths, batch=16, exif_rotation=False):
    """The features of image files.

    Args:
        model: a `Pipeline`, or what `pipeline` takes.
        paths: what `find_images` takes: files, patterns, directories.
        batch, exif_rotation: as in `pipeline`.

    Returns:
        `Vectors`, and a dict from the paths of files that could not be read to the reason.

    Raises:
        UsageError: nothing there; an export that carries no features; not one image can be read.
        CheckpointError, MismatchError: there is no such model.
    """
    paths = find_images(paths)
    pipe = model if isinstance(model, Pipeline) else pipeline(model, batch=batch, exif_rotation=exif_rotation)
    names, rows, failures = [], [], {}
    with Progress("Embedding", len(paths), "images") as progress:
        for path, error, row in pipe.rows(paths, pipe.engine.start_embedding):
            if error:
                failures[path] = error
            else:
                names.append(os.fspath(path))
                rows.append(row)
            progress.advance()
    if not rows:
        raise UsageError(f"Not one of {len(paths)} images could be read. {': '.join(next(iter(failures.items())))}")
    return Vectors(names, np.stack(rows)), failures
