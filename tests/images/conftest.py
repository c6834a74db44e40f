import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def pixels():
    """A smooth picture, uint8 48 × 64 × 3."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((64, 48), Image.Resampling.BICUBIC))


@pytest.fixture(scope="session")
def encode():
    def encode(image, kind, **options):
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return encode
