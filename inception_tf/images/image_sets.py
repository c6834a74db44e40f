"""Images without labels, from wherever they are kept: folders, patterns, manifests, arrays, TFRecords, Parquet."""

import os
import zipfile
import zlib

import numpy as np

from inception_tf.errors import ImageError, UsageError, raising
from inception_tf.images.decoding import decode_pillow
from inception_tf.images.files import expand, find_images, iterate_images
from inception_tf.images.preprocessing import as_image
from inception_tf.images.streams import image_rows, kind_of
from inception_tf.images.table import different
from inception_tf.remote import is_url

# What a folder without images is searched for, in this order.
_SHARDS = ("*.parquet", "*.tfrecord*", "*-of-*", "*.tar", "*.tar.gz", "*.tgz", "*.np[yz]")
# What NumPy raises of an array's file.
_DAMAGED = ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error


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
        source: a folder, searched to the bottom for images; where it has none, for TFRecord files with `image/encoded`,
            WebDataset's tar files, `.parquet` files with a column of images' bytes, or `.npy` or `.npz` files of images
            N×H×W×3, N×3×H×W or N×H×W; such files; a manifest, `.txt` of a path a line, CSV or TSV, relative to it; a
            pattern; such an array; a list of paths; or an `ImageSet`. What breaks off in a file of several is one image
            more, which cannot be read.

    Returns:
        An `ImageSet`.

    Raises:
        UsageError: nothing there, no images in it, a folder of images and Parquet, an array of another shape.
    """
    if isinstance(source, ImageSet):
        return source
    if hasattr(source, "__array__"):
        names, images = _arrays(np.asarray(source), "image")
        return ImageSet(names, images.__getitem__)
    files = [file for _, matches in expand(source) for file in _files(matches)]
    if not files:
        raise UsageError("No images given. Pass a folder, a pattern, or a file of images.")
    kinds = {kind_of(str(file)) for file in files}
    if kinds == {"image"} and {file.suffix.lower() for file in files} <= {".npy", ".npz"}:
        sets = [_arrays(_load(file), file.name) for file in files]
        images = [(array, i) for _, array in sets for i in range(len(array))]
        names = [name for own, _ in sets for name in own]
        return ImageSet(different(names), lambda index: images[index][0][images[index][1]], map(_stat, files))
    rows = [row for file in dict.fromkeys(files) for row in image_rows(str(file))]
    if all(isinstance(content, ImageError) for _, content in rows):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in rows[:3])
        raise UsageError(f"No images in {source}. {reasons}".rstrip(". ") + ".")
    apart = [name for name, content in rows if content is None]
    # What is behind a URL may change.
    stamp = () if any(map(is_url, apart)) else map(_stat, dict.fromkeys(map(str, [*files, *apart])))
    return ImageSet(
        different([name for name, _ in rows]),
        lambda index: rows[index][0] if rows[index][1] is None else rows[index][1],
        stamp,
    )


def _files(matches):
    """The files that an argument stands for, in place of its folders what they hold."""
    if len(matches) == 1 and matches[0].is_dir():
        (folder,), images = matches, any(iterate_images(matches[0]))
        for shards in _SHARDS[:1] if images else _SHARDS:
            if found := sorted(filter(os.path.isfile, folder.rglob(shards))):
                if images:
                    raise UsageError(f"{folder} has images and Parquet files. Name one kind by a pattern, as '*.png'.")
                return found
    found = [file for match in matches for file in (find_images(match) if match.is_dir() else [match])]
    several = len({kind_of(str(file)) for file in found}) > 1
    return [file for file in found if not several or kind_of(str(file)) != "list"]  # such as a README.txt


def _stat(path):
    try:
        status = os.stat(path)
    except OSError:
        return f"{path} missing"
    return f"{os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}"


def _load(file):
    with raising(UsageError, f"{file} is no array of images, or damaged", *_DAMAGED):
        loaded = np.load(file, mmap_mode="r")
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return loaded
        with loaded:
            names = sorted(loaded.files, key=lambda name: name not in ("images", "arr_0", "samples", "x"))
            if not names:
                raise UsageError(f"{file} holds no arrays.")
            return loaded[names[0]]


def _arrays(array, name):
    """Names of images, and an array N×H×W×C or N×H×W."""
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[-1] not in (1, 3, 4):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim not in (3, 4) or not len(array) or (array.shape[-1] in (1, 3, 4)) != (array.ndim == 4):
        raise UsageError(f"{name}: expected images of shape (N, H, W, 3) or (N, H, W). Received: {array.shape}")
    return [f"{name}[{i}]" for i in range(len(array))], array
