"""What the candidates' processes run. An export's has neither Keras nor TensorFlow in it unless it needs them."""

import numpy as np


def multiply(size):
    """NumPy's product of two float32 matrices of `size`×`size`."""
    left, right = np.random.default_rng(0).uniform(-1, 1, (2, size, size)).astype(np.float32)
    out = np.empty_like(left)
    return lambda: np.matmul(left, right, out=out)


def engine(path, batch):
    """An exported model, from preprocessed images in NumPy to probabilities in NumPy."""
    from inception_tf.inference.engines import open_engine

    run = open_engine(path)
    images = _images(batch, run.preprocessing.size, run.preprocessing.channels)
    return lambda: run(images)


def keras_model(path, batch, xla, precision=None):
    """A Keras model from images to probabilities, in NumPy both: as it is, or by XLA as `classify` runs it then."""
    from inception_tf.inference.engines import KerasEngine
    from inception_tf.zoo import load_model

    run = KerasEngine(load_model(path), precision=precision, xla=xla)
    images = _images(batch, run.preprocessing.size, run.preprocessing.channels)
    return lambda: run(images)


def _images(batch, size, channels):
    return np.random.default_rng(0).uniform(-1, 1, (batch, *size, channels)).astype(np.float32)
