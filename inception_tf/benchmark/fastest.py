"""The engine and the precision that run a model fastest on this machine, chosen by measurement."""

import dataclasses
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np

from inception_tf import tables
from inception_tf.benchmark.engines import EXPORTS, RUNS
from inception_tf.benchmark.harness import Section, benchmark
from inception_tf.benchmark.report import Report
from inception_tf.benchmark.rounds import Candidate, fitting
from inception_tf.errors import ExportError, InceptionTFError, UsageError
from inception_tf.evaluation.evaluate import match_classes
from inception_tf.exports.formats import export, implementation, validate
from inception_tf.exports.portable import CALIBRATION, noise_images, readable
from inception_tf.files import refuse_existing
from inception_tf.images.files import find_images
from inception_tf.images.sources import open_examples
from inception_tf.inference.engines import KerasEngine, open_engine
from inception_tf.progress import Progress
from inception_tf.tables import percent

# The engine of `EXPORTS` and the precision; the first is the base of the ratios.
CANDIDATES = (
    ("savedmodel", "float32"),
    ("savedmodel", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
    ("onnx", "float32"),
    ("onnx", "int8"),
    ("litert", "float32"),
    ("litert", "float16"),
    ("litert", "int8"),
)
# How many photographs the answers are compared on, and how many of them an export's own check takes.
JUDGED, CHECKED = 200, 16


@dataclasses.dataclass
class Fastest:
    """What `export_fastest` found.

    Attributes:
        path: the `Path` written.
        chosen: the candidate's name.
        batch: the images at a time that speed was measured at.
        max_change: the bound.
        measure: what is held to it: "accuracy lost", "best class changed" or "largest change of a score".
        photographs: how many the answers were compared on, 0 for noise.
        machine: what `machine.machine` gave.
        candidates: a dict for each of `CANDIDATES`: its "candidate", "engine" and "precision"; "failed", why it could
            not be had, or None; "same_best_class" and "accuracy" (fractions, or None), "score_change", "change" by
            `measure`, whether that is "within"; "images_per_second", "ratio" to the first, "peak_memory" and "bytes",
            "first_answer" in seconds, and what else the benchmark gives.
        notes: lines that say what was not done.
    """

    path: Path
    chosen: str
    batch: int
    max_change: float
    measure: str
    photographs: int
    machine: dict
    candidates: list
    notes: list

    def data(self):
        """Everything as a JSON-like dict."""
        return {**dataclasses.asdict(self), "path": str(self.path)}

    def text(self):
        """The table that it was chosen from."""
        header = ("candidate", "images/s", "ratio", "peak memory", "first answer", "files")
        header += ("same best class", "accuracy", "score change", "")
        where = f"batch {self.batch}, answers on {f'{self.photographs} photographs' if self.photographs else 'noise'}"
        return "\n".join(
            [
                f"On {self.machine['processors']} × {self.machine['processor']}, {where}.",
                tables.render([self._cells(row) for row in self.candidates], header, "<" + ">" * 8 + "<"),
                *self.notes,
                f"Chosen: {self.chosen}, the fastest with {self.measure} of at most {self.max_change:.2%}.",
            ]
        )

    def _cells(self, row):
        if row["failed"]:
            return (row["candidate"], *[""] * 8, row["failed"])
        ratio = f"{row['ratio']['median']:.2f}" if row["ratio"] else ""
        verdict = "" if row["within"] else f"{self.measure}: {row['change']:.2%}"
        return (
            row["candidate"],
            f"{row['images_per_second']:.1f}",
            ratio,
            f"{row['peak_memory'] / 1e9:.2f} GB",
            f"{row['first_answer']:.1f} s",
            tables.short(row["bytes"], "B"),
            percent(row["same_best_class"]),
            percent(row["accuracy"]),
            f"{row['score_change']:.2g}",
            "chosen" if row["candidate"] == self.chosen else verdict,
        )


def export_fastest(
    model,
    target,
    data=None,
    max_change=0.005,
    batch=8,
    labels=None,
    calibrate=None,
    rounds=5,
    seconds=2.0,
    overwrite=False,
):
    """Exports a model to the engine and the precision that are fastest on this machine, within a bound.

    Every one of `CANDIDATES` is exported, checked as every export is, compared with the model, and measured in a
    process of its own; the processes take turns.

    Args:
        model: a float32 classifier of this library, on Keras's TensorFlow backend.
        target: a name without a suffix, which gets the one that the chosen export needs: `.xml` and `.bin`, `.onnx` or
            `.tflite`. A SavedModel is the next version in the directory `target`.
        data: a directory of photographs that the model was not trained on. Every other one calibrates int8, up to 200,
            and the answers are compared on up to 200 of the rest. Where it has a folder a class, of the model's
            classes, accuracy is measured. Default: noise, and no int8.
        max_change: the bound, a fraction: of accuracy that may be lost; without class folders of the photographs whose
            best class may change; on noise of how far a score may move.
        batch: the images at a time that speed is measured at. The export takes any number.
        labels: as `export` takes them.
        calibrate: photographs for int8; the answers are then compared on all of `data`.
        rounds, seconds: of the benchmark.
        overwrite: whether existing files may be replaced.

    Returns:
        A `Fastest`. The export's card has it under "fastest".

    Raises:
        UsageError: an argument out of its range, a target that exists or has a suffix, no photographs.
        ExportError: no candidate is within the bound.
        BenchmarkError: nothing could be measured.
    """
    target = Path(target)
    suffixes = {suffix for _, suffix, _ in EXPORTS.values()} - {""}
    if target.suffix.lower() in suffixes:
        raise UsageError(f"The chosen export gives the name its suffix: give one without {target.suffix}.")
    if target.name in ("", ".."):
        raise UsageError(f"The chosen export needs a name. Received: {target}")
    if not (0 <= max_change < 1 and batch >= 1 and rounds >= 1 and 0 < seconds < np.inf):
        raise UsageError("max_change must be from 0 to below 1, batch and rounds at least 1, seconds a number above 0.")
    for suffix in (*suffixes, ".bin"):
        refuse_existing(target.with_name(target.name + suffix), overwrite)
    base = implementation("savedmodel")
    base.prepare(model, target, validate(base, {"labels": labels}))
    engine = KerasEngine(model, labels)
    truth, notes, held_out = None, [], None
    if data is not None:
        truth, held_out, calibrate = _photographs(data, engine.labels, calibrate, notes)
        paths, images = zip(*readable(model, held_out[:: -(-len(held_out) // JUDGED)]))
        images, truth = np.stack(images), truth and np.array([truth.get(path, -1) for path in paths])
        held_out = list(paths[:: -(-len(paths) // CHECKED)])
    else:
        images = noise_images(model)
    judge = _Judge(images, _answers(engine, images, batch), truth, data is not None, batch)
    options = {"labels": labels, "calibrate": calibrate, "held_out": held_out}
    with tempfile.TemporaryDirectory() as scratch:
        rows, written = [], {}
        with Progress("Exporting", len(CANDIDATES), "candidates") as progress:
            for kind, precision in CANDIDATES:
                progress.label = name = f"{kind} {precision}"
                row = {"candidate": name, "engine": kind, "precision": precision, "failed": None}
                try:
                    written[name] = _export(model, Path(scratch, name), target.name, kind, precision, options)
                    row |= judge(written[name])
                    row |= {"within": row["change"] <= max_change, "bytes": _size(written[name])}
                except InceptionTFError as error:
                    row["failed"] = " ".join(str(error).split())
                rows.append(row)
                progress.advance()
        report = Report(model.name)
        _measure(report, rows, written, model.count_params(), batch, rounds, seconds)
        chosen = choose(rows)
        found = Fastest(
            target, chosen["candidate"], batch, max_change, judge.measure, len(images) if data is not None else 0,
            report.machine, rows, notes,
        )  # fmt: skip
        form = implementation(EXPORTS[chosen["engine"]][0])
        path = written[found.chosen]
        card = open_engine(path).card
        facts = {key: value for key, value in found.data().items() if key != "path"}
        form.replace_card(path, dataclasses.replace(card, export={**card.export, "fastest": facts}))
        if judge(path)["score_change"] != chosen["score_change"]:
            raise ExportError(f"{found.chosen} gives other outputs once its card is in it.")
        found.path = form.place(path, target.with_name(target.name + path.suffix), overwrite)
    return found


def choose(rows):
    """The fastest of the candidates that are within the bound; see `Fastest.candidates`.

    Raises:
        ExportError: there is none; says how far each is off.
    """
    within = [row for row in rows if not row["failed"] and row["within"]]
    if not within:
        lines = [f"{row['candidate']}: {row['failed'] or format(row['change'], '.2%')}" for row in rows]
        raise ExportError("\n".join(["No candidate is within the bound (--max-change, max_change).", *lines]))
    return max(within, key=lambda row: row["ratio"]["median"] if row["ratio"] else row["images_per_second"])


def _photographs(data, labels, calibrate, notes):
    """(a dict from real paths to classes or None, the paths to judge on, those to calibrate on)."""
    paths, truth = [path.resolve() for path in find_images(data)], None
    try:
        examples = open_examples(data, complete=False)
        classes = match_classes(examples.class_names, labels)
        (root, *_) = examples.origins  # what `data` stands for, which may be a pattern or begin with ~
        truth = {
            os.path.realpath(os.path.join(root, name)): classes[label]
            for name, label in zip(examples.names, examples.labels)
        }
    except UsageError as error:
        notes.append(f"No accuracy: {error}")
    if calibrate is None:
        if len(paths) < 2:
            raise UsageError(f"Name a directory: one photograph cannot both calibrate and judge. Received: {data}")
        paths, calibrate = paths[1::2], paths[::2]
        calibrate = calibrate[:: -(-len(calibrate) // CALIBRATION)]
    return truth, paths, calibrate


class _Judge:
    """How far an export's answers are from the model's."""

    def __init__(self, images, wanted, truth, photographs, batch):
        self.images, self.wanted, self.truth, self.photographs, self.batch = images, wanted, truth, photographs, batch
        self.measure = "accuracy lost" if truth is not None else "best class changed"
        self.measure = self.measure if photographs else "largest change of a score"

    def __call__(self, path):
        got = _answers(open_engine(path), self.images, self.batch)
        best, wanted = got.argmax(-1), self.wanted.argmax(-1)
        found = {
            "same_best_class": float(np.mean(best == wanted)) if self.photographs else None,
            "accuracy": None if self.truth is None else float(np.mean(best == self.truth)),
            "score_change": float(np.abs(got - self.wanted).max()),
        }
        if self.truth is not None:
            change = float(np.mean(wanted == self.truth)) - found["accuracy"]
        else:
            change = 1 - found["same_best_class"] if self.photographs else found["score_change"]
        return found | {"change": max(0.0, change)}


def _answers(engine, images, batch):
    return np.concatenate([engine(images[i : i + batch]) for i in range(0, len(images), batch)])


def _export(model, folder, name, kind, precision, options):
    """The path of a candidate. Raises an `InceptionTFError` where it cannot be had."""
    form, suffix, _ = EXPORTS[kind]
    if precision == "int8" and options["calibrate"] is None:
        raise UsageError("int8 needs photographs to calibrate on (--data DIR)")
    taken = {"labels": options["labels"], "precision": precision}
    if form != "savedmodel":
        taken["held_out"] = options["held_out"]
    if precision == "int8":
        taken["calibrate"] = options["calibrate"]
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = export(model, folder / f"{name}{suffix}", form, **taken)
        found = open_engine(path).card.export["verification"]
    if precision == "bfloat16" and found.get("computed_in", precision) != precision:
        raise UsageError("this processor has no instructions for bfloat16")
    return path


def _size(path):
    """The bytes of an export's files, which are alone in their folder."""
    return sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())


def _measure(report, rows, written, parameters, batch, rounds, seconds):
    """Puts into the rows what the benchmark finds."""
    running = [row["candidate"] for row in rows if not row["failed"]]
    found = [Candidate(name, f"{RUNS}:engine", {"path": str(written[name]), "batch": batch}, batch) for name in running]
    section = Section({"batch": batch}, found, together=fitting(1e9 + 12 * parameters + 25e6 * batch))
    if not found:
        raise ExportError("\n".join(["No engine has this model.", *(f"{r['candidate']}: {r['failed']}" for r in rows)]))
    benchmark(report, [section], rounds, seconds)
    measured = {row.pop("engine"): row for row in section.data()["engines"]}
    for row in rows:
        if row["candidate"] in measured:
            row |= measured[row["candidate"]]
        elif not row["failed"]:
            said = next((line for line in report.left_out if f" {row['candidate']}: " in line), "it did not run")
            row["failed"] = said.partition(f"{row['candidate']}: ")[2] or said
