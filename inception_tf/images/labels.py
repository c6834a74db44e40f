"""Names of classes: ImageNet's, or those of a labels file."""

import functools
import importlib.resources
import re
from collections import Counter
from pathlib import Path

import numpy as np

from inception_tf.errors import UsageError, listed, raising

_PREDICTION_KEYS = ("Predictions", "probabilities")


@functools.cache
def _imagenet():
    text = importlib.resources.files("inception_tf.images").joinpath("imagenet_labels.tsv").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return [row[1] for row in rows], [row[2] for row in rows]


def imagenet_labels(background=True):
    """The ImageNet 2012 class names in Slim's order: 1001 with `background` first, or 1000 without it."""
    return _imagenet()[1][0 if background else 1 :]


def imagenet_wnids(background=True):
    """The WordNet ids (`n01440764`) in the order of `imagenet_labels`; the background has none: an empty string."""
    return _imagenet()[0][0 if background else 1 :]


def load_labels(path):
    """Reads class names from a UTF-8 text file; class i is the i-th of the returned list.

    One name a line, or an `index:name` a line in any order, as Slim's datasets/dataset_utils.py writes `labels.txt`.

    Raises:
        UsageError: no such file, binary or empty; a blank line between names, an index twice or left out, the two
            forms mixed; a name twice (but for "crane", which ImageNet's own list has twice).
    """
    path = Path(path)
    try:
        with raising(UsageError, f"Cannot read the labels file {path}"):
            text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(f"{path} is not a text file. Expected a class name a line. Received: binary data.")
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if not lines:
        raise UsageError(f"The labels file {path} is empty. Expected a class name a line.")
    if "" in lines:
        raise UsageError(f"{path}, line {lines.index('') + 1} is blank, so the classes after it would be miscounted.")

    matches = [re.fullmatch(r"(\d+):\s*(.+)", line) for line in lines]
    if any(matches):
        odd = next((i for i, match in enumerate(matches) if bool(match) != bool(matches[0])), None)
        if odd is not None:
            raise UsageError(f"{path} mixes `index:name` lines with others: line {odd + 1}, {lines[odd][:60]!r}.")
        pairs = sorted((int(match[1]), match[2]) for match in matches)
        wrong = next((i for i, (index, _) in enumerate(pairs) if index != i), None)
        if wrong is not None:
            problem = f"{wrong} is left out" if pairs[wrong][0] > wrong else f"{wrong - 1} comes twice"
            raise UsageError(f"{path}: {len(pairs)} classes have the indices 0 to {len(pairs) - 1}, but {problem}.")
        lines = [name for _, name in pairs]
    allowed = {name for name, count in Counter(imagenet_labels()).items() if count > 1}
    twice = [name for name, count in Counter(lines).items() if count > 1 and name not in allowed]
    if twice:
        raise UsageError(f"{path} holds names twice: {listed(twice)}. Every class needs a name of its own.")
    return lines


def class_names(classes, labels=None):
    """The names of a model's classes.

    Args:
        classes: how many there are.
        labels: the names in class order, or the path of a labels file. None is ImageNet for 1001 or 1000 classes, and
            `class 0`, `class 1`, … for others.

    Returns:
        A list of `classes` names.

    Raises:
        UsageError: not as many labels as classes, or a labels file that is none.
    """
    if labels is None:
        return imagenet_labels(classes == 1001) if classes in (1000, 1001) else [f"class {i}" for i in range(classes)]
    names = load_labels(labels) if isinstance(labels, (str, Path)) else list(labels)
    if len(names) != classes:
        hint = " Does the model have a background class that the labels lack?" if len(names) == classes - 1 else ""
        raise UsageError(f"There are {classes} classes.{hint} Received: {len(names)} labels.")
    return names


def decode_predictions(preds, top=5, labels=None):
    """The best classes of every prediction, best first, as `keras.applications` gives them.

    Args:
        preds: scores of shape (N, classes), or the dictionary a Slim network or an exported model returns, whose
            `Predictions` or `probabilities` is taken. Of logits, the logits come back as scores.
        top: how many classes; all of them where there are fewer.
        labels: the names in class order, or the path of a labels file. None is ImageNet: 1001 classes with the
            background first, or 1000 without it.

    Returns:
        A list for every prediction of (wnid, name, score), or of (class index, name, score) where `labels` is given;
        `for _, name, score in decoded[0]` fits both. Equal scores come in class order.

    Raises:
        UsageError: another shape, NaN, a class count without names, labels that do not fit.
    """
    if isinstance(preds, dict):
        key = next((key for key in _PREDICTION_KEYS if key in preds), None)
        if key is None:
            raise UsageError(f"Expected one of {_PREDICTION_KEYS} in the predictions. Received: {sorted(preds)}.")
        preds = preds[key]
    preds = np.asarray(preds)
    if preds.ndim != 2:
        raise UsageError(f"Expected a batch of predictions, shape (N, classes). Received: {preds.shape}")
    if top < 1:
        raise UsageError(f"`top` must be at least 1. Received: {top}")
    if np.isnan(preds).any():
        raise UsageError("The predictions hold NaN: were the images or the weights broken?")

    classes = preds.shape[1]
    if labels is None and classes not in (1000, 1001):
        known = ", as the 2015 Inception graph with its own label map" if classes == 1008 else ""
        raise UsageError(f"Pass labels=, the names of the classes in order. Received: {classes} classes{known}.")
    names = class_names(classes, labels)
    ids = range(classes) if labels is not None else imagenet_wnids(classes == 1001)
    best = np.argsort(-preds.astype(np.float64), axis=1, kind="stable")[:, :top]
    return [[(ids[i], names[i], float(row[i])) for i in order] for row, order in zip(preds, best)]
