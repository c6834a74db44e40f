"""Mean and covariance of features, gathered batch by batch in float64, merged, saved and read."""

import zipfile
import zlib

import numpy as np

from inception_tf.errors import UsageError, reason
from inception_tf.files import atomic_write, refuse_existing


class FeatureStatistics:
    """Mean and covariance of features as they come.

    The update and the merge are those of Chan, Golub and LeVeque (1979), which lose nothing to cancellation: of parts
    in any order the result is `numpy.mean`'s and `numpy.cov`'s to rounding.

    Attributes:
        mode: the resize of the images that the features are of, see `images.resize_2015.MODES`; None where not known.
        weights: a fingerprint of the network that made them, or None.
        count: how many features there were; None for a file that does not say.
        mu: float64 array (D,), their mean.

    Raises:
        UsageError: features, statistics or files that do not fit: `update`, `merge`, `sigma`, `load`.
    """

    def __init__(self, mode=None, weights=None):
        self.mode, self.weights, self.count = mode, weights, 0
        self.mu = self._scatter = None

    def update(self, features):
        """Adds features.

        Args:
            features: array N×D of finite numbers.

        Raises:
            UsageError: another shape, NaN or infinite values.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or (self.mu is not None and features.shape[1] != len(self.mu)):
            wanted = "D" if self.mu is None else len(self.mu)
            raise UsageError(f"Expected features of shape (N, {wanted}). Received: {features.shape}")
        if not np.isfinite(features).all():
            rows = np.flatnonzero(~np.isfinite(features).all(1))
            raise UsageError(f"Features hold NaN or infinity in {len(rows)} rows, row {rows[0]} first.")
        if len(features):
            mean = features.mean(axis=0)
            centered = features - mean
            self._add(len(features), mean, centered.T @ centered)
        return self

    def merge(self, other):
        """Adds what another process gathered.

        Raises:
            UsageError: of another mode, network or dimension; or a file without a count.
        """
        check_comparable(self, other)
        if self.count is None or other.count is None:
            raise UsageError("Statistics without a count, as pytorch-fid writes them, cannot be merged.")
        if other.count:
            self._add(other.count, other.mu, other._scatter)
        return self

    def _add(self, count, mean, scatter):
        if not self.count:
            self.count, self.mu, self._scatter = count, mean.copy(), scatter.copy()
            return
        total, delta = self.count + count, mean - self.mu
        self._scatter += scatter + np.outer(delta, delta) * (self.count * count / total)
        self.mu += delta * (count / total)
        self.count = total

    @property
    def sigma(self):
        """float64 array D×D, the covariance, divided by N − 1 as `numpy.cov` does.

        Raises:
            UsageError: of fewer than two features.
        """
        if self.count is None:
            return self._scatter
        if self.count < 2:
            raise UsageError(f"A covariance needs two images at least. Received: {self.count}")
        return self._scatter / (self.count - 1)

    def save(self, path, overwrite=False):
        """Writes a `.npz` with `mu` and `sigma`, as pytorch-fid does and reads, and `count`, `mode`, `weights`.

        Raises:
            UsageError: the name ends otherwise, or the file exists and `overwrite` is false.
            InceptionTFError: it cannot be written.
        """
        check_target(path, overwrite)
        facts = {
            "mode": self.mode or "",
            "weights": self.weights or "",
            "count": -1 if self.count is None else self.count,
        }
        with atomic_write(path, overwrite) as part:
            np.savez_compressed(part, mu=self.mu, sigma=self.sigma, **facts)

    @classmethod
    def load(cls, path):
        """The statistics in a `.npz` of ours, of pytorch-fid, of TTUR or of clean-fid.

        Raises:
            UsageError: it is none, or damaged: dimensions that do not fit, NaN.
        """
        try:
            with np.load(path) as file:
                mu, sigma = np.asarray(file["mu"], np.float64), np.asarray(file["sigma"], np.float64)
                facts = {name: file[name].item() for name in ("mode", "weights", "count") if name in file.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UsageError(f"{path} holds no statistics (mu and sigma), or is damaged: {reason(error)}") from error
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise UsageError(f"{path}: mu and sigma do not fit. Received: shapes {mu.shape} and {sigma.shape}")
        if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
            raise UsageError(f"{path} holds NaN or infinite values.")
        statistics = cls(facts.get("mode") or None, facts.get("weights") or None)
        count = facts.get("count", -1)
        statistics.count = count if count >= 0 else None
        statistics.mu, statistics._scatter = mu, sigma if count < 0 else sigma * (count - 1)
        return statistics


def check_target(path, overwrite=False):
    """Raises what would keep `FeatureStatistics.save` from writing, before long work."""
    if not str(path).endswith(".npz"):
        raise UsageError(f"Statistics are written as .npz. Received: {path}")
    refuse_existing(path, overwrite)


def is_statistics(path):
    """Whether a file is a `.npz` with `mu` and `sigma`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"mu.npy", "sigma.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def check_comparable(a, b):
    """Raises a `UsageError` for two `FeatureStatistics` that say that they are of different things."""
    if a.mu is not None and b.mu is not None and len(a.mu) != len(b.mu):
        raise UsageError(f"The features have different dimensions. Received: {len(a.mu)} and {len(b.mu)}")
    if a.mode and b.mode and a.mode != b.mode:
        raise UsageError(
            f"The images were resized in different modes, and their distance would be of the resize too. Received: "
            f"{a.mode} and {b.mode}. Give --resize the mode of the statistics."
        )
    if a.weights and b.weights and a.weights != b.weights:
        raise UsageError(f"The features are of different networks. Received: weights {a.weights} and {b.weights}")
