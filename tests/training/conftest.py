"""Small labeled images, and what a run on them costs little with: LeNet."""

import numpy as np
import pytest
from PIL import Image

CLASSES = ("blank", "checked", "striped")


def pattern(kind, seed):
    """A grayish RGB picture 32 × 32 that LeNet tells apart in a few steps."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 130, (32, 32, 3))
    stripes = (np.arange(32) // 4 % 2)[:, None, None] * 110
    if kind == "striped":
        image = image + stripes
    if kind == "checked":
        image = image + (stripes + stripes.transpose(1, 0, 2)) % 220
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of class folders: 12 pictures of each of three classes."""
    folder = tmp_path_factory.mktemp("pictures")
    for label, kind in enumerate(CLASSES):
        (folder / kind).mkdir()
        for i in range(12):
            Image.fromarray(pattern(kind, 100 * label + i)).save(folder / kind / f"{i}.png")
    return folder
