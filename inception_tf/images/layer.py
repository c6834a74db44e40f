"""Slim's evaluation preprocessing as a Keras layer."""

import keras
import numpy as np

from inception_tf.images import preprocessing


@keras.saving.register_keras_serializable(package="inception_tf")
class Preprocessing(keras.layers.Layer):
    """Slim's evaluation preprocessing as a layer, the pixels those of `preprocess_input`: see there for the kinds.

    In front of a model it takes photographs as they are decoded. It computes in float32 whatever the policy.

    Input: N×H×W×C, values 0 to 255, uint8 or float; they are not checked. On JAX and torch the height and the width
    must be known when it runs. Output: float32 N×height×width×channels.

    Args:
        kind, size, central_fraction, resize_side, channels: as `inception_tf.images.preprocessing.Preprocessing` has
            them. Default: those of "inception".
        model: a model of this library, whose card says the kind, the channels, and the size where that is not given.

    Raises:
        UsageError: an argument out of range; `kind` beside a model of another; `model` is none of this library.
    """

    def __init__(
        self,
        kind=None,
        size=None,
        central_fraction=0.875,
        resize_side=None,
        channels=None,
        model=None,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        options = {"resize_side": resize_side, "channels": channels}
        options = {name: value for name, value in options.items() if value is not None}
        self.preprocessing = preprocessing.preprocessing_for(
            model, kind, size, central_fraction=central_fraction, **options
        )

    def call(self, images):
        if keras.backend.backend() == "tensorflow":
            return self.preprocessing.graph(images)
        return self._computed(images)

    def _computed(self, images):
        """`Preprocessing.graph` in Keras's operations, for images of a known size."""
        own = self.preprocessing
        images = keras.ops.cast(images, "float32")
        if own.channels == 1 and images.shape[-1] != 1:
            images = preprocessing.to_gray(images)
        (rows, columns), resized, offsets = zip(*own.geometry(*images.shape[1:3]))
        images = images[:, rows, columns]
        if own.kind == "lenet":
            margins = [(-offset, size - kept + offset) for size, kept, offset in zip(own.size, resized, offsets)]
            return own.in_range(keras.ops.pad(images, [(0, 0), *margins, (0, 0)]))
        if own.kind == "inception":
            images = images * np.float32(1 / 255)
        for axis in (2, 1):  # along the rows first, as TensorFlow
            sizes = images.shape[axis], resized[axis - 1], offsets[axis - 1], own.size[axis - 1]
            read, before, after, weight = preprocessing.neighbors(*sizes)
            start, end = (keras.ops.take(images, read[where], axis=axis) for where in (before, after))
            images = start + (end - start) * weight.reshape((-1, 1, 1) if axis == 1 else (-1, 1))
        return own.in_range(images)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.preprocessing.size, self.preprocessing.channels)

    def get_config(self):
        return {**super().get_config(), **self.preprocessing.to_config()}
