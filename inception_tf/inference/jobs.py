"""A job over any number of images: tables in, part files out. What is written stays; a job run again goes on."""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
import uuid

import numpy as np

from inception_tf import tables
from inception_tf.errors import InceptionTFError, UsageError, need, raising
from inception_tf.progress import Progress
from inception_tf.remote import open_filesystem

FORMATS = ("parquet", "jsonl")
SETTINGS = "_inception_tf.json"  # readers of Parquet folders leave names with _ out
# Where a file is there whole or not at all. Elsewhere it is written beside its name and renamed.
_ATOMIC = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "memory"}


class Parts:
    """A folder of part files, Parquet or JSON lines, to which answers are added. A context: leaving it writes the rest.

    A part is written when it has `rows` rows or `size` bytes, or after a while: the first of `seconds`, then twice as
    long, and so on up to the second. So a short job that is killed has kept some, and a long one has no thousands of
    parts. Beside them, `_inception_tf.json` holds the settings that all of them share.

    Args:
        out: a folder, or a URL that fsspec writes to. It need not be there.
        settings: what the answers depend on, a dict that JSON takes.
        format: one of `FORMATS`.

    Raises:
        UsageError: the folder holds answers of other settings, says which; or something else; a package is missing.
        InceptionTFError: a part cannot be read.
    """

    def __init__(self, out, settings, format="parquet", rows=10_000, size=128 << 20, seconds=(10, 300)):
        need("pyarrow", "data", f"Writing {out}")
        if format not in FORMATS:
            raise UsageError(f"The format is {' or '.join(FORMATS)}. Received: {format}")
        self.out, self.format = os.fspath(out), format
        self.settings = json.loads(json.dumps({**settings, "format": format}))
        self.limits, self.waiting, self.since, self.written = (rows, size), [], time.monotonic(), 0
        self._patience, self._longest = seconds
        self.filesystem, root = open_filesystem(self.out)
        self.root, protocol = root.rstrip("/"), self.filesystem.protocol
        self._atomic = bool(_ATOMIC.intersection([protocol] if isinstance(protocol, str) else protocol))
        self._check(self._files())
        self._keys, self._counts = self._digests()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.flush()  # of a part that could not be written nothing waits any more

    def __len__(self):
        """How many rows the parts held when they were opened."""
        return self._held

    def missing(self, table):
        """The rows of a table whose paths the parts do not hold; of a path that comes n times, n rows are kept."""
        if not len(self._keys):
            return table
        wanted = np.array([_digest(path) for path in table["path"].to_pylist()], "S16")
        places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        new = []
        for place, same in zip(places, self._keys[places] == wanted):
            done = same and self._counts[place] > 0
            self._counts[place] -= bool(done)
            new.append(not done)
        return table.filter(new)

    def write(self, table):
        """Adds rows. Raises an `InceptionTFError` where a part cannot be written: those before stay as they are."""
        if self.waiting and self.waiting[0].schema != table.schema:
            self.flush()
        if not len(table):
            return
        if not self._known:  # also to learn early whether anything can be written there
            self._put(SETTINGS, json.dumps(self.settings, indent=2).encode())
            self._known = True
        self.waiting.append(table)
        rows, size = self.limits
        if (
            sum(map(len, self.waiting)) >= rows
            or sum(part.nbytes for part in self.waiting) >= size
            or time.monotonic() - self.since >= self._patience
        ):
            self.flush()
            self._patience = min(2 * self._patience, self._longest)

    def flush(self):
        """Writes what is waiting as a part."""
        if not self.waiting:
            return
        import pyarrow as pa

        table, self.waiting, self.since = pa.concat_tables(self.waiting), [], time.monotonic()
        # A name that no other process gives, should two write here.
        self._put(f"part-{self._next:06d}-{uuid.uuid4().hex[:8]}.{self.format}", self._encoded(table))
        self._next += 1
        self.written += len(table)

    def _encoded(self, table):
        if self.format == "jsonl":
            return b"".join(
                json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n" for row in table.to_pylist()
            )
        import pyarrow as pa
        from pyarrow import parquet

        buffer = pa.BufferOutputStream()
        parquet.write_table(table, buffer)
        return buffer.getvalue().to_pybytes()

    def _put(self, name, data):
        target, scratch = f"{self.root}/{name}", f"{self.root}/.{name}.tmp"
        whole = "what was written before is whole: the same command goes on"
        with raising(InceptionTFError, f"Cannot write {self.out}/{name} ({whole})", Exception):
            if self._atomic:
                self.filesystem.pipe_file(target, data)
                return
            self.filesystem.makedirs(self.root, exist_ok=True)  # of a bucket's name, it would make the bucket
            try:
                self.filesystem.pipe_file(scratch, data)
                self.filesystem.mv(scratch, target)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.filesystem.rm(scratch)
                raise

    def _files(self):
        with raising(InceptionTFError, f"{self.out} cannot be listed", Exception):
            try:  # `exists` and `find` take a folder that cannot be listed for none
                files = self.filesystem.ls(self.root, detail=False)
            except FileNotFoundError:
                files = []
            return [file for file in sorted(files) if file.rstrip("/") != self.root and not file.endswith(".tmp")]

    def _check(self, files):
        self._next, settings = len(files), f"{self.root}/{SETTINGS}"
        self._known = settings in files and len(files) > 1
        if not self._known:
            if files and files != [settings]:
                raise UsageError(f"{self.out} is not empty, and holds no answers of this command. Name another folder.")
            return
        with _reading(f"{self.out}/{SETTINGS}"):
            there = json.loads(self.filesystem.cat_file(settings))
        differ = [name for name in self.settings if there.get(name) != self.settings[name]]
        if differ:
            facts = "; ".join(f"{name}: {there.get(name)} there, {self.settings[name]} here" for name in differ)
            raise UsageError(
                f"{self.out} holds answers of other settings. {facts[:500]}. Name another folder for these."
            )

    def rows(self, *columns):
        """Yields columns of what is written, a part at a time: a list for each column; None where a part lacks it."""
        for file in [file for file in self._files() if file.endswith(f".{self.format}")]:
            with _reading(file), self.filesystem.open(file, "rb") as opened:
                if self.format == "jsonl":
                    lines = list(map(json.loads, opened))
                    found = [[line.get(name) for line in lines] for name in columns]
                else:
                    from pyarrow import parquet

                    table = parquet.read_table(opened, columns=list(columns))
                    there = dict(zip(table.column_names, table.columns))
                    found = [there[name].to_pylist() if name in there else [None] * len(table) for name in columns]
            yield found

    def _digests(self):
        """The sorted digests of the paths that the parts hold, an S16 array, and how often each comes: 24 B a path."""
        found = [np.array([_digest(path) for path in paths], "S16") for (paths,) in self.rows("path")]
        self._held = sum(map(len, found))
        return np.unique(np.concatenate(found) if found else np.array([], "S16"), return_counts=True)


