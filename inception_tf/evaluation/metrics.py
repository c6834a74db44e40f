"""How good a classifier's answers are, from what it answered image by image. NumPy alone."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """A class of an evaluation.

    Attributes:
        name: its name.
        support: its images.
        precision: of the images that were called so, the fraction that is; None when none was.
        recall: of its images, the fraction that was called so; None when it has none.
        f1: the harmonic mean of the two, 2·TP / (2·TP + FP + FN); None when it has no images and was never answered.
    """

    name: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclasses.dataclass(frozen=True)
class Bin:
    """The answers whose score is above `low` and at most `high`; their mean score and the fraction that is right.

    Both are None where there are no such answers.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def confusion_matrix(truth, predicted, classes):
    """How often each class (row) was called which (column): int64 array (classes, classes).

    Args:
        truth, predicted: int arrays (N,), 0 to `classes` - 1.
        classes: how many there are.
    """
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (truth, predicted), 1)
    return matrix


def class_scores(confusion, names):
    """A list of `ClassScores` out of a `confusion_matrix`."""
    right, support, answered = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        ClassScores(name, int(n), _fraction(r, a), _fraction(r, n), _fraction(2 * r, n + a))
        for name, r, n, a in zip(names, right, support, answered)
    ]


def score_bins(score, correct, bins=15):
    """What `calibration_of` takes, float64 (3, bins), summed over tables of any number of answers.

    Its rows: the answers whose score is in the bin, the sum of their scores, and how many are right.
    """
    score = np.asarray(score, np.float64)
    edges = np.linspace(0, 1, bins + 1)
    which = np.minimum(np.searchsorted(edges[1:], score), bins - 1)  # low < score <= high, as in Guo's program
    return np.array([np.bincount(which, weights, bins) for weights in (None, score, correct)], np.float64)


def calibration_of(sums):
    """The expected calibration error of Guo et al. (arXiv 1706.04599), with bins of equal width: those of `score_bins`.

    Returns:
        The error, |accuracy - confidence| averaged over the answers, 0 to 1; and a list of `Bin`.
    """
    count, confidence, accuracy = sums
    edges = np.linspace(0, 1, len(count) + 1)
    error = np.abs(accuracy - confidence).sum() / count.sum()
    rows = zip(edges[:-1], edges[1:], count, confidence, accuracy)
    return float(error), [
        Bin(float(low), float(high), int(n), _fraction(sure, n), _fraction(right, n))
        for low, high, n, sure, right in rows
    ]


def log_loss(probability):
    """The mean negative logarithm, in nats, of float32 probabilities (N,); 0 counts as 1.2e-7, as in scikit-learn."""
    epsilon = np.finfo(np.float32).eps
    return float(-np.log(np.clip(np.asarray(probability, np.float64), epsilon, 1 - epsilon)).mean())


def average_precision(truth, score):
    """The area under precision over recall, in steps: Σ (recall − the recall before) · precision, as scikit-learn's.

    Args:
        truth: bool array (N,), which images have the label.
        score: float array (N,), its probability.

    Returns:
        A fraction; None where no image has the label.
    """
    hits, answers, _ = _by_threshold(truth, score)
    return float((np.diff(hits, prepend=0) * hits / answers).sum() / hits[-1]) if hits[-1] else None


def best_threshold(truth, score):
    """The threshold from which on the answers have the best F1, between two scores; 0.5 where no image has the label.

    Arguments as of `average_precision`. Of equally good ones the highest.
    """
    hits, answers, scores = _by_threshold(truth, score)
    best = np.argmax(2 * hits / (answers + hits[-1]))
    return float((scores[best] + np.append(scores, 0)[best + 1]) / 2) if hits[-1] else 0.5


def _by_threshold(truth, score):
    """For each distinct score, highest first: the images with the label at or above it, all of them, and the score."""
    order = np.argsort(-score, kind="stable")
    sorted_scores = score[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(sorted_scores)), len(order) - 1)
    return np.cumsum(truth[order])[last], last + 1, sorted_scores[last]


def _fraction(part, total):
    return float(part / total) if total else None
