"""Slim's evaluation preprocessing: in NumPy, and the same in TensorFlow ops."""

import dataclasses
import numbers
import os

import numpy as np

from inception_tf.errors import ImageError, UsageError
from inception_tf.images.decoding import MAX_PIXELS, decode_image, decode_image_graph, read_image

_DEFAULTS = {"inception": (299, 3), "vgg": (224, 3), "lenet": (28, 1)}  # size, channels
_RESIZE_SIDE = 256  # before the crop to 224, "vgg"
MEAN_RGB = np.array([123.68, 116.78, 103.94], np.float32)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a network wants its images: the evaluation preprocessing of research/slim/preprocessing.

    Kinds, by Slim's file:
        "inception" (inception_preprocessing.py; the Inceptions, ResNet v2): to [0, 1], the central `central_fraction`
            of height and width, bilinear to `size` whatever the aspect, to [-1, 1].
        "vgg" (vgg_preprocessing.py; VGG, ResNet v1): bilinear until the short side is `resize_side`, the central
            `size`, minus the mean RGB (123.68, 116.78, 103.94).
        "lenet" (lenet_preprocessing.py): centrally cropped or padded with zeros to `size`, to [-1, 1).

    Bilinear is that of TensorFlow 1: no half-pixel centres, no antialiasing. Other libraries' gives other pixels.

    Args:
        kind: "inception", "vgg" or "lenet".
        size: the result's (height, width), or one number for both. Default: 299, 224, 28.
        central_fraction: "inception" only, in (0, 1]; 1 or None: no crop.
        resize_side: "vgg" only, at least `size`. Default: Slim's 256; for a larger `size` in the proportion of 256 to
            224, 366 for 320.
        channels: 3 for RGB, 1 for grey. Default: 3; 1 for "lenet". RGB becomes grey with the weights 0.2989, 0.5871,
            0.1140, by which an image that is grey already stays what it is.
    """

    kind: str = "inception"
    size: tuple = None
    central_fraction: float = 0.875
    resize_side: int = None
    channels: int = None

    def __post_init__(self):
        if self.kind not in _DEFAULTS:
            raise UsageError(f"`kind` must be one of {', '.join(_DEFAULTS)}. Received: {self.kind!r}")
        default_size, default_channels = _DEFAULTS[self.kind]
        size = default_size if self.size is None else self.size
        size = (size, size) if isinstance(size, numbers.Integral) else size
        if not (
            isinstance(size, (tuple, list))
            and len(size) == 2
            and all(isinstance(side, numbers.Integral) and side > 0 for side in size)
        ):
            raise UsageError(
                f"`size` must be a positive integer, or a (height, width) of them. Received: {self.size!r}"
            )
        object.__setattr__(self, "size", (int(size[0]), int(size[1])))
        if self.channels is None:
            object.__setattr__(self, "channels", default_channels)
        if self.channels not in (1, 3):
            raise UsageError(f"`channels` must be 1 or 3. Received: {self.channels!r}")
        if self.kind == "vgg" and self.channels != 3:
            raise UsageError(f"`channels` must be 3, since the mean RGB is subtracted. Received: {self.channels!r}")
        if self.central_fraction is None:
            object.__setattr__(self, "central_fraction", 1.0)
        if not 0 < self.central_fraction <= 1:
            raise UsageError(f"`central_fraction` must be in (0, 1], or None. Received: {self.central_fraction!r}")
        if self.resize_side is None:
            larger = self.kind == "vgg" and max(self.size) > _RESIZE_SIDE
            side = round(max(self.size) * _RESIZE_SIDE / _DEFAULTS["vgg"][0]) if larger else _RESIZE_SIDE
            object.__setattr__(self, "resize_side", side)
        if self.kind == "vgg" and self.resize_side < max(self.size):
            raise UsageError(
                f"`resize_side` must be at least the size, {max(self.size)}, since the image is cropped to it. "
                f"Received: {self.resize_side!r}"
            )

    def to_config(self):
        """A dictionary that JSON can hold, for `from_config`."""
        return {**dataclasses.asdict(self), "size": list(self.size)}

    @classmethod
    def from_config(cls, config):
        """The `Preprocessing` that `to_config` described."""
        unknown = set(config) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise UsageError(f"Not a preprocessing's configuration. Received: {', '.join(sorted(unknown))}")
        return cls(**config)

    def __call__(self, images, decoder="tensorflow", exif_rotation=False):
        """Preprocesses one image or many; see `preprocess_input`."""
        results = [self._one(image) for image in _arrays(images, self.channels, decoder, exif_rotation)]
        return np.stack(results) if len(results) > 1 else results[0][np.newaxis]

    def _one(self, image):
        if self.channels == 1 and image.shape[2] == 3:
            image = grey(image.astype(np.float32))
        height, width = image.shape[:2]
        if self.kind == "inception":
            top, left = _central_offset(height, self.central_fraction), _central_offset(width, self.central_fraction)
            image = image[top : height - top, left : width - left]
            image = _resize(image, self.size, (0, 0), self.size, np.float32(1 / 255))
            image -= np.float32(0.5)
            image *= np.float32(2)
            return image
        if self.kind == "vgg":
            scale = np.float32(self.resize_side) / np.float32(min(height, width))
            resized = tuple(int(np.rint(np.float32(side) * scale)) for side in (height, width))
            offset = tuple((side - wanted) // 2 for side, wanted in zip(resized, self.size))
            return _resize(image, resized, offset, self.size) - MEAN_RGB
        result = np.zeros((*self.size, self.channels), np.float32)
        (source_y, target_y), (source_x, target_x) = map(_crop_or_pad, (height, width), self.size)
        result[target_y, target_x] = image[source_y, source_x]
        return (result - np.float32(128)) / np.float32(128)

    def positions(self, height, width):
        """Where in the result the pixels of an image of that size come to lie.

        Returns:
            Two float64 arrays: for every row of the image its place along the result's height, for every column its
            place along the width, 0 for the first. NaN for those that the crop leaves out.
        """
        axes = []
        for side, wanted in zip((height, width), self.size):
            if self.kind == "inception":
                offset = _central_offset(side, self.central_fraction)
                place = (np.arange(side) - offset) * (wanted / (side - 2 * offset))
            elif self.kind == "vgg":
                resized = int(np.rint(np.float32(side) * np.float32(self.resize_side) / np.float32(min(height, width))))
                place = np.arange(side) * (resized / side) - (resized - wanted) // 2
            else:
                source, target = _crop_or_pad(side, wanted)
                place = np.arange(side, dtype=np.float64) - source.start + target.start
            axes.append(np.where((place >= 0) & (place < wanted), place, np.nan))
        return tuple(axes)

    def graph(self, image):
        """The same in TensorFlow ops, for a `tf.function` or a SavedModel.

        Args:
            image: tensor of shape (H, W, C) or (N, H, W, C), H, W and N known or not; uint8, or float 0 to 255.

        Returns:
            float32 tensor of shape (height, width, channels) or (N, height, width, channels).
        """
        import tensorflow as tf

        image = tf.convert_to_tensor(image)
        if image.shape.rank not in (3, 4):
            raise UsageError(f"Expected a tensor of shape (H, W, C) or (N, H, W, C). Received: {image.shape}")
        single = image.shape.rank == 3
        image = image[tf.newaxis] if single else image
        if self.channels == 1 and image.shape[-1] != 1:
            image = grey(tf.cast(image, tf.float32))
        if self.kind == "inception":
            # Not tf.image.central_crop: where the sizes are unknown it rounds the fraction to float32.
            height, width = tf.unstack(tf.shape(image)[1:3])
            top, left = (
                tf.cast((side - side * self.central_fraction) / 2, tf.int32)
                for side in (tf.cast(height, tf.float64), tf.cast(width, tf.float64))
            )
            image = image[:, top : height - top, left : width - left]
            image = tf.cast(image, tf.float32) * np.float32(1 / 255)
            image = (resize_bilinear(image, self.size) - 0.5) * 2.0
        elif self.kind == "vgg":
            image = resize_short_side(image, self.resize_side)
            top, left = tf.unstack((tf.shape(image)[1:3] - self.size) // 2)
            image = image[:, top : top + self.size[0], left : left + self.size[1]] - MEAN_RGB
        else:
            image = tf.image.resize_with_crop_or_pad(tf.cast(image, tf.float32), *self.size)
            image = (image - 128.0) / 128.0
        image = tf.ensure_shape(image, (None, *self.size, self.channels))
        return image[0] if single else image

    def graph_from_bytes(self, data, max_pixels=MAX_PIXELS):
        """Decodes and preprocesses a batch of encoded images in TensorFlow ops.

        Args:
            data: string tensor of shape (N,), the bytes of a file each; see `decoding.decode_image_graph`, errors too.

        Returns:
            float32 tensor of shape (N, height, width, channels).
        """
        import tensorflow as tf

        return tf.map_fn(
            lambda one: self.graph(decode_image_graph(one, max_pixels)),
            data,
            fn_output_signature=tf.TensorSpec((*self.size, self.channels), tf.float32),
        )


def preprocess_input(
    images, size=None, central_fraction=0.875, kind="inception", decoder="tensorflow", exif_rotation=False
):
    """Prepares images for a network as Slim does it for evaluation.

    For the Inceptions this includes Slim's central crop of 0.875, also where the image has the network's size already:
    `central_fraction=None` leaves it out. `Preprocessing` describes what the `kind`s do.

    Args:
        images: one image or many: an array of shape (H, W, 3) or (N, H, W, 3), the path of a file, the bytes of one, or
            a list of images, whose sizes may differ. Arrays are RGB with values 0 to 255, of any integer or float dtype
            (anything that NumPy takes for an array will do: a PIL image, a tensor).
        size: height and width of the result. Default: 299 for "inception", 224 for "vgg", 28 for "lenet".
        central_fraction: the part of height and width that is kept, for "inception".
        kind: "inception", "vgg" (also ResNet v1) or "lenet".
        decoder, exif_rotation: for files and bytes, see `decode_image`. Arrays need NumPy alone.

    Returns:
        float32 array of shape (N, size, size, 3), N = 1 for a single image; (N, 28, 28, 1) for "lenet".

    Raises:
        UsageError: another shape; values that are NaN, outside 0 to 255, or look like an image that was preprocessed
            before or scaled to [0, 1].
        ImageError: a file that is no image.
    """
    return Preprocessing(kind, size, central_fraction)(images, decoder, exif_rotation)


def preprocessing_of(model):
    """The `Preprocessing` of a model's images; None where it is for other channels than theirs."""
    channels, config = model.input_shape[-1], model.card.preprocessing
    if channels not in ((3,) if config["kind"] == "vgg" else (1, 3)):
        return None
    return Preprocessing.from_config({**config, "channels": channels})


