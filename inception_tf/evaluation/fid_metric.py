"""FID while a generator trains: a Keras metric that takes its images as they come, and a callback."""

import keras
import numpy as np

from inception_tf.errors import UsageError
from inception_tf.evaluation.feature_statistics import FeatureStatistics, check_comparable
from inception_tf.evaluation.features import FeatureExtractor, Features
from inception_tf.evaluation.fid import compare, open_side

__all__ = ["FID", "FIDCallback", "FeatureStatistics"]


class FID(keras.metrics.Metric):
    """The Fréchet Inception distance of generated images to real ones (Heusel et al., arXiv 1706.08500).

    Features are summed up in float64, whatever Keras's backend computes in. `update_state` runs outside of compiled
    functions: call it in a loop of your own, through `FIDCallback`, or compile with `run_eagerly=True`; then a model's
    outputs are measured, and FID is computed after every batch.

    Args:
        real: the real images, or their saved statistics: whatever `open_side` takes.
        extractor: a `FeatureExtractor`. Default: one of the published network.
        name: the metric's.
        **options: of the `FeatureExtractor`, where none is given: `model`, `resize`, `precision`, `batch`.

    Raises:
        UsageError, CheckpointError, DownloadError: as `FeatureExtractor`; `real` is no set of images and no
            statistics, or statistics of another mode or network.
    """

    def __init__(self, real, extractor=None, name="fid", **options):
        super().__init__(name=name)
        self.extractor = extractor or FeatureExtractor(**options)
        side = open_side(real, self.extractor)
        self.real = side.statistics if isinstance(side, Features) else side
        self.reset_state()
        check_comparable(self.generated, self.real)

    def update_state(self, images, y_pred=None, sample_weight=None):
        """Adds a batch of generated images: N×H×W×3, uint8 or float 0 to 255; arrays or tensors of any backend.

        Where Keras calls it with targets and outputs, the outputs are what is added.

        Raises:
            UsageError: another shape; a compiled function.
            ImageError: another range of values.
        """
        images = images if y_pred is None else y_pred
        if not isinstance(images, np.ndarray):
            try:
                images = keras.ops.convert_to_numpy(images)
            except Exception as error:  # each backend has its own
                if keras.src.backend.common.symbolic_scope.in_symbolic_scope():
                    return  # Keras asks for shapes
                raise UsageError(
                    f"FID runs outside of compiled functions: in model.fit, pass itf.metrics.FIDCallback, or compile "
                    f"with run_eagerly=True. Received: {type(images).__name__}"
                ) from error
        images = images.astype("float32") if images.dtype.kind == "V" else images  # bfloat16
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
