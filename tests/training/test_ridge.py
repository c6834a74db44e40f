"""The heads' ridge regression, against scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler

from inception_tf.training.ridge import FACTORS, PENALTIES, ridge


def squared_error(logits, targets):
    """Least where the logits are neither small nor large."""
    return ((np.tanh(logits / 8) + 1 - 2 * targets) ** 2).mean()


def examples(shape):
    rng = np.random.default_rng(0)
    labels = rng.choice(3, shape[0], p=(0.5, 0.3, 0.2))
    features = rng.normal(size=shape) * rng.uniform(0.1, 3, shape[1]) + 0.7 * labels[:, None] * (
        np.arange(shape[1]) < 9
    )
    features[:, -1] = 5  # a feature that never changes
    return features, labels, np.eye(3)[labels]


@pytest.mark.parametrize("shape", [(40, 100), (100, 20)])
def test_examples_that_count_more(shape):
    features, labels, targets = examples(shape)
    weights = np.array([1.0, 2.0, 5.0])[labels]
    scaler = StandardScaler().fit(features, sample_weight=weights)
    standardized = scaler.transform(features)
    norm = (weights[:, None] / weights.mean() * standardized**2).sum()
    fits = [
        Ridge(penalty * norm / min(shape) * weights.mean()).fit(standardized, targets, sample_weight=weights)
        for penalty in PENALTIES
    ]
    kernel, bias = ridge(features, targets, squared_error, weights)
    logits = features @ kernel + bias
    gaps = [min(np.abs(logits / f - fit.predict(standardized) + 0.5).max() for f in FACTORS) for fit in fits]
    assert min(gaps) < 1e-8 and min(gaps) == min(gaps[1:-1])


@pytest.mark.parametrize("shape", [(40, 100), (100, 20)])
def test_as_scikit_learn(shape):
    features, labels, targets = examples(shape)
    standardized = StandardScaler().fit_transform(features)
    alphas = PENALTIES * (np.linalg.norm(standardized) ** 2 / min(shape))
    expected = RidgeCV(alphas, store_cv_results=True).fit(standardized, targets)
    kernel, bias = ridge(features, targets, squared_error)
    assert alphas[0] < expected.alpha_ < alphas[-1]  # else the penalties are not compared
    logits, wanted = features @ kernel + bias, expected.predict(standardized) - 0.5
    factor = np.linalg.norm(logits) / np.linalg.norm(wanted)
    np.testing.assert_allclose(logits, wanted * factor, atol=1e-8 * factor)
    # The factor is that of the least loss on the examples left out.
    best = list(alphas).index(expected.alpha_)
    gaps = np.sqrt(expected.cv_results_[..., best])  # scikit-learn has the squared errors alone
    assert FACTORS[0] < factor < FACTORS[-1] and np.isclose(FACTORS, factor).any()
    left_out = targets - np.where(targets - wanted > 0.5, gaps, -gaps)
    assert factor == pytest.approx(min(FACTORS, key=lambda f: squared_error((left_out - 0.5) * f, targets)))
