"""The resizes that go by the name of FID: each, pixel for pixel, that of a tool, up to what the 2015 network takes."""

import numpy as np

from inception_tf.errors import UsageError
from inception_tf.images.preprocessing import Preprocessing, around_zero

SIDE = 299
# The tools whose pixels a mode gives.
MODES = {
    "tensorflow": "the graph's bilinear, TensorFlow 1's: TTUR, TF-GAN, torch-fidelity, clean-fid's legacy_tensorflow",
    "pytorch": "bilinear with half-pixel centers, no antialiasing: pytorch-fid, clean-fid's legacy_pytorch",
    "clean": "Pillow's bicubic with antialiasing, in float: clean-fid",
}


def check_mode(mode):
    """Returns a name of `MODES`.

    Raises:
        UsageError: it is none.
    """
    if mode not in MODES:
        raise UsageError(f"The resize must be one of {', '.join(MODES)}. Received: {mode!r}")
    return mode


def resize_2015(image, mode="tensorflow", side=SIDE):
    """An image as the network of 2015-12-05 takes it.

    Args:
        image: array H×W×3, RGB, uint8 or float32 0 to 255.
        mode: one of `MODES`.
        side: of the result.

    Returns:
        float32 array side×side×3: (values − 128) / 128; for "pytorch" 2 · values / 255 − 1, as that has it.
    """
    if check_mode(mode) == "tensorflow":
        return Preprocessing("inception_2015", side)(image)[0]
    image = np.asarray(image, np.float32)
    if mode == "clean":
        return around_zero(_bicubic(image, side))
    image = image / np.float32(255)
    for axis in (1, 0):
        image = _half_pixel(image, axis, side)
    return np.float32(2) * image - np.float32(1)


def _half_pixel(image, axis, side):
    """One axis of PyTorch's `interpolate(mode="bilinear", align_corners=False)`."""
    length = image.shape[axis]
    scale = np.float32(length / side)
    position = np.maximum(scale * (np.arange(side, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    before = np.minimum(position.astype(np.int64), length - 1)
    weight = (position - before.astype(np.float32)).reshape([-1 if i == axis else 1 for i in range(3)])
    start, end = (np.take(image, np.minimum(index, length - 1), axis) for index in (before, before + 1))
    return (np.float32(1) - weight) * start + weight * end


def _bicubic(image, side):
    """Pillow's bicubic of each channel as float, cut to 0 to 255."""
    from PIL import Image

    channels = [Image.fromarray(np.ascontiguousarray(image[:, :, i])) for i in range(3)]
    resized = [np.asarray(channel.resize((side, side), Image.Resampling.BICUBIC)) for channel in channels]
    return np.stack(resized, -1).clip(0, 255)
