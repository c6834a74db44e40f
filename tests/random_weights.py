"""Weights for networks that were not trained."""

import numpy as np


def randomized(model, seed=0):
    """Weights of a trained network's size, the batch norms' too, so that nothing cancels out."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        if len(variable.shape) > 1:
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(random.normal(0, (2 / fan_in) ** 0.5, variable.shape))
        else:
            low, high = (0.5, 1.5) if "variance" in variable.path or "gamma" in variable.path else (-0.2, 0.2)
            variable.assign(random.uniform(low, high, variable.shape))
    return model
