"""One class for every engine of batch jobs: an Arrow table of images in, an Arrow table of answers out."""

import os

import numpy as np

from inception_tf.errors import UsageError
from inception_tf.inference.classify import best_classes
from inception_tf.inference.engines import open_engine
from inception_tf.inference.pipeline import Pipeline
from inception_tf.remote import is_url, open_filesystem

ANSWERS = ("class", "name", "score", "embedding", "error")


class TablePredictor:
    """Classifies and embeds the images of Arrow tables.

    It can be pickled: the model is opened on the first call, in whichever process that is. So it runs unchanged in Ray
    Data's `map_batches(TablePredictor, batch_format="pyarrow", fn_constructor_args=…)`, in Spark's `mapInArrow` and in
    a Beam `DoFn`.

    Args:
        model: what `open_engine` takes. What is to be pickled is a path.
        top: how many classes of each image. Ignored by a model that gives an image several labels.
        classify, embed: which answers to give; one pass computes both.
        batch: how many images go through the network at a time; the next ones are decoded meanwhile.
        threads: how many threads ONNX Runtime, OpenVINO or LiteRT compute with, and how many decode. Default: one a
            processor.
        openvino, precision, labels: as in `open_engine`.
        exif_rotation: whether to turn photographs as their EXIF orientation says. Slim does not.

    Raises:
        UsageError: `top` or `batch` below 1; neither `classify` nor `embed`.
    """

    def __init__(
        self,
        model,
        *,
        top=1,
        embed=False,
        classify=True,
        batch=16,
        threads=None,
        openvino=False,
        precision=None,
        labels=None,
        exif_rotation=False,
    ):
        if top < 1 or batch < 1 or not (classify or embed):
            raise UsageError(
                "top and batch must be at least 1, and classify or embed true. Received: "
                f"top={top}, batch={batch}, classify={classify}, embed={embed}"
            )
        self.model = os.fspath(model) if isinstance(model, os.PathLike) else model
        self.top, self.embed, self.classify, self.batch, self.threads = top, embed, classify, batch, threads
        self.openvino, self.precision, self.labels, self.exif_rotation = openvino, precision, labels, exif_rotation
        self._pipe = None

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
            self._pipe = Pipeline(engine, self.top, self.batch, self.exif_rotation)
        return self._pipe

    def __call__(self, table):
        """The answers to the images of a table, a row for each, in order.

        Args:
            table: a `pyarrow.Table` or `RecordBatch` with the columns `path`, strings, and perhaps `bytes`, the files'
                contents; where these are missing, or null, `path` is read: a file, or a URL that fsspec reads.

        Returns:
            A `pyarrow.Table`: the columns of `table` without `bytes`; then, with `classify`, `class` (int32), `name`
            and `score` (float32), or with `top` above 1 and for several labels lists of these, best first; with
            `embed`, `embedding`, a list of C float32, PreLogits; `error`, null where there is an answer, else why there
            is none. The other answers are null then.

        Raises:
            UsageError: no column `path`, or one that an answer would replace; a package for a URL is missing.
            CheckpointError, MismatchError: the model cannot be opened.
        """
        import pyarrow as pa

        table = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
        if "path" not in table.column_names or (taken := set(ANSWERS) & set(table.column_names)):
            problem = "has no column path" if "path" not in table.column_names else f"has {', '.join(sorted(taken))}"
            raise UsageError(f"Expected a table with a column path and none of {', '.join(ANSWERS)}. It {problem}.")
        paths = table["path"].to_pylist()
        data = table["bytes"].to_pylist() if "bytes" in table.column_names else [None] * len(paths)
        images = [path if content is None else content for path, content in zip(paths, data)]
        urls = {image.partition("://")[0]: image for image in images if is_url(image)}
        for url in urls.values():
            open_filesystem(url)  # a package that is missing is no bad image
        engine = self.pipe.engine
        start = engine.start_both if self.classify and self.embed else engine.start
        start = start if self.classify else engine.start_embedding
        errors, found = [], []
        # What comes over a network waits more than it computes.
        for _, error, row in self.pipe.rows(images, start, workers=16 if urls else self.threads):
            errors.append(error)
            found.append(row)
        return self._answers(pa, table.drop_columns([n for n in ("bytes",) if n in table.column_names]), errors, found)

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
            width = self._width(found, classes)
            rows = np.array([row[classes:] for row in found], np.float32).reshape(len(found), width)
            flat = pa.array(np.ascontiguousarray(rows).ravel())
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1], mask=pa.array(bad))
        columns["error"] = pa.array(errors, pa.string())
        for name, column in columns.items():
            table = table.append_column(name, column)
        return table

    def _width(self, found, classes):
        """How many values an embedding has; of no images, the network is asked."""
        if not found:
            preprocessing = self.pipe.engine.preprocessing
            blank = np.zeros((1, *preprocessing.size, preprocessing.channels), np.float32)
            return self.pipe.engine.embed(blank).shape[1]
        return len(found[0]) - classes
