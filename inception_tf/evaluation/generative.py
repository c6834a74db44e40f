"""How far generated images are from real ones, from their features: FID, KID, Inception score, precision and recall,
density and coverage. NumPy alone.
"""

import numpy as np

from inception_tf.errors import UsageError

SEED = 2020  # torch-fidelity's, so that its subsets and splits are ours


def frechet_distance(mu1, sigma1, mu2, sigma2):
    """The Fréchet distance of two Gaussians: FID (Heusel et al., arXiv 1706.08500).

    |mu1 − mu2|² + tr(S1 + S2 − 2·√(S1·S2)). The trace of that root is the sum of the roots of the eigenvalues of
    √S1·S2·√S1, which is symmetric: real and not negative but for rounding, so that nothing is added to the diagonals,
    no imaginary part is dropped, and a covariance of fewer images than dimensions is no special case.

    Args:
        mu1, mu2: arrays (D,).
        sigma1, sigma2: symmetric arrays D×D.

    Raises:
        UsageError: other shapes, or values that are not finite.
    """
    mu1, sigma1, mu2, sigma2 = (np.asarray(value, np.float64) for value in (mu1, sigma1, mu2, sigma2))
    if mu1.shape != mu2.shape or sigma1.shape != sigma2.shape or sigma1.shape != mu1.shape * 2:
        shapes = [value.shape for value in (mu1, sigma1, mu2, sigma2)]
        raise UsageError(f"Expected means (D,) and covariances (D, D). Received: {shapes}")
    if not all(np.isfinite(value).all() for value in (mu1, sigma1, mu2, sigma2)):
        raise UsageError("Means and covariances hold NaN or infinity.")
    values, vectors = np.linalg.eigh(sigma1)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    root = vectors[:, kept] * np.sqrt(values[kept])
    inner = np.linalg.eigvalsh(root.T @ sigma2 @ root)
    difference = mu1 - mu2
    trace = np.trace(sigma1) + np.trace(sigma2) - 2 * np.sqrt(inner.clip(0)).sum()
    return float(difference @ difference + trace)


def kernel_distance(features1, features2, subsets=100, subset_size=1000, seed=SEED):
    """The kernel Inception distance, KID (Bińkowski et al., arXiv 1801.01401): an unbiased squared MMD.

    The kernel is (x·y / D + 1)³. torch-fidelity draws the same subsets.

    Args:
        features1, features2: arrays N×D; the generated images' first.
        subsets: how many to draw, each without replacement.
        subset_size: the most of a subset. Where there are fewer features, as many as there are.
        seed: of the draws.

    Returns:
        Mean and standard deviation over the subsets, and the size of a subset.

    Raises:
        UsageError: fewer than two features, or dimensions that differ.
    """
    features1, features2 = _pair(features1, features2)
    size = min(subset_size, len(features1), len(features2))
    if size < 2:
        raise UsageError(f"KID needs subsets of two images at least. Received: {size}")
    random, found = np.random.RandomState(seed), []
    for _ in range(subsets):
        x = features1[random.choice(len(features1), size, replace=False)]
        y = features2[random.choice(len(features2), size, replace=False)]
        within = sum(kernel.sum() - np.trace(kernel) for kernel in (_kernel(x, x), _kernel(y, y)))
        found.append(within / (size * (size - 1)) - 2 * _kernel(x, y).mean())
    return float(np.mean(found)), float(np.std(found)), size


def _kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def inception_score(logits, splits=10, seed=SEED):
    """The Inception score (Salimans et al., arXiv 1606.03498), of the logits without their bias.

    Args:
        logits: array N×classes, all 1008 of them.
        splits: into how many parts the images are split, after a shuffle by `seed`. torch-fidelity's are the same.

    Returns:
        Mean and standard deviation over the splits.

    Raises:
        UsageError: fewer images than splits.
    """
    logits = np.asarray(logits, np.float64)
    if len(logits) < splits or splits < 1:
        raise UsageError(
            f"The Inception score needs an image a split at least. Received: {len(logits)}, {splits} splits"
        )
    logits = logits[np.random.RandomState(seed).permutation(len(logits))]
    logits = logits - logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    scores = []
    for i in range(splits):
        part = log_p[i * len(log_p) // splits : (i + 1) * len(log_p) // splits]
        p = np.exp(part)
        scores.append(np.exp((p * (part - np.log(p.mean(axis=0)))).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def precision_recall(generated, real, k=3):
    """Improved precision and recall (Kynkäänniemi et al., arXiv 1904.06991).

    Args:
        generated, real: features N×D.
        k: the neighbor, the image itself not counted, that is a radius around each.

    Returns:
        The fraction of generated images that lie within a real one's radius, and the reverse.

    Raises:
        UsageError: not more than `k` images.
    """
    generated, real = _pair(generated, real)
    inside_real, inside_generated = _radii(real, k), _radii(generated, k)
    precision = np.concatenate([(d <= inside_real).any(axis=1) for d in _distances(generated, real)])
    recall = np.concatenate([(d <= inside_generated).any(axis=1) for d in _distances(real, generated)])
    return float(precision.mean()), float(recall.mean())


def density_coverage(generated, real, k=5):
    """Density and coverage (Naeem et al., arXiv 2002.09797).

    Args:
        generated, real: features N×D.
        k: as in `precision_recall`.

    Returns:
        How many radii of real images a generated one lies within on average, over k; and the fraction of real images
        within whose radius one lies.
    """
    generated, real = _pair(generated, real)
    radii = _radii(real, k)
    inside, nearest = 0, np.full(len(real), np.inf)
    for d in _distances(generated, real):
        inside += int((d < radii).sum())
        nearest = np.minimum(nearest, d.min(axis=0))
    return inside / (k * len(generated)), float((nearest < radii).mean())


def _pair(a, b):
    a, b = (np.asarray(features, np.float64) for features in (a, b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise UsageError(f"Expected features of shapes (N, D) and (M, D). Received: {a.shape} and {b.shape}")
    return a, b


def _radii(features, k):
    """The distance of each feature to its k-th neighbor."""
    if len(features) <= k:
        raise UsageError(f"The {k}-th neighbor needs more than {k} images. Received: {len(features)}")
    return np.concatenate([np.partition(d, k, axis=1)[:, k] for d in _distances(features, features)])


def _distances(a, b, rows=1024):
    """Yields the distances of some rows of `a` at a time to all of `b`."""
    squares = (b**2).sum(axis=1)
    for i in range(0, len(a), rows):
        part = a[i : i + rows]
        yield np.sqrt(((part**2).sum(axis=1)[:, np.newaxis] + squares - 2 * part @ b.T).clip(0))
