"""How good a classifier is on labeled images."""

import collections
import csv
import dataclasses
import functools
import time

import numpy as np

from inception_tf import tables
from inception_tf.errors import CheckpointError, ImageError, UsageError, listed
from inception_tf.evaluation import metrics
from inception_tf.evaluation.multi_label import FAST_DECODE, MultiLabelEvaluation, not_counted
from inception_tf.files import atomic_write
from inception_tf.images.decoding import decode_image
from inception_tf.images.examples import Examples
from inception_tf.images.labels import class_names, imagenet_wnids
from inception_tf.images.sources import open_examples
from inception_tf.inference.classify import answers, prepared
from inception_tf.inference.engines import Engine, open_engine
from inception_tf.progress import Progress
from inception_tf.slim.catalogue import Published, published_source

# More classes than this are not all printed, but the worst.
_TABLE_ROWS, _WORST = 40, 20
_NAME = 40  # letters of a class's name in the table
_HEADER = ("class", "images", "precision", "recall", "F1")


class ByClass:
    """What follows from counts alone: of `labels`, `confusion` and `bins`, a `metrics.score_bins`."""

    @property
    def top1(self):
        """The fraction of images whose class is the model's answer."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def calibration_error(self):
        """The expected calibration error, 0 to 1; see `metrics.calibration_of`."""
        return metrics.calibration_of(self.bins)[0]

    @property
    def calibration(self):
        """The 15 `metrics.Bin` of the calibration error: confidence and accuracy by score."""
        return metrics.calibration_of(self.bins)[1]

    @property
    def classes(self):
        """A `metrics.ClassScores` for each class, in the order of `labels`."""
        return metrics.class_scores(self.confusion, self.labels)

    def counts(self):
        """The classes, the confusion and the calibration as JSON takes them."""
        return {
            "classes": [dataclasses.asdict(scores) for scores in self.classes],
            "confusion": self.confusion.tolist(),
            "calibration": [dataclasses.asdict(bin) for bin in self.calibration],
        }

    def table(self):
        """The rows of the table of classes, and what there is to say of it."""
        shown = [scores for scores in self.classes if scores.support]
        notes = []
        if len(shown) > _TABLE_ROWS:
            notes.append(f"the {_WORST} of {len(shown)} classes with the lowest F1")
            shown = sorted(shown, key=lambda scores: scores.f1)[:_WORST]
        absent = sum(not scores.support for scores in self.classes)
        if absent:
            notes.append(f"{absent} of {len(self.labels)} classes have no images")
        fractions = ([tables.percent(value) for value in (s.precision, s.recall, s.f1)] for s in shown)
        names = (s.name if len(s.name) <= _NAME else s.name[: _NAME - 1] + "…" for s in shown)
        return [(name, s.support, *row) for name, s, row in zip(names, shown, fractions)], notes

    def text(self):
        """The table of classes, for a person."""
        rows, notes = self.table()
        return tables.render(rows, _HEADER, "<>>>>") + (f"\n({'; '.join(notes)})" if notes else "")


@dataclasses.dataclass
class Evaluation(ByClass):
    """A classifier's answers to N labeled images, and what follows from them.

    Attributes:
        labels: the names of the model's classes.
        index: int64 array (N,), the images' positions in the data.
        names: their names, a list.
        truth, predicted: int64 arrays (N,), their classes and the model's answers, in the order of `labels`. Of equal
            scores the first class's counts.
        score, truth_score: float32 arrays (N,), the probabilities of the answer and of the truth.
        rank: int64 array (N,), the truth's rank among the answers: 1 where the model is right.
        skipped: a dict from the names of images that could not be read to the reason. They are not among the N.
        images_per_second: from encoded images to scores, after the first batch where there are more.
        published: the `Published` checkpoint whose weights these are, when the data has ImageNet's classes; or None.
        exif_rotation: whether photographs were turned as their EXIF orientation says.
        fast_decode: whether large JPEGs were decoded scaled down.
    """

    labels: list
    index: np.ndarray
    names: list
    truth: np.ndarray
    predicted: np.ndarray
    score: np.ndarray
    truth_score: np.ndarray
    rank: np.ndarray
    skipped: dict = dataclasses.field(default_factory=dict)
    images_per_second: float | None = None
    published: Published | None = None
    exif_rotation: bool = False
    fast_decode: bool = False

    def __len__(self):
        return len(self.index)

    @property
    def top5(self):
        """The fraction of images whose class is among the first five answers: 1 where there are no more classes."""
        return float(np.mean(self.rank <= 5))

    @property
    def log_loss(self):
        """The mean negative log likelihood of the truth, in nats."""
        return metrics.log_loss(self.truth_score)

    @functools.cached_property
    def bins(self):
        """float64 array (3, 15): `metrics.score_bins`."""
        return metrics.score_bins(self.score, self.rank == 1)

    @functools.cached_property
    def confusion(self):
        """int64 array (classes, classes): how often each class (row) was called which (column)."""
        return metrics.confusion_matrix(self.truth, self.predicted, len(self.labels))

    @property
    def errors(self):
        """int64 array, the rows with a wrong answer, those with the highest score first."""
        wrong = np.flatnonzero(self.rank != 1)
        return wrong[np.argsort(-self.score[wrong], kind="stable")]

    def to_json(self):
        """All but the answers to single images (see `write_predictions`), as JSON takes it; fractions are 0 to 1."""
        known = self.published
        return {
            "images": len(self),
            "top1": self.top1,
            **({"top5": self.top5} if len(self.labels) > 5 else {}),
            "log_loss": self.log_loss,
            "calibration_error": self.calibration_error,
            "images_per_second": self.images_per_second,
            "fast_decode": self.fast_decode,
            "published": known
            and {"checkpoint": known.archive, "top1": round(known.top1 / 100, 4), "top5": round(known.top5 / 100, 4)},
            **self.counts(),
            "skipped": [{"image": name, "error": reason} for name, reason in self.skipped.items()],
        }

    def __str__(self):
        return f"{self.text()}\n\n{self._summary()}{not_counted(self.skipped)}"

    def _repr_html_(self):
        rows, notes = self.table()
        unread = [f"Not counted, since they could not be read: {len(self.skipped)}"] if self.skipped else []
        return tables.html(rows, _HEADER, [*notes, self._summary(), *unread])

    def _summary(self):
        top1, top5 = tables.percent(self.top1), tables.percent(self.top5)
        if self.published:
            top1 += f" (published {self.published.top1:.1f} %)"
            top5 += f" (published {self.published.top5:.1f} %)"
        best = f", top-5 {top5}" if len(self.labels) > 5 else ""
        error = tables.percent(self.calibration_error)
        text = f"{len(self)} images: top-1 {top1}{best}, log loss {self.log_loss:.4f}, calibration error {error}"
        return f"{text}; {self.images_per_second:.1f} images/s{FAST_DECODE * self.fast_decode}"


def evaluate(engine, examples, batch=32, exif_rotation=False, fast_decode=False):
    """Runs a classifier over labeled images.

    Images that cannot be read are listed and left out.

    Args:
        engine: an `Engine`, or what `open_engine` takes: a model, its file, a run's directory.
        examples: an `Examples`, or what `open_examples` takes, whose classes `match_classes` finds among the model's.
        batch: how many images go through the network at a time; the next ones are decoded meanwhile.
        exif_rotation: whether to turn photographs as their EXIF orientation says. Slim does not.
        fast_decode: whether to decode large JPEGs scaled down; see `scaled_for` of `decode_image`.

    Returns:
        An `Evaluation`; of images with several labels, a `MultiLabelEvaluation`.

    Raises:
        UsageError: `batch` below 1; classes that do not fit; a model for one label an image and data with several, or
            the reverse; a label out of range; a model without a classifier.
        CheckpointError: the model's scores of an image are NaN; says of which.
        ImageError: not one image could be read.
    """
    if batch < 1:
        raise UsageError(f"batch must be at least 1. Received: {batch}")
    engine = engine if isinstance(engine, Engine) else open_engine(engine)
    examples = examples if isinstance(examples, Examples) else open_examples(examples, complete=False)
    several = getattr(engine.card, "multi_label", False)
    if several != examples.multi_label:
        one, other = ("several labels", "one label") if several else ("one label", "several labels")
        raise UsageError(f"The model gives an image {one}. Received: data with {other} an image.")
    truth = _truth(engine, examples)
    index, found, skipped = [], [], dict(examples.skipped)
    first, start = None, time.perf_counter()
    decoding = {"decoder": engine.decoder, "scaled_for": engine.preprocessing if fast_decode else None}

    def prepare(i):
        return engine.preprocessing(decode_image(examples.read(i), exif_rotation, **decoding))

    def images(progress):
        for i, image in enumerate(prepared(prepare, range(len(examples)), batch)):
            if isinstance(image, Exception):
                name = examples.names[i]
                skipped[name] = (getattr(image, "strerror", None) or str(image)).removeprefix(f"{name}: ")
            else:
                yield i, image
            progress.advance()

    with Progress("Evaluating", len(examples), "images") as progress:
        for rows, scores in answers(engine, images(progress), batch):
            scores = _checked(engine, scores, [examples.names[i] for i in rows])
            found.append(scores if several else _answers(scores, truth[list(rows)]))
            index += rows
            first = first or (len(index), time.perf_counter())
    if not index:
        reasons = [f" {name}: {reason}" for name, reason in list(skipped.items())[:1]]
        raise ImageError(f"Not one of the {len(skipped)} images could be read.{''.join(reasons)}")
    before, start = first if first[0] < len(index) else (0, start)
    speed = (len(index) - before) / max(time.perf_counter() - start, 1e-9)
    facts = engine.labels, np.array(index, np.int64), [examples.names[i] for i in index], truth[index]
    if several:
        facts = *facts, np.concatenate(found), engine.card.thresholds
        return MultiLabelEvaluation(*facts, skipped, speed, exif_rotation, fast_decode)
    return Evaluation(
        *facts,
        *(np.concatenate(column) for column in zip(*found)),
        skipped,
        speed,
        _published(engine, len(examples.class_names)),
        exif_rotation,
        fast_decode,
    )


def match_classes(names, labels):
    """Which class of the model each class of the data is.

    By name, whatever the order, where all of `names` are among `labels`; ImageNet's also by WordNet id (n01440764). The
    data may lack classes of the model. By index where one side has no names: its class i is called `class i`.

    Args:
        names: the data's class names, in the order of its labels.
        labels: the model's class names, in the order of its scores.

    Returns:
        int64 array (len(names),), indices into `labels`; -1 for a class without a name among others that have one.

    Raises:
        UsageError: the classes differ; says which.
    """
    names, labels = list(names), list(labels)
    named = [i for i, name in enumerate(names) if name != f"class {i}"]
    unnamed = labels == class_names(len(labels))
    if len(names) <= len(labels) and all(names[i] == labels[i] for i in named):
        return np.arange(len(names))
    by_wnid = [imagenet_wnids(len(labels) == 1001)] if unnamed and len(labels) in (1000, 1001) else []
    for candidates in (labels, *by_wnid):
        # Where a name comes twice, as "crane" does in ImageNet's list, by its turn.
        position = {key: i for i, key in enumerate(_numbered(candidates))}
        keys = list(_numbered(names[i] for i in named))
        if named and all(key in position for key in keys):
            there, wanted = collections.Counter(candidates), collections.Counter(names)
            if twice := [name for name, _ in keys if wanted[name] < there[name]]:
                raise UsageError(f"The model has several classes called {listed(twice)}. Name them by WordNet ids.")
            positions = np.full(len(names), -1)
            positions[named] = [position[key] for key in keys]
            return positions
    # What has classes without a name counts its classes.
    if unnamed and (len(names) == len(labels) or len(named) < len(names) <= len(labels)):
        numbers = all(name.isdecimal() for name in names)  # folders 0 to 10, which sort as 0, 1, 10, 2
        return np.argsort(np.argsort([int(name) for name in names])) if numbers else np.arange(len(names))
    if len(named) < len(names) and len(names) > len(labels):
        raise UsageError(
            f"The model has {len(labels)} classes, numbered from 0. Received: labels up to {len(names) - 1}. "
            "Where the data counts from 1, labels_offset=1 (--labels-offset 1) is subtracted."
        )
    if unnamed and len(labels) not in (1000, 1001):
        raise UsageError(
            f"The model has {len(labels)} classes without names. Received: {len(names)} classes, {listed(names)}. "
            "Give the model's class names (--labels)."
        )
    there, wanted = set(labels), set(names)
    unknown = [names[i] for i in named if names[i] not in there]
    absent = [label for label in labels if label not in wanted and len(names) > 1]  # one name is no data's classes
    raise UsageError(
        f"The data's classes are not the model's. The model has no {listed(unknown)}"
        + (f"; the data has no {listed(absent)}." if absent else ".")
    )


def write_predictions(evaluation, path, overwrite=False):
    """Writes a CSV file with a row for every image of an evaluation, UTF-8, in the order of the data.

    Its columns: image, label, predicted, score (of the answer), label_score, label_rank (1 where the answer is right);
    of a `MultiLabelEvaluation`: image, labels and predicted (with | between), and the score of each class.

    Raises:
        UsageError: `path` exists, and `overwrite` is false.
        InceptionTFError: it cannot be written.
    """
    e = evaluation
    if isinstance(e, MultiLabelEvaluation):
        header, rows = e.table()
    else:
        header = ("image", "label", "predicted", "score", "label_score", "label_rank")
        labels = ([e.labels[i] for i in column] for column in (e.truth, e.predicted))
        rows = zip(e.names, *labels, e.score, e.truth_score, e.rank)
    with (
        atomic_write(path, overwrite) as part,
        part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _truth(engine, examples):
    """The model's class of each example; of several labels each, a bool array N×classes."""
    positions = match_classes(examples.class_names, engine.labels)
    if examples.multi_label:
        truth = np.zeros((len(examples), len(engine.labels)), bool)
        truth[:, positions] = examples.labels
        return truth
    labels = np.asarray(examples.labels, np.int64)
    outside = np.flatnonzero((labels < 0) | (labels >= len(positions)))
    if outside.size:
        raise UsageError(
            f"{examples.names[outside[0]]} has the label {labels[outside[0]]}. Expected 0 to {len(positions) - 1}. "
            "labels_offset (--labels-offset) is subtracted from the data's labels."
        )
    truth = positions[labels]
    unnamed = np.flatnonzero(truth < 0)
    if unnamed.size:
        raise UsageError(
            f"{examples.names[unnamed[0]]} has the label {labels[unnamed[0]]}, which has no name, and other labels "
            "have. Give the names of all classes (--labels)."
        )
    return truth


