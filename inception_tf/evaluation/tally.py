"""How good a classifier is, of any number of images: counts, summed over columns of labels and answers."""

import numpy as np

from inception_tf import tables
from inception_tf.errors import UsageError
from inception_tf.evaluation import metrics
from inception_tf.evaluation.evaluate import ByClass, match_classes
from inception_tf.evaluation.multi_label import not_counted

_MOST = 1_000_000  # the largest label that a message counts up to


class Tally(ByClass):
    """A classifier's answers to labeled images, counted. Its memory is that of the classes, squared.

    Args:
        labels: the model's class names, in the order of its scores.
        names: those of the data's classes, in the order of its numbers, where they are known.
        offset: subtracted from labels that are numbers.

    Attributes:
        confusion, bins, in_top5: int64 (classes, classes), `metrics.score_bins`, and the images whose class is among
            the first five answers.
        skipped: why images have no answer, the first 20, a dict from their names; `failed` is how many there are.

    Raises:
        UsageError: the model has not all of `names`.
    """

    def __init__(self, labels, names=(), offset=0):
        self.labels, self.offset = labels, offset
        self._positions = match_classes(names, labels).tolist() if names else []
        self._classes = {name: position for name, position in zip(names, self._positions) if position >= 0}
        self.confusion = np.zeros((len(labels), len(labels)), np.int64)
        self.bins, self.in_top5, self.skipped, self.failed = metrics.score_bins([], []), 0, {}, 0

    def __len__(self):
        return int(self.confusion.sum())

    def truth(self, label):
        """The model's class of a label, a name or a number; of None, None. Raises a `UsageError` where it has none."""
        if label not in self._classes and label is not None:
            digits = label not in self.labels and str(label).removeprefix("-").isdecimal()
            known = self._numbered(int(label) - self.offset) if digits else match_classes([label], self.labels)[0]
            self._classes[label] = int(known)
        return self._classes.get(label)

    def _numbered(self, number):
        expected = len(self._positions or self.labels)
        if number < 0 or (self._positions and (number >= expected or self._positions[number] < 0)):
            raise UsageError(f"A label is out of range. Expected 0 to {expected - 1}, with a name. Received: {number}")
        if self._positions:
            return self._positions[number]
        return match_classes([f"class {i}" for i in range(min(number, _MOST) + 1)], self.labels)[-1]

    def count(self, paths, truth, classes, scores, errors):
        """Counts rows, lists as a job's columns: answers and scores are lists where there are several a row."""
        rows = []
        for path, label, answer, score, error in zip(paths, truth, classes, scores, errors):
            if error or label is None:
                self.failed += 1
                if len(self.skipped) < 20:
                    self.skipped[path] = error or "has no label"
                continue
            answer, score = (answer, score) if isinstance(answer, list) else ([answer], [score])
            rows.append((label, answer[0], score[0]))
            self.in_top5 += label in answer[:5]
        if rows:
            truth, best, score = map(np.array, zip(*rows))
            self.confusion += metrics.confusion_matrix(truth, best, len(self.labels))
            self.bins += metrics.score_bins(score, truth == best)

    def to_json(self, top5):
        """As `Evaluation.to_json`; with or without the fraction `top5`."""
        top5 = {"top5": self.in_top5 / len(self)} if top5 else {}
        facts = {"images": len(self), "top1": self.top1, **top5, "calibration_error": self.calibration_error}
        skipped = [{"image": path, "error": reason} for path, reason in self.skipped.items()]
        return {**facts, **self.counts(), "failed": self.failed, "skipped": skipped}

    def text(self, top5):
        """For a person, as `Evaluation`'s."""
        best = f", top-5 {tables.percent(self.in_top5 / len(self))}" if top5 else ""
        text = f"{super().text()}\n\n{len(self)} images: top-1 {tables.percent(self.top1)}{best}, calibration error "
        return text + tables.percent(self.calibration_error) + not_counted(self.skipped, self.failed)
