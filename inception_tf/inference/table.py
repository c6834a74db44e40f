"""One class for every engine of batch jobs: an Arrow table of images in, an Arrow table of answers out."""

import glob
import hashlib
import os
from pathlib import Path

import numpy as np

from inception_tf.errors import ImageError, UsageError, listed, raising
from inception_tf.images.labels import load_labels
from inception_tf.inference.classify import best_classes
from inception_tf.inference.engines import open_engine
from inception_tf.inference.pipeline import Pipeline
from inception_tf.remote import is_url, open_filesystem
from inception_tf.zoo import resolve

ANSWERS = ("class", "name", "score", "embedding")


class TablePredictor:
    """Classifies and embeds the images of Arrow tables.

    It can be pickled: the model is opened on the first call, in whichever process that is. So it runs unchanged in Ray
    Data's `map_batches(TablePredictor, batch_format="pyarrow", fn_constructor_args=…)`, in Spark's `mapInArrow` and in
    a Beam `DoFn`.

    Args:
        model: what `open_engine` takes. What is to be pickled is a path.
        top: how many classes of each image. Ignored by a model that gives an image several labels.
        classify, embed: which answers to give; one pass computes both.
        crops: 10 for the mean of ten windows of an image, the center and the corners, mirrored too.
        batch: how many images go through the network at a time; the next ones are decoded meanwhile.
        threads: how many threads ONNX Runtime, OpenVINO or LiteRT compute with, and how many decode. Default: one a
            processor.
        openvino, precision, labels: as in `open_engine`.
        exif_rotation: whether to turn photographs as their EXIF orientation says. Slim does not.
        fast_decode: whether to decode large JPEGs scaled down; see `scaled_for` of `decode_image`.

    Raises:
        UsageError: `top`, `batch` or `threads` below 1; neither `classify` nor `embed`.
    """

    def __init__(
        self,
        model,
        *,
        top=1,
        embed=False,
        classify=True,
        crops=1,
        batch=16,
        threads=None,
        openvino=False,
        precision=None,
        labels=None,
        exif_rotation=False,
        fast_decode=False,
    ):
        if min(top, batch, 1 if threads is None else threads) < 1 or not (classify or embed):
            raise UsageError(
                "top, batch and threads must be at least 1, and classify or embed true. Received: "
                f"top={top}, batch={batch}, threads={threads}, classify={classify}, embed={embed}"
            )
        self.model = os.fspath(model) if isinstance(model, os.PathLike) else model
        self.top, self.embed, self.classify, self.batch, self.threads = top, embed, classify, batch, threads
        self.openvino, self.precision, self.labels = openvino, precision, labels
        self.crops, self.exif_rotation, self.fast_decode, self._pipe = crops, exif_rotation, fast_decode, None

    def __getstate__(self):
        return {**self.__dict__, "_pipe": None}

    @property
    def pipe(self):
        """The `Pipeline`; the model is opened where it is not yet.

        Raises:
            CheckpointError, MismatchError, UsageError: as `open_engine`.
        """
        if self._pipe is None:
            engine = open_engine(
                self.model, self.labels, self.openvino, self.precision, self.classify, threads=self.threads
            )
            self._pipe = Pipeline(engine, self.top, self.batch, self.exif_rotation, self.crops, self.fast_decode)
        return self._pipe

    def __call__(self, table):
        """The answers to the images of a table, a row for each, in order.

        Args:
            table: a `pyarrow.Table` or `RecordBatch` with the columns `path`, strings, and perhaps `bytes`, the files'
                contents, and `error`, why there is none. Where there is neither, or null, `path` is read: a file, or a
                URL that fsspec reads.

        Returns:
            A `pyarrow.Table`: the columns of `table` without `bytes` and `error`; then, with `classify`, `class`
            (int32), `name` and `score` (float32), or with `top` above 1 and for several labels lists of these, best
            first; with `embed`, `embedding`, a list of C float32, PreLogits; `error`, null where there is an answer,
            else why there is none. The other answers are null then.

        Raises:
            UsageError: no Arrow table; no column `path`, or one that an answer would replace; columns of other types; a
                package for a URL is missing.
            CheckpointError, MismatchError: the model cannot be opened.
        """
        import pyarrow as pa

        table = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
        if not isinstance(table, pa.Table):
            kind = type(table).__name__
            raise UsageError(f"Expected a pyarrow.Table (of Ray by batch_format='pyarrow'). Received: {kind}")
        names = table.column_names
        if "path" not in names or len(set(names)) < len(names) or set(ANSWERS) & set(names):
            expected = f"Expected a table with a column path, no name twice, and none of {', '.join(ANSWERS)}"
            raise UsageError(f"{expected}. Received: {listed(names, 20)}")
        given = []
        for name, kind in {"path": pa.string(), "bytes": pa.large_binary(), "error": pa.string()}.items():
            with raising(UsageError, f"The column {name} is no {kind}", pa.ArrowException):
                given.append(table[name].cast(kind).to_pylist() if name in names else [None] * len(table))
        images = [_image(*row) for row in zip(*given)]
        urls = {image.partition("://")[0]: image for image in images if is_url(image)}
        for url in urls.values():
            try:
                open_filesystem(url)
            except UsageError as error:
                if isinstance(error.__cause__, ImportError):  # a package that is missing is no bad image
                    raise
        engine = self.pipe.engine
        start = engine.start_both if self.classify and self.embed else engine.start
        start = start if self.classify else engine.start_embedding
        errors, found = [], []
        # What comes over a network waits more than it computes.
        for _, error, row in self.pipe.rows(images, start, workers=16 if urls else self.threads):
            errors.append(error)
            found.append(row)
        kept = table.drop_columns([name for name in ("bytes", "error") if name in names])
        return self._answers(pa, kept, errors, found)

    def open(self):
        """Opens the model, if it is not open yet, as the first call would."""
        self._pipe = self.pipe

    def failed(self, table, error):
        """Answers to images that there are none to: as `__call__`, each row with this `error`."""
        import pyarrow as pa

        known, count = dict(zip(table.column_names, table.columns)), len(table)
        known["error"] = pa.array([error] * count, pa.string())
        schema = self(table.slice(0, 0)).schema
        return pa.table([known.get(field.name, pa.nulls(count, field.type)) for field in schema], schema)

    def _answers(self, pa, table, errors, found):
        bad = np.array([error is not None for error in errors], bool)
        classes = len(self.pipe.engine.labels) if self.classify else 0
        columns = {}
        if self.classify:
            good = np.array([row[:classes] for row, wrong in zip(found, bad) if not wrong])
            best = iter(best_classes(self.pipe.engine, good, self.top) if len(good) else ())
            best = [None if wrong else next(best) for wrong in bad]
            one = self.top == 1 and not getattr(self.pipe.card, "multi_label", False)
            for i, (name, kind) in enumerate({"class": pa.int32(), "name": pa.string(), "score": pa.float32()}.items()):
                values = [row and [answer[i] for answer in row] for row in best]
                values = [row and row[0] for row in values] if one else values
                columns[name] = pa.array(values, kind if one else pa.list_(kind))
        if self.embed:
            # Not lists of a fixed size: pyarrow before 26 does not read these back where one is null.
            rows = np.array([row[classes:] for row, wrong in zip(found, bad) if not wrong], np.float32)
            ends = np.cumsum(~bad, dtype=np.int32) * (rows.shape[1] if len(rows) else 0)
            offsets = pa.array(np.append(np.int32(0), ends), pa.int32())
            columns["embedding"] = pa.ListArray.from_arrays(offsets, pa.array(rows.ravel()), mask=pa.array(bad))
        columns["error"] = pa.array(errors, pa.string())
        for name, column in columns.items():
            table = table.append_column(name, column)
        return table

    @property
    def settings(self):
        """What the answers depend on, as JSON takes it: the same of the same weights, wherever their file lies."""
        names = ("top", "embed", "classify", "crops", "openvino", "precision", "exif_rotation", "fast_decode")
        labels = load_labels(self.labels) if isinstance(self.labels, (str, Path)) else self.labels
        return {"model": fingerprint(self.model), **{name: getattr(self, name) for name in names}, "labels": labels}


def _image(path, data, error):
    """What `Pipeline.rows` takes for the image of a row."""
    if error is not None or (not path and data is None):
        return ImageError(error or "Its row has no path.")
    return path if data is None else data


def fingerprint(model):
    """A digest of a model's weights and card, or of its files; the name of published weights as it is."""
    digest = hashlib.sha256()
    if hasattr(model, "get_weights"):
        digest.update(model.card.to_json().encode())
        for value in model.get_weights():
            digest.update(np.ascontiguousarray(value))
        return digest.hexdigest()[:16]
    path = resolve(model).value
    if not isinstance(path, Path):
        return str(path)
    companion = {".xml": ".bin", ".stablehlo": ".safetensors"}.get(path.suffix.lower())
    files = [path, path.with_suffix(companion)] if companion else [path]
    if path.is_dir():
        files = sorted(path.rglob("*"))
    elif not path.exists():  # a checkpoint of several files
        files = sorted(map(Path, glob.glob(f"{glob.escape(str(path))}.*")))
    for file in files:
        if file.is_file():
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:16]
