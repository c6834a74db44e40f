"""FID while a generator trains: a Keras metric that takes its images as they come, and a callback."""

import keras
import numpy as np

from inception_tf.errors import UsageError
from inception_tf.evaluation.feature_statistics import FeatureStatistics
from inception_tf.evaluation.features import FeatureExtractor, Features
from inception_tf.evaluation.fid import compare, open_side

__all__ = ["FID", "FIDCallback"]


class FID(keras.metrics.Metric):
    """The Fréchet Inception distance of generated images to real ones (Heusel et al., arXiv 1706.08500).

    Features are summed up in float64, whatever Keras's backend computes in. `update_state` runs outside of compiled
    functions: call it in a loop of your own, or through `FIDCallback`.

    Args:
        real: the real images, or their saved statistics: whatever `open_side` takes.
        extractor: a `FeatureExtractor`. Default: one of the published network.
        name: the metric's.
        **options: of the `FeatureExtractor`, where none is given: `model`, `resize`, `precision`, `batch`.

    Raises:
        UsageError, CheckpointError, DownloadError: as `FeatureExtractor`; `real` is no set of images and no
            statistics.
    """

    def __init__(self, real, extractor=None, name="fid", **options):
        super().__init__(name=name)
        self.extractor = extractor or FeatureExtractor(**options)
        side = open_side(real, self.extractor)
        self.real = side.statistics if isinstance(side, Features) else side
        self.reset_state()

    def update_state(self, images, *_, **__):
        """Adds a batch of generated images: N×H×W×3, uint8 or float 0 to 255; arrays or tensors of any backend.

        Raises:
            UsageError: another shape or range of values.
        """
        images = images if isinstance(images, np.ndarray) else keras.ops.convert_to_numpy(images)
        self.generated.update(self.extractor(images))

    def merge(self, other):
        """Adds what another `FID`, in another process, was given; or its `FeatureStatistics`, `other.generated`."""
        self.generated.merge(other.generated if isinstance(other, FID) else other)

    def result(self):
        """The FID of the images so far, a float; NaN of fewer than two."""
        return compare(self.generated, self.real).fid if self.generated.count > 1 else float("nan")

    def reset_state(self):
        """Forgets the generated images; the real ones stay."""
        self.generated = FeatureStatistics(self.extractor.resize, self.extractor.weights)


class FIDCallback(keras.callbacks.Callback):
    """Measures a generator after every so many epochs; `logs["fid"]` has the result.

    Args:
        generate: a function from a number to that many images, as `FID.update_state` takes them.
        metric: a `FID`.
        count: how many images to generate.
        every: after how many epochs.

    Raises:
        UsageError: `count` below 2 or `every` below 1.
    """

    def __init__(self, generate, metric, count=2048, every=1):
        super().__init__()
        if count < 2 or every < 1:
            raise UsageError(f"count must be 2 at least, every 1. Received: count={count}, every={every}")
        self.generate, self.metric, self.count, self.every = generate, metric, count, every

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        self.metric.reset_state()
        done = 0
        while done < self.count:
            images = self.generate(min(self.metric.extractor.batch, self.count - done))
            self.metric.update_state(images)
            done += len(images)
        if logs is not None:
            logs[self.metric.name] = self.metric.result()