def _checked(engine, scores, names):
    scores = np.asarray(scores, np.float32)
    if scores.ndim != 2 or scores.shape[1] != len(engine.labels):
        raise UsageError(
            f"Expected a classifier: scores of shape (N, {len(engine.labels)}). Received: shape {scores.shape}"
        )
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if broken.size:
        more = f" and {broken.size - 1} more" if broken.size > 1 else ""
        raise CheckpointError(f"The model answers NaN or infinity to {names[broken[0]]}{more}: are its weights broken?")
    return scores


def _answers(scores, truth):
    """predicted, score, truth_score and rank of a batch, as `Evaluation` has them."""
    rows = np.arange(len(scores))
    predicted, of_truth = scores.argmax(axis=1), scores[rows, truth]
    before = np.arange(scores.shape[1]) < truth[:, None]
    ahead = (scores > of_truth[:, None]) | ((scores == of_truth[:, None]) & before)
    return predicted, scores[rows, predicted], of_truth, 1 + ahead.sum(axis=1)


def _published(engine, classes):
    """The `Published` checkpoint that an engine's card says its weights are, on data of so many classes; or None.

    None too for what was trained further, and where a scope was left out on loading: that has a new head.
    """
    of_imagenet = {classes, len(engine.labels)} <= {1000, 1001} and engine.labels == class_names(len(engine.labels))
    if not of_imagenet or engine.card is None or not engine.card.weights.unchanged:
        return None
    published = published_source(engine.card)
    return published if published and published.top1 else None


def _numbered(names):
    """Each name with how often it came before."""
    seen = collections.Counter()
    for name in names:
        yield name, seen[name]
        seen[name] += 1
