"""Slim's training preprocessing in TensorFlow ops, every random draw from a seed."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from inception_tf.errors import UsageError
from inception_tf.images.preprocessing import MEAN_RGB, Preprocessing, resize_short_side, to_gray

MODES = ("fast", "full", "none")
# Of preprocess_for_train of inception_preprocessing.py: its 1.33 is not quite 4/3.
SMALLEST_AREA, _ASPECT, _ATTEMPTS, _COVERED = 0.05, (0.75, 1.33), 100, 0.1
_BRIGHTNESS, _SATURATION, _HUE, _CONTRAST = 32 / 255, (0.5, 1.5), 0.2, (0.5, 1.5)
_FAST_ORDER = ("brightness", "saturation")
_FULL_ORDERS = (
    ("brightness", "saturation", "hue", "contrast"),
    ("saturation", "brightness", "contrast", "hue"),
    ("contrast", "hue", "brightness", "saturation"),
    ("hue", "saturation", "contrast", "brightness"),
)
_RESIZES = [getattr(tf.raw_ops, f"Resize{method}") for method in ("Bilinear", "NearestNeighbor", "Bicubic", "Area")]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How Slim prepares images for training: `preprocess_for_train` of research/slim/preprocessing (at d4eedbb).

    Kinds, by Slim's file:
        "inception": a random box of 5 to 100 % of the image's area and an aspect of 0.75 to 1.33 (the whole image where
            100 attempts find none; boxes below 10 % are among those refused, since Slim asks for 0.1 of the object
            and takes the image for it), resized to the network's size whatever its aspect; in half of the images left
            and right exchanged; brightness moved by at most 32/255, then saturation times 0.5 to 1.5; clipped; to
            [-1, 1]. The "full" mode resizes by one of four methods (bilinear, nearest, bicubic, area), turns the hue
            by at most 0.2 and multiplies the contrast by 0.5 to 1.5 besides, in one of four orders. The same for
            "inception_2015", in its own range.
        "vgg": bilinear until the short side is a number of 256 to 512 (in general `resize_side` to twice that), a
            random window of the network's size, in half of the images left and right exchanged, minus the mean RGB.
            "fast" and "full" are the same.
        "lenet": as for evaluation. So are all kinds in the mode "none".

    All resizing is TensorFlow 1's. A network of gray images gets the gray of the colored result, as in Slim.

    Args:
        preprocessing: the network's `Preprocessing`.
        mode: "fast" (Slim's default), "full" or "none".
        smallest_area: of the random box of "inception", as a part of the image's.
    """

    preprocessing: Preprocessing
    mode: str = "fast"
    smallest_area: float = SMALLEST_AREA

    def __post_init__(self):
        if self.mode not in MODES:
            raise UsageError(f"The mode of augmentation must be one of {', '.join(MODES)}. Received: {self.mode!r}")

    def graph(self, image, seed):
        """Augments one image; in a `tf.data` pipeline, in a `tf.function` or eagerly.

        Args:
            image: uint8 tensor of shape (H, W, 3) or (H, W, 1), H and W known or not.
            seed: integer tensor of shape (2,). The same seed makes the same draws on any machine.

        Returns:
            float32 tensor of shape (height, width, channels), in the range of the evaluation preprocessing.

        Raises:
            tf.errors.InvalidArgumentError, at run time: for "vgg", an image too long and narrow to resize.
        """
        image = tf.convert_to_tensor(image)
        if image.dtype != tf.uint8 or image.shape.rank != 3 or image.shape[-1] not in (1, 3):
            raise UsageError(
                f"Expected a uint8 tensor of shape (H, W, 3) or (H, W, 1). Received: {image.dtype.name} {image.shape}"
            )
        kind = self.preprocessing.kind
        if self.mode == "none" or kind == "lenet":
            return self.preprocessing.graph(image)
        if image.shape[-1] == 1:
            image = tf.image.grayscale_to_rgb(image)
        seeds = tf.random.split(tf.cast(seed, tf.int64), alg="philox")
        draws = tf.random.stateless_uniform([7], seeds[1], alg="philox")
        image = self._inception(image, seeds[0], draws) if kind != "vgg" else self._vgg(image, draws)
        return tf.ensure_shape(image, (*self.preprocessing.size, self.preprocessing.channels))

    def _inception(self, image, seed, draws):
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(image),
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seed=seed,
            min_object_covered=_COVERED,
            aspect_ratio_range=_ASPECT,
            area_range=(self.smallest_area, 1.0),
            max_attempts=_ATTEMPTS,
        )
        image = tf.cast(tf.slice(image, begin, size), tf.float32) * np.float32(1 / 255)
        image = tf.ensure_shape(image, (None, None, 3))[tf.newaxis]
        resize = {"images": image, "size": self.preprocessing.size, "align_corners": False}
        resizes = [functools.partial(op, **resize) for op in _RESIZES]
        image = (resizes[0]() if self.mode == "fast" else _random_choice(draws[0], resizes))[0]
        image = _random_flip(image, draws[1])
        factors = {
            "brightness": _uniform(draws[2], -_BRIGHTNESS, _BRIGHTNESS),
            "saturation": _uniform(draws[3], *_SATURATION),
            "hue": _uniform(draws[4], -_HUE, _HUE),
            "contrast": _uniform(draws[5], *_CONTRAST),
        }
        if self.mode == "fast":
            image = _distort_color(image, _FAST_ORDER, factors)
        else:
            orders = [functools.partial(_distort_color, image, order, factors) for order in _FULL_ORDERS]
            image = _random_choice(draws[6], orders)
        image = tf.clip_by_value(image, 0.0, 1.0)
        if self.preprocessing.channels == 1:
            image = to_gray(image)
        return self.preprocessing.in_range(image if self.preprocessing.kind == "inception" else image * 255.0)

    def _vgg(self, image, draws):
        side = self.preprocessing.resize_side
        image = resize_short_side(image[tf.newaxis], side + _uniform_int(draws[0], side + 1))[0]
        height, width = self.preprocessing.size
        free = tf.shape(image)[:2] - (height, width)
        top, left = _uniform_int(draws[1], free[0] + 1), _uniform_int(draws[2], free[1] + 1)
        return _random_flip(image[top : top + height, left : left + width], draws[3]) - MEAN_RGB


def _distort_color(image, order, factors):
    for name in order:
        image = getattr(tf.image, f"adjust_{name}")(image, factors[name])
    return image


def _random_flip(image, draw):
    return tf.cond(draw < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def _random_choice(draw, branches):
    return tf.switch_case(_uniform_int(draw, len(branches)), branches)


def _uniform(draw, low, high):
    return low + draw * (high - low)


def _uniform_int(draw, count):
    """A draw of [0, 1) to an integer of 0 … count - 1."""
    return tf.minimum(tf.cast(draw * tf.cast(count, tf.float32), tf.int32), count - 1)