def _arrays(images, channels, decoder, exif_rotation):
    """Yields checked arrays (H, W, channels or 3), uint8 or float32, of whatever `preprocess_input` takes."""
    if isinstance(images, (list, tuple)):
        if not images:
            raise UsageError("No images. Received: an empty list")
        for index, image in enumerate(images):
            try:
                array = _array(image, decoder, exif_rotation)
                _check(array, (3,), channels)
            except UsageError as error:
                raise UsageError(f"Image {index}: {error}") from error
            except ImageError as error:
                if isinstance(image, (str, os.PathLike)):  # the message has its name
                    raise
                raise ImageError(f"Image {index}: {error}") from error
            yield _narrow(array)
        return
    array = _array(images, decoder, exif_rotation)
    _check(array, (3, 4), channels)
    yield from _narrow(array) if array.ndim == 4 else [_narrow(array)]


def _array(image, decoder, exif_rotation):
    if isinstance(image, (str, os.PathLike)):
        return read_image(image, exif_rotation, decoder=decoder)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode_image(image, exif_rotation, decoder=decoder)
    try:
        return np.asarray(image)
    except ValueError as error:
        raise UsageError(f"Expected an image. Received: {type(image).__name__} that is no array ({error})") from error


def _check(array, ranks, channels):
    shapes = " or ".join({3: "(H, W, 3)", 4: "(N, H, W, 3)"}[rank] for rank in ranks)
    if array.dtype != np.uint8 and array.dtype.kind not in "iuf":
        raise UsageError(f"Expected numbers 0 to 255 of shape {shapes}. Received: dtype {array.dtype}")
    if array.ndim not in ranks or array.shape[-1] not in (3, channels) or not array.size:
        shapes = shapes.replace("3)", "3 or 1)") if channels == 1 else shapes
        raise UsageError(f"Expected an image of shape {shapes}, channels last. Received: {array.shape}")
    if array.dtype == np.uint8:
        return
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UsageError("Expected values 0 to 255. Received: NaN or infinity")
    received = f"Received: values from {low:.4g} to {high:.4g}"
    if low < 0:
        raise UsageError(f"Expected values 0 to 255. Was the image preprocessed already? {received}")
    if high > 255:
        raise UsageError(f"Expected values 0 to 255. Divide 16-bit values by 257, clip others. {received}")
    if high <= 1 and (array != np.rint(array)).any():
        raise UsageError(f"Expected values 0 to 255, not 0 to 1: multiply by 255. {received}")


