"""Batch norm once its kernels have moved: which statistics are used, how fast they move, what they are over a data set.

Slim's moving averages, of decay 0.9997, take 10,000 steps to forget the data they came from. A fine-tuned network whose
kernels have moved by 500 steps is then evaluated with the statistics of another one.
"""

import contextlib

import keras
import numpy as np


def layers(model):
    """All batch norm layers of a model, nested ones too."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]


def choose_momentum(own, steps):
    """The momentum of the moving statistics for a phase of so many steps.

    A tenth of the steps then makes up most of an average: 0.98 for 500 steps. At most the network's `own`, at least
    0.9.
    """
    return min(own, max(0.9, 1 - 10 / steps))


@contextlib.contextmanager
def momentum(model, value):
    """Sets the momentum of all batch norm layers while a training step is traced; then it is the network's again."""
    own = [(layer, layer.momentum) for layer in layers(model)]
    try:
        for layer, _ in own:
            layer.momentum = value
        yield
    finally:
        for layer, before in own:
            layer.momentum = before


def recalibrate(model, batches, all_reduce_sum=lambda values: values):
    """Recomputes the moving statistics of batch norm over a data set, as "Precise BN" (arXiv 2105.07576, section 3).

    Every layer's mean and variance are those of its inputs over all images, pooled in float64 over batches of any
    sizes, while the layers before it normalize by the batch. Layers that are frozen (`trainable` is false) keep theirs.

    Args:
        model: a Keras model.
        batches: an iterable of float32 images N×H×W×C.
        all_reduce_sum: a function that sums a float64 array over workers that have other batches each.

    Returns:
        The number of images.
    """
    norms = [layer for layer in layers(model) if layer.trainable]
    images, sums = 0, [np.zeros((2, *layer.moving_mean.shape)) for layer in norms]
    with momentum(model, 0.0):
        forward = _training_forward(model)
        for batch in batches:
            forward(batch)
            images += len(batch)
            for i, layer in enumerate(norms):
                mean = np.asarray(layer.moving_mean, np.float64)
                square = np.asarray(layer.moving_variance, np.float64) + mean**2
                sums[i] += len(batch) * np.stack([mean, square])
    images = int(all_reduce_sum(np.array(images, np.float64)))
    for layer, total in zip(norms, sums if images else ()):
        mean, square = all_reduce_sum(total) / images
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(np.maximum(square - mean**2, 0.0))
    return images


def _training_forward(model):
    """A compiled function that runs a model in training mode and updates its statistics."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda images: model(images, training=True), reduce_retracing=True, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        step = jax.jit(lambda *values: model.stateless_call(*values, training=True)[1])

        def forward(images):
            kinds = model.trainable_variables, model.non_trainable_variables
            values = ([variable.value for variable in kind] for kind in kinds)
            for variable, value in zip(kinds[1], step(*values, images)):
                variable.assign(value)

        return forward
    return lambda images: model(images, training=True)
