"""Classifying many image files, some of which may be bad."""

import numpy as np

from inception_tf.errors import CheckpointError, ImageError, UsageError
from inception_tf.images.decoding import read_image
from inception_tf.images.labels import decode_predictions
from inception_tf.progress import Progress


def classify(engine, paths, top=5, batch=16, exif_rotation=False):
    """The best classes of image files.

    Args:
        engine: an `Engine`.
        paths: the files.
        top: how many classes of each.
        batch: how many images go through the network at a time.
        exif_rotation: whether to turn photographs as their EXIF orientation says. Slim does not.

    Returns:
        A dict from paths to lists of (class index, name, score), best first, and a dict from the paths of files that
        could not be read to the reason.

    Raises:
        UsageError: `top` or `batch` below 1.
        CheckpointError: the model's scores are NaN.
    """
    if top < 1 or batch < 1:
        raise UsageError(f"top and batch must be at least 1. Received: top={top}, batch={batch}")
    results, failures, waiting = {}, {}, []

    def flush():
        if waiting:
            scores = engine(np.concatenate([image for _, image in waiting]))
            if np.isnan(scores).any():
                raise CheckpointError("The model answers NaN: `inspect` tells which of its weights are broken.")
            decoded = decode_predictions(scores, top, engine.labels)
            results.update(zip((path for path, _ in waiting), decoded))
            waiting.clear()

    with Progress("Classifying", len(paths), "images") as progress:
        for path in paths:
            try:
                waiting.append((path, engine.preprocessing(read_image(path, exif_rotation))))
            except (ImageError, OSError) as error:
                failures[path] = str(error).removeprefix(f"{path}: ")
            if len(waiting) == batch:
                flush()
            progress.advance()
        flush()
    return results, failures
