"""How good the answers are of a classifier whose images have several labels, or none. NumPy alone."""

import dataclasses

import numpy as np

from inception_tf import tables
from inception_tf.evaluation import metrics

SEPARATOR = "|"
# In an evaluation's text.
FAST_DECODE = "; large JPEGs decoded scaled down (fast_decode)"
_HEADER = ("class", "images", "AP", "precision", "recall", "F1", "from")


@dataclasses.dataclass(frozen=True)
class LabelScores:
    """A class of a multi-label evaluation.

    Attributes:
        name: its name.
        support: the images that have it.
        average_precision: see `metrics.average_precision`; None where no image has it.
        threshold: the probability from which on it is answered.
        precision, recall, f1: as in `metrics.ClassScores`, at that threshold.
    """

    name: str
    support: int
    average_precision: float | None
    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None


@dataclasses.dataclass
class MultiLabelEvaluation:
    """A multi-label classifier's answers to N images, and what follows from them.

    Attributes:
        labels: the names of the model's classes.
        index: int64 array (N,), the images' positions in the data.
        names: their names, a list.
        truth: bool array N×classes, which labels they have.
        scores: float32 array N×classes, the probabilities.
        thresholds: one for each class.
        skipped, images_per_second, exif_rotation, fast_decode: as in `Evaluation`.
    """

    labels: list
    index: np.ndarray
    names: list
    truth: np.ndarray
    scores: np.ndarray
    thresholds: list
    skipped: dict = dataclasses.field(default_factory=dict)
    images_per_second: float | None = None
    exif_rotation: bool = False
    fast_decode: bool = False

    def __len__(self):
        return len(self.index)

    @property
    def predicted(self):
        """bool array N×classes: which labels are answered."""
        return self.scores >= np.asarray(self.thresholds)

    @property
    def classes(self):
        """A `LabelScores` for each class, in the order of `labels`."""
        found = []
        for name, truth, score, answered, threshold in zip(
            self.labels, self.truth.T, self.scores.T, self.predicted.T, self.thresholds
        ):
            right, support, answers = (int(column.sum()) for column in (truth & answered, truth, answered))
            parts = ((right, answers), (right, support), (2 * right, support + answers))
            fractions = (part / total if total else None for part, total in parts)
            found.append(
                LabelScores(name, support, metrics.average_precision(truth, score), float(threshold), *fractions)
            )
        return found

    @property
    def mean_ap(self):
        """The mean of the classes' average precision (mAP), of those that an image has."""
        return _mean(scores.average_precision for scores in self.classes)

    @property
    def macro_f1(self):
        """The mean of the classes' F1 at their thresholds, of those that an image has."""
        return _mean(scores.f1 for scores in self.classes if scores.support)

    def best_thresholds(self):
        """For each class the threshold of the best F1 on these images, a list of floats; 0.5 where no image has it."""
        return [metrics.best_threshold(*columns) for columns in zip(self.truth.T, self.scores.T)]

    def table(self):
        """The header and the rows of `write_predictions`."""

        def joined(row):
            return SEPARATOR.join(name for name, there in zip(self.labels, row) if there)

        header = ("image", "labels", "predicted", *(f"score of {name}" for name in self.labels))
        pairs = zip(map(joined, self.truth), map(joined, self.predicted))
        return header, ((name, *pair, *row) for name, pair, row in zip(self.names, pairs, self.scores))

    def to_json(self):
        """All but the answers to single images, as JSON takes it; fractions are 0 to 1."""
        return {
            "images": len(self),
            "mean_ap": self.mean_ap,
            "macro_f1": self.macro_f1,
            "images_per_second": self.images_per_second,
            "fast_decode": self.fast_decode,
            "classes": [dataclasses.asdict(scores) for scores in self.classes],
            "skipped": [{"image": name, "error": reason} for name, reason in self.skipped.items()],
        }

    def __str__(self):
        return f"{tables.render(self._rows(), _HEADER, '<>>>>>>')}\n\n{self._summary()}{not_counted(self.skipped)}"

    def _repr_html_(self):
        unread = not_counted(self.skipped).strip()
        return tables.html(self._rows(), _HEADER, [self._summary(), *([unread] if unread else [])])

    def _rows(self):
        return [
            (s.name, s.support, *map(tables.percent, (s.average_precision, s.precision, s.recall, s.f1)))
            + (f"{s.threshold:.3f}",)
            for s in self.classes
        ]

    def _summary(self):
        text = f"{len(self)} images: mAP {tables.percent(self.mean_ap)}, mean F1 {tables.percent(self.macro_f1)} "
        return f"{text}at these thresholds; {self.images_per_second:.1f} images/s" + FAST_DECODE * self.fast_decode


def not_counted(skipped, count=None):
    """The end of an evaluation's text: which images could not be read; `skipped` may be the first of `count`."""
    if not skipped:
        return ""
    first = list(skipped.items())[:10]
    count = count or len(skipped)
    more = [f"  … and {count - len(first)} more"] if len(first) < count else []
    lines = [f"\n\nNot counted, since they could not be read: {count}"]
    return "\n".join([*lines, *(f"  {name}: {reason}" for name, reason in first), *more])


def _mean(values):
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None
