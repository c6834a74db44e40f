"""A linear classifier in closed form: ridge regression, its penalty chosen by leaving out one example at a time."""

import numpy as np

# As parts of the mean squared norm of the standardized features.
PENALTIES = 10.0 ** np.arange(-3, 2.01, 0.25)
FACTORS = 2.0 ** np.arange(0, 6.01, 0.25)


def ridge(features, targets, loss):
    """The kernel and the bias of logits that are linear in features.

    Ridge regression of the targets on the standardized features (`sklearn.linear_model.RidgeCV`), with the penalty of
    the least squared error on examples left out, each in turn. What it says, minus a half, times a factor, are the
    logits: the factor is that of the least loss on the examples left out.

    Args:
        features: float array N×D.
        targets: float array N×classes, of 0 and 1.
        loss: a function from (logits, targets) to a number.

    Returns:
        (kernel D×classes, bias of shape (classes,)), float64.
    """
    features, targets = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    mean, deviation, base = features.mean(0), np.maximum(features.std(0), 1e-6), targets.mean(0)
    left, values, right = np.linalg.svd((features - mean) / deviation, full_matrices=False)
    rotated, squares = left.T @ (targets - base), values**2
    found = []
    for penalty in PENALTIES * max(squares.mean(), 1e-12):
        kept = squares / (squares + penalty)
        leverage = 1 / len(features) + left**2 @ kept
        errors = (targets - base - left @ (kept[:, None] * rotated)) / np.maximum(1 - leverage, 1e-6)[:, None]
        found.append(((errors**2).mean(), penalty, targets - errors))
    _, penalty, predicted = min(found, key=lambda one: one[0])
    kernel = right.T @ ((values / (squares + penalty))[:, None] * rotated) / deviation[:, None]
    factor = min(FACTORS, key=lambda factor: loss((predicted - 0.5) * factor, targets))
    return kernel * factor, (base - mean @ kernel - 0.5) * factor
