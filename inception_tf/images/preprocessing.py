"""Slim's evaluation preprocessing: in NumPy, and the same in TensorFlow ops."""

import dataclasses
import math
import numbers
import os
import sys

import numpy as np

from inception_tf.errors import ImageError, UsageError
from inception_tf.images.decoding import MAX_PIXELS, decode_image, read_image

_DEFAULTS = {"inception": (299, 3), "inception_2015": (299, 3), "vgg": (224, 3), "lenet": (28, 1)}  # size, channels
_RESIZE_SIDE = 256  # before the crop to 224, "vgg"
MEAN_RGB = np.array([123.68, 116.78, 103.94], np.float32)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a network's images are prepared: the evaluation preprocessing of research/slim/preprocessing.

    Kinds, by Slim's file:
        "inception" (inception_preprocessing.py; the Inceptions, ResNet v2): to [0, 1], the central `central_fraction`
            of height and width, bilinear to `size` whatever the aspect, to [-1, 1].
        "inception_2015" (the graph of 2015-12-05): bilinear to `size` whatever the aspect, minus 128, over 128.
        "vgg" (vgg_preprocessing.py; VGG, ResNet v1): bilinear until the short side is `resize_side`, the central
            `size`, minus the mean RGB (123.68, 116.78, 103.94).
        "lenet" (lenet_preprocessing.py): centrally cropped or padded with zeros to `size`, to [-1, 1).

    Bilinear is that of TensorFlow 1: no half-pixel centers, no antialiasing. Other libraries' gives other pixels.

    Args:
        kind: "inception", "inception_2015", "vgg" or "lenet".
        size: the result's (height, width), or one number for both. Default: 299, 299, 224, 28.
        central_fraction: "inception" only, in (0, 1]; 1 or None: no crop.
        resize_side: "vgg" only, at least `size`. Default: Slim's 256; for a larger `size` in the proportion of 256 to
            224, 366 for 320.
        channels: 3 for RGB, 1 for gray. Default: 3; 1 for "lenet". RGB becomes gray with the weights 0.2989, 0.5871,
            0.1140, by which an image that is gray already stays what it is.
    """

    kind: str = "inception"
    size: tuple = None
    central_fraction: float = 0.875
    resize_side: int = None
    channels: int = None

    def __post_init__(self):
        _require(self.kind in _DEFAULTS, "kind", f"one of {', '.join(_DEFAULTS)}", self.kind)
        default_size, default_channels = _DEFAULTS[self.kind]
        size = default_size if self.size is None else self.size
        size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        valid = len(size) == 2 and all(isinstance(side, numbers.Integral) and side > 0 for side in size)
        _require(valid, "size", "a positive integer, or a (height, width) of them", self.size)
        height, width = map(int, size)
        channels = default_channels if self.channels is None else self.channels
        if self.kind == "vgg":
            _require(channels == 3, "channels", "3, since the mean RGB is subtracted", channels)
        _require(channels in (1, 3), "channels", "1 or 3", channels)
        fraction = 1.0 if self.central_fraction is None else self.central_fraction
        _require(0 < fraction <= 1, "central_fraction", "in (0, 1], or None", fraction)
        side, larger = self.resize_side, max(height, width)
        if side is None:
            enlarge = self.kind == "vgg" and larger > _RESIZE_SIDE
            side = round(larger * _RESIZE_SIDE / default_size) if enlarge else _RESIZE_SIDE
        if self.kind == "vgg":
            _require(side >= larger, "resize_side", f"at least the size, {larger}, which is cropped from it", side)
        values = {"size": (height, width), "channels": channels, "central_fraction": fraction, "resize_side": side}
        for name, value in values.items():
            object.__setattr__(self, name, value)

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

    def crops(self, image, count=10):
        """An image from `count` windows, float32 count×H×W×C: 1, the center; 10, that and the corners, mirrored too.

        The ten of AlexNet (NIPS 2012, section 4.1) and of GoogLeNet's table 3 (arXiv 1409.4842). Where nothing is cut
        off, as in the graph of 2015, the corners are the center.

        Args:
            image: uint8 or float32 H×W×C, 0 to 255.
        """
        places = ((0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1)) if count == 10 else ((0.5, 0.5),)
        views = [self._one(image, place) for place in places]
        return np.stack([*views, *(view[:, ::-1] for view in views)] if count == 10 else views)

    def _one(self, image, place=(0.5, 0.5)):
        if self.channels == 1 and image.shape[2] == 3:
            image = to_gray(image.astype(np.float32))
        used, resized, offsets = zip(*self.geometry(*image.shape[:2], place))
        if self.kind == "lenet":
            padding = [(-offset, size - kept + offset) for size, kept, offset in zip(self.size, resized, offsets)]
            return self.in_range(np.pad(image[used].astype(np.float32), [*padding, (0, 0)]))
        scale = np.float32(1 / 255) if self.kind == "inception" else None
        return self.in_range(_resize(image[used], resized, offsets, self.size, scale))

    def in_range(self, image):
        """What is resized to the range that the network takes; "inception" is of [0, 1] then. Arrays and tensors."""
        if self.kind == "inception":
            return (image - np.float32(0.5)) * np.float32(2)
        return image - MEAN_RGB if self.kind == "vgg" else around_zero(image)

    def geometry(self, height, width, place=(0.5, 0.5)):
        """Yields for both axes: the slice of the image that is used, its side once resized, and where in that the
        result begins: below 0 where it is padded. `place` is where the window lies, from 0, the top or left, to 1.
        """
        for side, wanted, at in zip((height, width), self.size, place):
            if self.kind == "inception_2015":
                yield slice(0, side), wanted, 0
            elif self.kind == "inception":
                crop = int((side - side * self.central_fraction) / 2)  # as tf.image.central_crop rounds
                start = int(2 * crop * at)
                yield slice(start, start + side - 2 * crop), wanted, 0
            elif self.kind == "vgg":
                scale = np.float32(self.resize_side) / np.float32(min(height, width))
                resized = int(np.rint(np.float32(side) * scale))
                yield slice(0, side), resized, math.floor((resized - wanted) * at)
            else:  # as tf.image.resize_with_crop_or_pad rounds
                crop, kept = int(max(side - wanted, 0) * at), min(side, wanted)
                yield slice(crop, crop + kept), kept, -max((wanted - side) // 2, 0)

    def positions(self, height, width):
        """Where in the result the pixels of an image of that size are.

        Returns:
            Two float64 arrays: for every row of the image its position along the result's height, for every column its
            position along the width, 0 for the first. NaN for those that the crop leaves out.
        """
        axes = []
        for side, wanted, (used, resized, offset) in zip((height, width), self.size, self.geometry(height, width)):
            position = (np.arange(side) - used.start) * (resized / (used.stop - used.start)) - offset
            axes.append(np.where((position >= 0) & (position < wanted), position, np.nan))
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
            image = to_gray(tf.cast(image, tf.float32))
        if self.kind == "inception":
            # Not tf.image.central_crop: where the sizes are unknown it rounds the fraction to float32.
            height, width = tf.unstack(tf.shape(image)[1:3])
            top, left = (
                tf.cast((side - side * self.central_fraction) / 2, tf.int32)
                for side in (tf.cast(height, tf.float64), tf.cast(width, tf.float64))
            )
            image = image[:, top : height - top, left : width - left]
            image = resize_bilinear(tf.cast(image, tf.float32) * np.float32(1 / 255), self.size)
        elif self.kind == "inception_2015":
            image = resize_bilinear(image, self.size)
        elif self.kind == "vgg":
            image = resize_short_side(image, self.resize_side)
            top, left = tf.unstack((tf.shape(image)[1:3] - self.size) // 2)
            image = image[:, top : top + self.size[0], left : left + self.size[1]]
        else:
            image = tf.image.resize_with_crop_or_pad(tf.cast(image, tf.float32), *self.size)
        image = tf.ensure_shape(self.in_range(image), (None, *self.size, self.channels))
        return image[0] if single else image


def preprocess_input(
    images, size=None, central_fraction=0.875, kind=None, decoder="tensorflow", exif_rotation=False, model=None
):
    """Prepares images for a network as Slim does it for evaluation.

    For the Inceptions this includes Slim's central crop of 0.875, also where the image has the network's size already:
    `central_fraction=None` leaves it out. `Preprocessing` describes what the `kind`s do.

    Args:
        images: one image or many: an array of shape (H, W, 3) or (N, H, W, 3), the path of a file, the bytes of one, or
            a list of images, whose sizes may differ. Arrays are RGB with values 0 to 255, of any integer or float dtype
            (anything that NumPy takes for an array will do: a PIL image, a tensor). Inside a `tf.function`, as in
            `tf.data.Dataset.map`, a tensor of either shape, 0 to 255; its values are not checked there.
        size: height and width of the result. Default: 299 for "inception", 224 for "vgg", 28 for "lenet".
        central_fraction: the part of height and width that is kept, for "inception".
        kind: "inception", "inception_2015", "vgg" (also ResNet v1) or "lenet". Default: "inception".
        decoder, exif_rotation: for files and bytes, see `decode_image`. Arrays need NumPy alone.
        model: a model of this library, whose card says `kind`, the channels, and `size` where that is not given.

    Returns:
        float32 array of shape (N, size, size, 3), N = 1 for a single image; (N, 28, 28, 1) for "lenet". Inside a
        `tf.function` a tensor, without the N where the images have none.

    Raises:
        UsageError: `kind` beside a model of another; another shape; values that are NaN, outside 0 to 255, or look like
            an image that was preprocessed before or scaled to [0, 1].
        ImageError: a file that is no image.
    """
    preprocessing = preprocessing_for(model, kind, size, central_fraction=central_fraction)
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and tensorflow.is_tensor(images) and not hasattr(images, "numpy"):
        return preprocessing.graph(images)  # a tensor of a graph, which has no values yet
    return preprocessing(images, decoder, exif_rotation)


def preprocessing_for(model=None, kind=None, size=None, **options):
    """The `Preprocessing` of a kind, a size and options; where a model is given, its card's.

    Raises:
        UsageError: `model` is none of this library, has images of other channels than its kind, or is of another kind.
    """
    if model is None:
        return Preprocessing(kind or "inception", size, **options)
    known = getattr(getattr(model, "card", None), "preprocessing", None)
    own = preprocessing_of(model) if known else None
    _require(own, "model", "a model of this library, for images of 3 channels, or 1", getattr(model, "name", model))
    _require(kind in (None, own.kind), "kind", f'"{own.kind}", as the model has it, or left out', kind)
    config = {**model.card.preprocessing, "channels": own.channels, **options}
    return Preprocessing.from_config({**config, "size": size or config["size"]})


def preprocessing_of(model):
    """The `Preprocessing` of a model's images; None where it is for other channels than theirs."""
    channels, config = model.input_shape[-1], model.card.preprocessing
    if channels not in ((3,) if config["kind"] == "vgg" else (1, 3)):
        return None
    return Preprocessing.from_config({**config, "channels": channels})


