"""The directory of a training run: its configuration, how it went, and the resulting models."""

import json
import os
import shutil
import warnings
from pathlib import Path

import tensorflow as tf
import yaml

from inception_tf.errors import UsageError
from inception_tf.files import atomic_write

BEST, LAST = "best.keras", "last.keras"


class Run:
    """A run's directory. Nothing is written before `begin`.

    Keras's own `ModelCheckpoint`, `CSVLogger` and `BackupAndRestore` write in place, so that a kill leaves half a file,
    and do not resume within an epoch. Hence these files, each of which is replaced at once:

    Files:
        config.yaml: the network, the data, the recipe; command.txt: the command; labels.txt: the classes' names;
        state.npz: what resuming needs; metrics.jsonl: a line per epoch;
        tensorboard/train/, tensorboard/validation/: the same as events, where they are asked for;
        best.keras: the model of the epoch with the best validation accuracy; last.keras: that of the last epoch;
        skipped.txt: images that could not be read; report/: the evaluation of the best model, in numbers and pictures.

    Args:
        path: the directory; created where it is missing.
        config: plain dicts, lists, numbers and strings: what must be the same for a run to resume, but that the
            phases of its recipe may have more epochs, and that there may be more phases.
        writes: whether this process is the one that writes; others only read.
        tensorboard: whether to write events too.

    Raises:
        UsageError: the directory holds a run of another configuration, or something else.
    """

    def __init__(self, path, config, writes=True, tensorboard=False):
        self.path, self.writes = Path(path), writes
        self._events = _Events(self.path / "tensorboard") if tensorboard and writes else None
        self.state, self._file = self.path / "state.npz", None
        if not writes:
            return
        self._config = self.path / "config.yaml"
        self._text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        self._compare()

    def begin(self):
        """Takes the directory for this process, and writes its configuration there.

        Raises:
            UsageError: it is in use, or holds something else by now.
        """
        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self._file = (self.path / ".lock").open("a")
        try:
            _lock(self._file)
        except OSError:
            raise UsageError(f"Another process is training in {self.path}.") from None
        self._compare()
        self.text(self._config.name, self._text)
        for entry in self.path.glob(".*.*"):  # scratch directories of `atomic_write` that a killed run left
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)

    def close(self):
        """Leaves the directory to whoever resumes the run, this process too."""
        if self._file:
            self._file.close()

    def _compare(self):
        if not self._config.is_file():
            if self.path.exists() and (
                not self.path.is_dir() or {path.name for path in self.path.iterdir()} - {".lock"}
            ):
                raise UsageError(f"{self.path} exists and is no run of this library. Choose another --out.")
            return
        before, now = yaml.safe_load(self._config.read_text("utf-8")), yaml.safe_load(self._text)
        if differences := _differences(_with_epochs_of(before, now), now):
            raise UsageError(
                f"{self.path} is a run of another configuration. Choose another --out, or pass the same as before, but "
                "for more epochs:\n  "
                + "\n  ".join(differences[:8])
                + (f"\n  and {len(differences) - 8} more" if len(differences) > 8 else "")
            )

    def text(self, name, text):
        """Writes a text file."""
        if not self.writes:
            return
        with atomic_write(self.path / name, overwrite=True) as part:
            part.write_text(text, "utf-8")

    def metrics(self, rows):
        """Writes metrics.jsonl of at least one row, and what TensorBoard shows of them."""
        self.text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        if self._events:
            self._events.write(rows)

    def save(self, name, model):
        """Writes a Keras model."""
        if not self.writes:
            return
        with atomic_write(self.path / name, overwrite=True) as part, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save(part)


def _lock(file):
    """Locks an open file until it is closed, or until the process ends, however it ends. OSError: it is locked."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class _Events:
    """The metrics under the names of `keras.callbacks.TensorBoard`, a file each for training and validation.

    That callback needs TensorBoard, which TensorFlow no longer installs, and begins a file whenever it is resumed.
    """

    def __init__(self, directory):
        self._directory, self._writers = directory, {}

    def write(self, rows):
        """Writes the last of the rows; at first all of them, in place of what was written before the run resumed."""
        new = len(rows) - 1
        if not self._writers:
            shutil.rmtree(self._directory, ignore_errors=True)
            parts = {"train": "", "validation": "val_"}
            self._writers = {
                prefix: tf.summary.create_file_writer(str(self._directory / part)) for part, prefix in parts.items()
            }
            new = 0
        metadata = tf.compat.v1.SummaryMetadata(data_class=1)  # DATA_CLASS_SCALAR
        metadata.plugin_data.plugin_name = "scalars"
        for epoch, row in enumerate(rows[new:], new):
            for name, value in row.items():
                if isinstance(value, float):
                    prefix = "val_" if name.startswith("val_") else ""
                    name, value = name.removeprefix(prefix), tf.constant(value, tf.float32)
                    with self._writers[prefix].as_default():
                        tf.summary.write(f"epoch_{name}", value, epoch, metadata)
                        tf.summary.write(f"evaluation_{name}_vs_iterations", value, row["step"], metadata)
        for writer in self._writers.values():
            writer.flush()


def best_row(rows):
    """The row of metrics with the best validation `measure`; of equal ones that with the lowest loss, or the first."""
    return max(rows, key=lambda row: (row[f"val_{measure(row)}"], -row["val_loss"]))


def measure(row):
    """The name of what tells how good an epoch is: accuracy; where images have several labels, pr_auc."""
    return "pr_auc" if "val_pr_auc" in row else "accuracy"


def _with_epochs_of(before, now):
    """A configuration with the phases and the epochs of another, where those go on from its own."""
    try:
        old, new = before["recipe"]["phases"], now["recipe"]["phases"]
        same = all({**one, "epochs": 0} == {**other, "epochs": 0} for one, other in zip(old, new))
        if same and len(old) <= len(new) and all(one["epochs"] <= other["epochs"] for one, other in zip(old, new)):
            return {**before, "recipe": {**before["recipe"], "phases": new}}
    except (KeyError, TypeError):
        pass
    return before


def _differences(before, now, name=""):
    """A line for every field that differs, both of its values in full."""
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [(f"{name}.{key}" if name else key, before.get(key), now.get(key)) for key in {**before, **now}]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(before, now))]
    else:
        before, now = (json.dumps(value, ensure_ascii=False) for value in (before, now))
        return [] if before == now else [f"{name}: {before}, now {now}"]
    return [line for key, one, other in pairs for line in _differences(one, other, key)]
