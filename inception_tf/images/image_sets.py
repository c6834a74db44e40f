"""Images without labels, from wherever they are kept: folders, patterns, lists, arrays, TFRecords, Parquet."""

import os
from pathlib import Path

import numpy as np

from inception_tf.errors import ImageError, UsageError, need, raising
from inception_tf.images.decoding import decode_pillow
from inception_tf.images.files import expand, find_images
from inception_tf.images.preprocessing import as_image

_MANIFESTS = (".txt", ".lst", ".manifest")


class ImageSet:
    """Images that can be read in any order.

    Attributes:
        names: what each is called, a list.
        stamp: text that changes when the images do: names, sizes and dates of files.
    """

    def __init__(self, names, read, stamp=()):
        self.names, self._read, self.stamp = list(names), read, "\n".join(map(str, stamp))

    def __len__(self):
        return len(self.names)

    def sample(self, count):
        """An `ImageSet` of `count` of them, evenly spaced; of all where there are not more."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)).tolist()
        stamp = [self.stamp, chosen] if self.stamp else ()
        return ImageSet([self.names[i] for i in chosen], lambda index: self._read(chosen[index]), stamp)

    def read(self, index):
        """An image, an array H×W×3, RGB, uint8 or float32 0 to 255.

        As PIL's `convert("RGB")` has them: gray is repeated, alpha dropped, of an animation the first frame is taken;
        16 bits keep the upper 8.

        Raises:
            ImageError: it cannot be read; names it.
        """
        return pixels(self._read(index))


def pixels(image, decoder="pillow", exif_rotation=False, scaled_for=None):
    """The pixels of a path, bytes, a PIL image or an array H×W, H×W×1, H×W×3 or H×W×4, 0 to 255: H×W×3.

    Raises:
        ImageError: it cannot be read, or is none of these; or is itself an `ImageError`.
    """
    if isinstance(image, ImageError):
        raise image
    try:
        if hasattr(image, "convert") and hasattr(image, "mode"):
            image = decode_pillow(image)
        if not isinstance(image, (str, os.PathLike, bytes, bytearray, memoryview)):
            image = np.asarray(image)
            image = image[:, :, np.newaxis] if image.ndim == 2 else image
            if image.ndim == 3 and image.shape[-1] in (1, 4):
                image = np.repeat(image, 3, 2) if image.shape[-1] == 1 else image[:, :, :3]
        return as_image(image, (3,), 3, decoder, exif_rotation, scaled_for)
    except (UsageError, ValueError) as error:  # NumPy's, of ragged lists
        raise ImageError(str(error)) from error


def open_image_set(source):
    """Images without labels.

    Args:
        source: a folder, searched to the bottom; a pattern; a file of paths, a line each (`.txt`, relative to it);
            TFRecord files with `image/encoded`; a `.parquet` file or a pattern or folder of them, with a column of
            images' bytes; a `.npy` or `.npz` file of images N×H×W×3 (or N×H×W); such an array; a list of paths; or an
            `ImageSet`. What breaks off in a TFRecord file is one image more, which cannot be read.

    Returns:
        An `ImageSet`.

    Raises:
        UsageError: nothing there, no images in it, an array of another shape.
    """
    if isinstance(source, ImageSet):
        return source
    if hasattr(source, "__array__"):
        return _arrays(np.asarray(source), "image")
    files = [path for _, matches in expand(source) for path in matches]
    if not files:
        raise UsageError("No images given. Pass a folder, a pattern, or a file of images.")
    if len(files) == 1 and files[0].is_dir() and (tables := sorted(files[0].glob("**/*.parquet"))):
        files = tables
    suffixes = {file.suffix.lower() for file in files}
    if suffixes <= {".npy", ".npz"}:
        return _arrays(np.concatenate([_load(file) for file in files]), files[0].name, map(_stat, files))
    if suffixes == {".parquet"}:
        return _parquet(files)
    if any(".tfrecord" in file.name.lower() or ("-of-" in file.name and not file.suffix) for file in files):
        return _records(files)
    if len(files) == 1 and files[0].suffix.lower() in _MANIFESTS:
        files = [files[0].parent / line.strip() for line in files[0].read_text("utf-8").splitlines() if line.strip()]
        if not files:
            raise UsageError(f"{source} lists no images.")
    else:
        files = find_images(source)
    return ImageSet(map(str, files), lambda index: Path(files[index]), map(_stat, files))


def _stat(path):
    try:
        status = os.stat(path)
    except OSError:
        return f"{path} missing"
    return f"{os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}"


def _load(file):
    with raising(UsageError, f"{file} is no array of images, or damaged", ValueError, OSError, EOFError):
        loaded = np.load(file)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return loaded
        with loaded:
            names = sorted(loaded.files, key=lambda name: name not in ("images", "arr_0", "samples", "x"))
            if not names:
                raise UsageError(f"{file} holds no arrays.")
            return loaded[names[0]]


def _arrays(array, name, stamp=()):
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[-1] not in (1, 3, 4):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim not in (3, 4) or not len(array) or (array.ndim == 4 and array.shape[-1] not in (1, 3, 4)):
        raise UsageError(f"Expected images of shape (N, H, W, 3) or (N, H, W). Received: {array.shape}")
    return ImageSet([f"{name}[{i}]" for i in range(len(array))], array.__getitem__, stamp)


def _records(files):
    from inception_tf.images.records import iterate_records

    names, places, _ = map(list, zip(*(row for file in files for row in iterate_records(file, file.name))))
    if all(isinstance(place, ImageError) for place in places):
        reasons = "; ".join(f"{name}: {place}" for name, place in list(zip(names, places))[:3])
        raise UsageError(f"No images in {len(files)} TFRecord files. {reasons}")
    return ImageSet(names, places.__getitem__, map(_stat, files))


def _parquet(files):
    parquet = need("pyarrow.parquet", "data", files[0])
    images, names = [], []
    for file in files:
        with raising(UsageError, f"{file} is no Parquet file, or damaged", OSError, ValueError):
            table = parquet.read_table(file)
        columns = sorted(table.column_names, key=lambda name: name not in ("image", "images", "img", "bytes"))
        rows = table.column(columns[0]).to_pylist()
        rows = [row.get("bytes") if isinstance(row, dict) else row for row in rows]
        if not rows or not all(isinstance(row, bytes) for row in rows):
            raise UsageError(f"{file}: the column {columns[0]!r} holds no images' bytes.")
        images += rows
        names += [f"{file.name}:{i}" for i in range(len(rows))]
    return ImageSet(names, images.__getitem__, map(_stat, files))