def _reading(file):
    # Each filesystem has errors of its own.
    return raising(InceptionTFError, f"{file} cannot be read (remove it to compute it again)", Exception)


@dataclasses.dataclass
class Summary:
    """What came of a job.

    Attributes:
        images: how many were answered, or were found to be bad.
        before: how many the output held already.
        failed: how many of `images` have an error.
        errors: the first 20 of these, a dict from paths to reasons.
        labeled: how many were answered that have a `label` in the manifest: a class's name, or an integer, its index.
        right: how many of these have it as their best class.
        seconds: the time it took.
    """

    images: int = 0
    before: int = 0
    failed: int = 0
    errors: dict = dataclasses.field(default_factory=dict)
    labeled: int = 0
    right: int = 0
    seconds: float = 0.0

    def count(self, table):
        """Counts the rows of a table of answers."""
        self.images += len(table)
        self.failed += len(table) - table["error"].null_count
        if len(self.errors) < 20 and table["error"].null_count < len(table):
            bad = table.select(["path", "error"]).filter(table["error"].is_valid()).to_pylist()
            self.errors |= {row["path"]: row["error"] for row in bad[: 20 - len(self.errors)]}
        if {"label", "class"} <= set(table.column_names):
            known = table.filter(table["error"].is_null()).select(["label", "class", "name"]).to_pylist()
            for row in [row for row in known if row["label"] not in (None, "")]:
                best = (row["class"], row["name"])
                best = [next(iter(one), None) if isinstance(one, list) else one for one in best]
                # In CSV an index is text; where classes are called by numbers, a text is a name.
                best += [] if str(best[1]).isdecimal() else [str(best[0])]
                self.labeled += 1
                self.right += row["label"] in best

    def __str__(self):
        text = f"{self.images:,} images in {self.seconds:,.1f} s, {self.images / max(self.seconds, 1e-9):,.1f} a second"
        text += f"; {self.before:,} were there before" if self.before else ""
        if self.labeled:
            fraction = tables.percent(self.right / self.labeled)
            text += f"\nOf these, {self.labeled:,} have a label: {fraction} are right."
        if self.failed:
            text += f"\n{self.failed:,} of them have no answer but a reason (column error):\n"
            text += "\n".join(f"  {path}: {why}" for path, why in self.errors.items())
        return text

    def to_json(self):
        """As JSON takes it."""
        return dataclasses.asdict(self)


def run_job(tables, predictor, parts, label="Classifying", pool=None):
    """Answers the images of tables, in this process or on Ray, and writes the answers here, as they come.

    Args:
        tables: yields `pyarrow.Table`s, as `image_tables` does.
        predictor: a `TablePredictor`.
        parts: `Parts`. Images that they hold are left out.
        label: what the progress bar says.
        pool: a `RayPool`, whose workers open the predictor's model.

    Returns:
        A `Summary`.

    Raises:
        UsageError, CheckpointError, MismatchError: as `image_tables` and `TablePredictor`; what came before is written.
        InceptionTFError: a part cannot be written.
    """
    summary, start = Summary(before=len(parts)), time.monotonic()
    with Progress(label, None, "images") as progress, parts:
        tables = filter(len, map(parts.missing, tables))
        for answers in pool.map(predictor, tables) if pool else map(predictor, tables):
            parts.write(answers)
            summary.count(answers)
            progress.label = f"{label}, {summary.failed} errors" if summary.failed else label
            progress.advance(len(answers))
    summary.seconds = time.monotonic() - start
    return summary


def _digest(path):
    return hashlib.blake2b((path or "").encode(), digest_size=16).digest()
