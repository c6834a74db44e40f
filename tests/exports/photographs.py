"""Image files for the tests of exports."""

import numpy as np
from PIL import Image

from inception_tf.slim.golden import deterministic_images


def write_photographs(folder, count, height=40, width=32):
    """Writes PNG files that are always the same; returns the folder."""
    for i, pixels in enumerate(deterministic_images(count, height, width)):
        Image.fromarray(np.uint8((pixels + 1) * 127.5)).save(folder / f"{i:02}.png")
    return folder