def _narrow(array):
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def grey(image):
    """RGB to (…, 1), by the weights of tf.image.rgb_to_grayscale brought to a sum of 1. Arrays and tensors."""
    red, green, blue = image[..., 0:1], image[..., 1:2], image[..., 2:3]
    return green + np.float32(0.2989) * (red - green) + np.float32(0.1140) * (blue - green)


def _central_offset(side, fraction):
    return int((side - side * fraction) / 2)  # as tf.image.central_crop rounds


def _crop_or_pad(side, wanted):
    """The slices (of the source, of the result) by which tf.image.resize_with_crop_or_pad fits `side` to `wanted`."""
    crop, pad, kept = max((side - wanted) // 2, 0), max((wanted - side) // 2, 0), min(side, wanted)
    return slice(crop, crop + kept), slice(pad, pad + kept)


def _resize(image, size, offset, window, scale=None):
    """The `window` at `offset` of `image` resized to `size`, the values times `scale` before.

    TensorFlow 1's bilinear in its own order of float32 operations (core/kernels/image/resize_bilinear_op.cc): first
    along the rows. Only the rows and columns that are read are converted; each direction in turn is the outer one,
    where NumPy moves whole lines.
    """
    (rows, *vertical), (columns, *horizontal) = map(_neighbours, image.shape, size, offset, window)
    pixels = np.take(image[rows], columns, axis=1).reshape(len(rows), -1)
    lines = np.ascontiguousarray(pixels.T).astype(np.float32)
    if scale is not None:
        lines *= scale
    lines = _interpolate(lines.reshape(len(columns), -1), *horizontal).reshape(-1, len(rows))
    return _interpolate(np.ascontiguousarray(lines.T), *vertical).reshape(*window, -1)


def _neighbours(side, resized, offset, count):
    """For a stretch of the result: the indices read; among them the one before, the one after, the latter's weight."""
    position = np.arange(offset, offset + count).astype(np.float32) * (np.float32(side) / np.float32(resized))
    before = np.floor(position)
    index = before.astype(np.int64)
    read, places = np.unique(np.stack([index, np.minimum(index + 1, side - 1)]), return_inverse=True)
    return read, *places.reshape(2, -1), position - before


def _interpolate(lines, before, after, weight):
    start, end = np.take(lines, before, axis=0), np.take(lines, after, axis=0)
    end -= start
    end *= weight[:, None]
    start += end
    return start


def resize_bilinear(images, size):
    """TensorFlow 1's bilinear in TensorFlow ops: (N, H, W, C) of any number type to float32 (N, *size, C)."""
    import tensorflow as tf

    return tf.raw_ops.ResizeBilinear(images=images, size=size, align_corners=False, half_pixel_centers=False)


def resize_short_side(images, side):
    """`resize_bilinear` until the short side is `side`, an integer or a scalar tensor; the aspect stays."""
    import tensorflow as tf

    shape = tf.shape(images)[1:3]
    sides = tf.cast(shape, tf.float32)
    resized = tf.cast(tf.round(sides * (tf.cast(side, tf.float32) / tf.reduce_min(sides))), tf.int32)
    # Slim resizes all of the image before it crops: a 1 × 10,000 one would fill the memory.
    fits = tf.reduce_max(resized) <= MAX_PIXELS // side
    check = tf.debugging.Assert(fits, ["The image is too long and narrow. Height, width:", shape])
    with tf.control_dependencies([check]):
        return resize_bilinear(tf.cast(images, tf.float32), resized)
