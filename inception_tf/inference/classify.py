"""Classifying many image files, some of which may be bad."""

import collections
import itertools
import operator
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from inception_tf.errors import CheckpointError, ImageError, UsageError
from inception_tf.images.decoding import read_image
from inception_tf.images.files import find_images
from inception_tf.images.labels import decode_predictions
from inception_tf.inference.engines import Engine, open_engine
from inception_tf.progress import Progress

NOT_FINITE = "its scores are not finite"


def classify(engine, paths, top=None, batch=16, exif_rotation=False, fast_decode=False):
    """The best classes of image files.

    Args:
        engine: an `Engine`, or whatever `open_engine` takes.
        paths: a sequence of files; or one path, a pattern or a directory, as `find_images` takes it.
        top: how many classes of each. Default: 5; of a model that gives an image several labels, all whose probability
            reaches their threshold, perhaps none.
        batch: how many images go through the network at a time; the next ones are decoded meanwhile.
        exif_rotation: whether to turn photographs as their EXIF orientation says. Slim does not.
        fast_decode: whether to decode large JPEGs scaled down; see `scaled_for` of `decode_image`.

    Returns:
        A dict from paths to lists of (class index, name, score), best first, and a dict from the paths of files that
        could not be read, or to which the model answers NaN or infinity, to the reason.

    Raises:
        UsageError: `top` or `batch` below 1; `top` of a model of several labels; a path that matches nothing.
        CheckpointError, MismatchError: there is no such model; or the model answers NaN or infinity to every image.
    """
    if (top is not None and top < 1) or batch < 1:
        raise UsageError(f"top and batch must be at least 1. Received: top={top}, batch={batch}")
    paths = find_images(paths) if isinstance(paths, (str, os.PathLike)) else paths
    engine = engine if isinstance(engine, Engine) else open_engine(engine)
    if getattr(engine.card, "multi_label", False) and top is not None:
        raise UsageError(
            f"The model answers with all labels that reach their threshold: leave out --top (top). Received: {top}"
        )
    results, failures = {}, {}
    scaled_for = engine.preprocessing if fast_decode else None

    def prepare(path):
        return engine.preprocessing(read_image(path, exif_rotation, decoder=engine.decoder, scaled_for=scaled_for))

    def images(progress):
        for path, image in zip(paths, prepared(prepare, paths, batch)):
            if isinstance(image, Exception):
                failures[path] = str(image).removeprefix(f"{path}: ")
            else:
                yield path, image
            progress.advance()

    with Progress("Classifying", len(paths), "images") as progress:
        for files, scores in answers(engine, images(progress), batch):
            finite = np.isfinite(scores).reshape(len(scores), -1).all(axis=1)
            results.update(zip(itertools.compress(files, finite), best_classes(engine, scores[finite], top or 5)))
            failures.update(dict.fromkeys(itertools.compress(files, ~finite), NOT_FINITE))
    if not results and NOT_FINITE in failures.values():
        raise CheckpointError("The model answers NaN or infinity to every image: are its weights broken?")
    return results, failures


def best_classes(engine, scores, top):
    """The `top` best classes of each image; of a model of several labels, those that reach their threshold.

    Args:
        scores: finite float32 N×classes.

    Returns:
        N lists of (class index, name, score), best first.
    """
    if not getattr(engine.card, "multi_label", False):
        return decode_predictions(scores, top, engine.labels)
    decoded, least = decode_predictions(scores, len(engine.labels), engine.labels), engine.card.thresholds
    return [[label for label in row if label[2] >= least[label[0]]] for row in decoded]


def answers(engine, images, batch, start=None):
    """Yields (keys, scores) of batches; an engine that can computes one while the next is prepared.

    Where the engine `compiles`, the last batch is padded to the size of the others, unless it is the only one.

    Args:
        engine: an `Engine`.
        images: yields (key, image), preprocessed, float32 1×H×W×C; or each of as many windows, for `averaged`.
        batch: how many at a time.
        start: what is run in place of `engine.start`.
    """
    running, start = collections.deque(), start or engine.start

    def finish():
        keys, scores = running.popleft()
        return keys, scores()[: len(keys)]

    images, first = iter(images), True
    while some := list(itertools.islice(images, batch)):
        keys, pixels = zip(*some)
        pixels = np.concatenate(pixels)
        if engine.compiles and not first and len(some) < batch:
            spare = (batch - len(some)) * len(some[0][1])
            pixels = np.concatenate([pixels, np.zeros((spare, *pixels.shape[1:]), pixels.dtype)])
        running.append((keys, start(pixels)))
        first = False
        if len(running) > engine.ahead:
            yield finish()
    while running:
        yield finish()


def averaged(start, crops):
    """`start` for images of `crops` windows each: the mean of what is computed of an image's."""

    def start_all(images):
        running = start(images)
        return lambda: np.asarray(running()).reshape(len(images) // crops, crops, -1).mean(1)

    return start_all if crops > 1 else start


def prepared(prepare, items, ahead, workers=None):
    """Yields `prepare(item)` of each item in order, or the `ImageError` or `OSError` it raised; threads work ahead.

    Args:
        ahead: how many results to have ready beyond those in work.
        workers: how many threads. Default: one a processor.
    """

    def attempt(item):
        try:
            return prepare(item)
        except (ImageError, OSError) as error:
            return error

    workers = min(workers or os.cpu_count() or 1, 16, operator.length_hint(items, 16) or 1)
    pool, coming = ThreadPoolExecutor(workers), collections.deque()
    try:
        for item in items:
            coming.append(pool.submit(attempt, item))
            if len(coming) > ahead + workers:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
