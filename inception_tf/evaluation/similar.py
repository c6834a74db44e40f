"""What feature vectors find in a folder of photographs: the most similar, near-duplicates, likely wrong labels.

All by cosine similarity, exact, in blocks that fit in memory.
"""

import dataclasses
from pathlib import Path

import numpy as np

from inception_tf.errors import UsageError

_BLOCK = 1024  # queries at a time


def unit(values):
    """Vectors N×C at length 1, float32; those of length 0 stay."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(lengths == 0, 1, lengths), np.float32)


def nearest(values, queries, count):
    """The most similar vectors of each query.

    Args:
        values: float32 N×C.
        queries: float32 M×C; or None, for each of `values` the others.
        count: how many; all where there are fewer.

    Returns:
        int64 M×k, rows of `values`, best first, equal ones in their order; and float32 M×k, their cosine similarities.

    Raises:
        UsageError: vectors of another length, `count` below 1, no other vectors.
    """
    if queries is not None and queries.shape[1] != values.shape[1]:
        raise UsageError(
            f"The vectors have {values.shape[1]} values, this model's {queries.shape[1]}: they are another model's."
        )
    count = min(count, len(values) - (queries is None))
    if count < 1:
        raise UsageError("There are no other vectors to compare with, or fewer than one neighbor was asked for.")
    known = unit(values)
    asked = known if queries is None else unit(queries)
    indices, cosines = [], []
    for start in range(0, len(asked), _BLOCK):
        found = asked[start : start + _BLOCK] @ known.T
        if queries is None:
            found[np.arange(len(found)), start + np.arange(len(found))] = -np.inf
        # Stable, so that what is equal comes in order; of the best alone, since sorting all takes longest.
        limit = -np.partition(-found, count - 1, axis=1)[:, count - 1]
        for row, least in zip(found, limit):
            candidates = np.flatnonzero(row >= least)
            best = candidates[np.argsort(-row[candidates], kind="stable")][:count]
            indices.append(best)
            cosines.append(row[best])
    return np.stack(indices), np.stack(cosines)


def duplicates(values, threshold=0.95):
    """Pairs of vectors as similar as copies, scaled or saved once more, are.

    Args:
        threshold: the least cosine similarity, up to 1.

    Returns:
        A list of (row, later row, cosine similarity), the most similar first.

    Raises:
        UsageError: a threshold outside of (0, 1].
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"The threshold is a cosine similarity above 0, at most 1. Received: {threshold}")
    known, pairs = unit(values), []
    for start in range(0, len(known), _BLOCK):
        found = known[start : start + _BLOCK] @ known[start:].T
        rows, columns = np.nonzero(np.triu(found >= threshold - 1e-6, 1))
        pairs += zip((rows + start).tolist(), (columns + start).tolist(), found[rows, columns].tolist())
    return sorted(pairs, key=lambda pair: -pair[2])


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A photograph whose neighbors are of another class.

    Attributes:
        row: its row among the vectors.
        label, suggested: its class, and that of most of its neighbors.
        agreement: the fraction of its neighbors that are of the latter, above one half.
    """

    row: int
    label: str
    suggested: str
    agreement: float


def mislabeled(values, labels, neighbors=10):
    """Photographs most of whose nearest neighbors are of one other class.

    Args:
        values: float32 N×C.
        labels: N class names.
        neighbors: how many neighbors vote.

    Returns:
        A list of `Suspect`, those with the most votes against their label first; of equal ones those first that have
        fewer neighbors of their own class.

    Raises:
        UsageError: fewer than two classes.
    """
    names, numbers = np.unique(np.asarray(labels), return_inverse=True)
    if len(names) < 2:
        raise UsageError(f"Wrong labels are found among two classes at least, <class>/<image>. Received: {names[0]}")
    votes = np.eye(len(names), dtype=np.float32)[numbers[nearest(values, None, neighbors)[0]]].mean(1)
    suggested, rows = votes.argmax(1), np.arange(len(votes))
    agreement, own = votes[rows, suggested], votes[rows, numbers]
    found = np.flatnonzero((suggested != numbers) & (agreement > 0.5))
    found = found[np.lexsort((own[found], -agreement[found]))]
    return [Suspect(int(i), str(names[numbers[i]]), str(names[suggested[i]]), float(agreement[i])) for i in found]


def folder_labels(paths):
    """The class folders' names of files `<class>/<image>`."""
    return [Path(path).parent.name for path in paths]
