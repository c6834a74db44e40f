"""A linear classifier in closed form: ridge regression, its penalty chosen by leaving out one example at a time."""

import numpy as np

# As parts of the mean squared norm of the standardized features.
PENALTIES = 10.0 ** np.arange(-3, 2.01, 0.25)
FACTORS = 2.0 ** np.arange(0, 6.01, 0.25)


def ridge(features, targets, loss, weights=None):
    """The kernel and the bias of logits that are linear in features.

    Ridge regression of the targets on the standardized features (`sklearn.linear_model.RidgeCV`), with the penalty of
    the least squared error on examples left out, each in turn. What it says, minus a half, times a factor, are the
    logits: the factor is that of the least loss on the examples left out.

    Args:
        features: float array N×D.
        targets: float array N×classes, of 0 and 1.
        loss: a function from (logits, targets) to a number.
        weights: how much each example counts, a float array of shape (N,); None: all alike.

    Returns:
        (kernel D×classes, bias of shape (classes,)), float64.
    """
    scaled, targets = np.array(features, np.float64), np.asarray(targets, np.float64)
    weights = np.ones(len(targets)) if weights is None else np.maximum(weights / np.mean(weights), 1e-9)
    mean, base, roots = weights @ scaled / len(scaled), weights @ targets / len(targets), np.sqrt(weights)[:, None]
    scaled -= mean
    deviation = np.maximum(np.sqrt(np.einsum("i,ij,ij->j", weights, scaled, scaled) / len(scaled)), 1e-6)
    scaled *= roots / deviation
    wanted = (targets - base) * roots
    # What decides is the smaller of N and D: the matrix of that size has the same eigenvalues.
    few = scaled.shape[0] <= scaled.shape[1]
    squares, vectors = np.linalg.eigh(scaled @ scaled.T if few else scaled.T @ scaled)
    squares = np.maximum(squares, 0)
    components = vectors * np.sqrt(squares) if few else scaled @ vectors
    rotated, found = components.T @ wanted, []
    for penalty in PENALTIES * max(squares.mean(), 1e-12):
        inverse = 1 / (squares + penalty)
        leverage = weights / len(weights) + components**2 @ inverse
        errors = (wanted - components @ (inverse[:, None] * rotated)) / np.maximum(1 - leverage, 1e-6)[:, None]
        found.append(((errors**2).mean(), inverse[:, None], targets - errors / roots))
    _, inverse, predicted = min(found, key=lambda one: one[0])
    kernel = scaled.T @ (vectors @ (inverse * (vectors.T @ wanted))) if few else vectors @ (inverse * rotated)
    kernel /= deviation[:, None]
    factor = min(FACTORS, key=lambda factor: loss((predicted - 0.5) * factor, targets))
    return kernel * factor, (base - mean @ kernel - 0.5) * factor