def _require(valid, name, rule, received):
    if not valid:
        raise UsageError(f"`{name}` must be {rule}. Received: {received!r}")


def _arrays(images, channels, decoder, exif_rotation):
    """Yields checked arrays (H, W, channels or 3), uint8 or float32, of whatever `preprocess_input` takes."""
    if not isinstance(images, (list, tuple)):
        array = as_image(images, (3, 4), channels, decoder, exif_rotation)
        yield from array if array.ndim == 4 else [array]
        return
    if not images:
        raise UsageError("No images. Received: an empty list")
    for index, image in enumerate(images):
        try:
            yield as_image(image, (3,), channels, decoder, exif_rotation)
        except (UsageError, ImageError) as error:
            raise type(error)(f"Image {index}: {error}") from error


def as_image(image, ranks, channels, decoder, exif_rotation, scaled_for=None):
    """A path, bytes or whatever NumPy takes for an array as an image, uint8 or float32."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(image, exif_rotation, decoder=decoder, scaled_for=scaled_for)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode_image(image, exif_rotation, decoder=decoder, scaled_for=scaled_for)
    try:
        array = np.asarray(image)
    except ValueError as error:
        raise UsageError(f"Expected an image. Received: {type(image).__name__} that is no array ({error})") from error
    if array.dtype.kind not in "iuf":
        raise UsageError(f"Expected numbers 0 to 255. Received: dtype {array.dtype}")
    if array.ndim not in ranks or array.shape[-1] not in (3, channels) or not array.size:
        last = "3 or 1" if channels == 1 else "3"
        shapes = " or ".join({3: f"(H, W, {last})", 4: f"(N, H, W, {last})"}[rank] for rank in ranks)
        raise UsageError(f"Expected an image of shape {shapes}, channels last. Received: {array.shape}")
    if array.dtype == np.uint8:
        return array
    low, high = array.min(), array.max()
    received = f"Received: values from {low:.4g} to {high:.4g}"
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UsageError("Expected values 0 to 255. Received: NaN or infinity")
    if low < 0:
        raise UsageError(f"Expected values 0 to 255. Was the image preprocessed already? {received}")
    if high > 255:
        raise UsageError(f"Expected values 0 to 255. Divide 16-bit values by 257, clip others. {received}")
    if high <= 1 and (array != np.rint(array)).any():
        raise UsageError(f"Expected values 0 to 255, not 0 to 1: multiply by 255. {received}")
    return array.astype(np.float32)


def around_zero(image):
    """Values 0 to 255 to [-1, 1), as LeNet and the graph of 2015-12-05 have them. Arrays and tensors, float32."""
    return (image - np.float32(128)) / np.float32(128)


def to_gray(image):
    """RGB to (…, 1), by the weights of tf.image.rgb_to_grayscale normalized to a sum of 1. Arrays and tensors."""
    red, green, blue = image[..., 0:1], image[..., 1:2], image[..., 2:3]
    return green + np.float32(0.2989) * (red - green) + np.float32(0.1140) * (blue - green)


def _resize(image, size, offset, window, scale=None):
    """The `window` at `offset` of `image` resized to `size`, the values times `scale` before.

    TensorFlow 1's bilinear in its own order of float32 operations (core/kernels/image/resize_bilinear_op.cc): first
    along the rows. Only the rows and columns that are read are converted; each direction in turn is the outer one,
    where NumPy moves contiguous lines.
    """
    (rows, *vertical), (columns, *horizontal) = map(neighbors, image.shape, size, offset, window)
    pixels = np.take(image[rows], columns, axis=1).reshape(len(rows), -1)
    lines = np.ascontiguousarray(pixels.T).astype(np.float32)
    if scale is not None:
        lines *= scale
    lines = _interpolate(lines.reshape(len(columns), -1), *horizontal).reshape(-1, len(rows))
    return _interpolate(np.ascontiguousarray(lines.T), *vertical).reshape(*window, -1)


def neighbors(side, resized, offset, count):
    """For a stretch of the result: the indices read; among them the one before, the one after, the latter's weight."""
    position = np.arange(offset, offset + count).astype(np.float32) * (np.float32(side) / np.float32(resized))
    before = np.floor(position)
    index = before.astype(np.int64)
    read, where = np.unique(np.stack([index, np.minimum(index + 1, side - 1)]), return_inverse=True)
    return read, *where.reshape(2, -1), position - before


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
