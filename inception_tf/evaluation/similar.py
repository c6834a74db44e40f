"""What feature vectors find in a folder of photographs: the most similar, near-duplicates, likely wrong labels.

All by cosine similarity, exact, in blocks that fit in memory.
"""

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


def duplicates(values, threshold=0.98, ratio=0.7):
    """Pairs of vectors that look like copies of one photograph, scaled or saved once more.

    How similar a copy's features are depends on the network and on the photograph. So what counts is how much nearer
    two are to one another than to the rest: Lowe's ratio test, of local features, for whole photographs.

    Args:
        threshold: a cosine similarity, up to 1, from which on a pair is one in any case, several copies too.
        ratio: two that are each other's nearest are a pair where their distance (1 - cosine) is at most this fraction
            of that to the next nearest, the larger one of both. 0: by `threshold` alone.

    Returns:
        A list of (row, later row, cosine similarity), the clearest first: those above the threshold by similarity, then
        by the ratio.

    Raises:
        UsageError: a threshold outside of (0, 1], a ratio outside of [0, 1).
    """
    if not 0 < threshold <= 1 or not 0 <= ratio < 1:
        raise UsageError(
            f"The threshold is above 0, at most 1, the ratio below 1. Received: threshold={threshold}, ratio={ratio}"
        )
    known, found = unit(values), {}
    for start in range(0, len(known), _BLOCK):
        cosines = known[start : start + _BLOCK] @ known[start:].T
        rows, columns = np.nonzero(np.triu(cosines >= threshold - 1e-6, 1))
        for row, column in zip(rows.tolist(), columns.tolist()):
            found[start + row, start + column] = -float(cosines[row, column]), float(cosines[row, column])
    if ratio and len(values) > 2:
        nearest_rows, cosines = nearest(values, None, 2)
        for row, (other, cosine, following) in enumerate(zip(nearest_rows[:, 0], cosines[:, 0], cosines[:, 1])):
            if row < other and nearest_rows[other, 0] == row:
                rest = 1 - min(following, cosines[other, 1])
                if 1 - cosine <= ratio * rest:
                    found.setdefault((row, int(other)), (float((1 - cosine) / max(rest, 1e-9)), float(cosine)))
    return [(*pair, cosine) for pair, (_, cosine) in sorted(found.items(), key=lambda item: item[1][0])]


def mislabeled(values, labels, neighbors=10):
    """Photographs most of whose nearest neighbors are of one other class.

    Args:
        values: float32 N×C.
        labels: N class names.
        neighbors: how many neighbors vote.

    Returns:
        A list of (row, its class, that of most of its neighbors, the fraction of these, above one half), those with the
        most votes against their label first; of equal ones those first that have fewer neighbors of their own class.

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
    return [(int(i), str(names[numbers[i]]), str(names[suggested[i]]), float(agreement[i])) for i in found]
