"""From a model's file to answers about whatever holds images: `pipeline`."""

import collections.abc
import dataclasses
import os
from pathlib import Path

import numpy as np

from inception_tf import tables
from inception_tf.errors import ImageError, InceptionTFError, UsageError
from inception_tf.images.files import find_images
from inception_tf.images.image_sets import pixels
from inception_tf.images.labels import decode_predictions
from inception_tf.inference.classify import NOT_FINITE, answers, averaged, prepared
from inception_tf.inference.engines import Engine, open_engine


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A class and its score, 0 to 1."""

    name: str
    score: float
    index: int


class Predictions(list):
    """The `Prediction`s of one image, best first.

    Attributes:
        source: the image's path, as it was given; None for what was no path.
        error: why it could not be read or answered, in which case the list is empty; else None.
    """

    def __init__(self, predictions=(), source=None, error=None):
        super().__init__(predictions)
        self.source, self.error = source, error

    def __repr__(self):
        return f"<error: {self.error}>" if self.error else super().__repr__()

    def _rows(self):
        if self.error:
            return [(self.source, f"error: {self.error}", "")]
        return [("" if i else self.source, one.name, tables.percent(one.score)) for i, one in enumerate(self)]

    def _repr_html_(self):
        return ManyPredictions([self])._repr_html_()


class ManyPredictions(list):
    """A list of `Predictions`, which a notebook shows as a table."""

    def _repr_html_(self):
        return tables.html([row for one in self for row in one._rows()], ("image", "class", "score"))


class Pipeline:
    """A model that is called on images: see `pipeline`.

    Attributes:
        engine: the `Engine`.
        card: the model's `Card`.
        labels: its class names, None without a top.
    """

    def __init__(self, engine, top=5, batch=16, exif_rotation=False, crops=1, fast_decode=False):
        if crops not in (1, 10):
            raise UsageError(f"crops is 1 or 10: see Preprocessing.crops. Received: {crops}")
        if top < 1 or batch < 1:
            raise UsageError(f"top and batch must be at least 1. Received: top={top}, batch={batch}")
        self.engine, self.top, self.exif_rotation, self.crops = engine, top, exif_rotation, crops
        self.scaled_for = engine.preprocessing if fast_decode else None
        self.batch = max(batch // crops, 1)
        self.card, self.labels = engine.card, engine.labels

    def __call__(self, images):
        """The best classes of images.

        Args:
            images: an image: a path, the bytes of a file, a PIL image, or an array H×W, H×W×3 or H×W×4 of values 0 to
                255. Or many, mixed: a list, an array N×H×W×3, a directory, a generator or another iterable.

        Returns:
            Of an image its `Predictions`: a list of `Prediction`, best first, each with `name`, `score` and `index`. Of
            a list, an array or a directory a list of them; of a generator one that goes on in batches. What cannot be
            read among many is an empty one whose `error` says why.

        Raises:
            UsageError: the model has no classifier.
            ImageError: a single image that cannot be read.
        """
        if not self.labels:
            raise UsageError(f"{self.engine.path} has no classifier (include_top=False); .embed() gives its features.")

        def predictions():
            for source, error, scores in self.rows(many, self.engine.start, kind == "one"):
                best = [] if error else decode_predictions(scores[None], self.top, self.labels)[0]
                yield Predictions([Prediction(name, score, i) for i, name, score in best], source, error)

        many, kind = _many(images)
        if kind == "one":
            return next(predictions())
        return predictions() if kind == "stream" else ManyPredictions(predictions())

    def embed(self, images):
        """PreLogits, the input of the classifier, of images as `__call__` takes them; the mean where that is a map.

        Returns:
            float32 array N×C, N = 1 for a single image; of a generator one of arrays C. What cannot be read among many
            has a row of NaN.

        Raises:
            UsageError: an export that carries no features: it says what to do.
            ImageError: a single image that cannot be read.
        """
        many, kind = _many(images)
        rows = self.rows(many, self.engine.start_embedding, kind == "one")
        vectors = (row * np.float32(np.nan) if error else row for _, error, row in rows)
        return vectors if kind == "stream" else np.stack(list(vectors))

    def rows(self, images, start, strict=False, workers=None):
        """Yields (path or None, error or None, what `start` computed) of each image, in order, batch by batch.

        Args:
            start: as `answers` takes it.
            strict: whether to raise the error.
            workers: how many threads read and decode. Default: one a processor.
        """
        preprocessing, decoder = self.engine.preprocessing, self.engine.decoder
        blank = np.zeros((self.crops, *preprocessing.size, preprocessing.channels), np.float32)

        def prepare(image):
            source = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
            try:
                image = pixels(image, decoder, self.exif_rotation, self.scaled_for)
                return (source, None), preprocessing.crops(image, self.crops)
            except (InceptionTFError, OSError) as error:
                return (source, str(error).removeprefix(f"{source}: ")), blank

        start = averaged(start, self.crops)
        for keys, found in answers(self.engine, prepared(prepare, images, self.batch, workers), self.batch, start):
            for (source, error), row in zip(keys, found):
                error = error or (None if np.isfinite(row).all() else NOT_FINITE)
                if error and strict:
                    raise ImageError(f"{source}: {error}" if source else error)
                yield source, error, row


def pipeline(model, top=5, batch=16, labels=None, openvino=False, precision=None, exif_rotation=False):
    """One object from a model's file to answers: `itf.pipeline("flowers.onnx")("photo.jpg")[0].name`.

    Args:
        model: an `Engine`, or whatever `open_engine` takes: a Keras model, a `.keras` file, a run's directory, a
            SavedModel, a `.tflite`, `.onnx`, `.stablehlo` or `.xml` file. One without its top will do for `embed`.
        top: how many classes of each image.
        batch: how many images go through the network at a time; the next ones are decoded meanwhile.
        labels, openvino, precision: as in `open_engine`.
        exif_rotation: whether to turn photographs as their EXIF orientation says. Slim does not.

    Returns:
        A `Pipeline`; called on images it gives classes and scores; `.embed(images)` gives PreLogits; `.card` says what
        the model is.

    Raises:
        UsageError: `top` or `batch` below 1; others as `open_engine`.
    """
    engine = model if isinstance(model, Engine) else open_engine(model, labels, openvino, precision, classifier=False)
    return Pipeline(engine, top, batch, exif_rotation)


def _many(images):
    """(an iterable of images, "one", "list" or "stream")."""
    if isinstance(images, (str, os.PathLike)):
        return (find_images(images), "list") if Path(images).is_dir() else ([images], "one")
    dimensions = getattr(images, "ndim", None)
    if isinstance(images, (list, tuple)) or dimensions in (1, 4):
        if not len(images):
            raise UsageError("No images. Received: an empty list")
        return images, "list"
    single = isinstance(images, (bytes, bytearray, memoryview)) or dimensions is not None or hasattr(images, "convert")
    stream = isinstance(images, collections.abc.Iterable) and not single
    return (images, "stream") if stream else ([images], "one")
