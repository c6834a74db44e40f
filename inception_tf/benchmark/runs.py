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


def keras_model(path, batch, jit_compile):
    """A Keras model as a function of its backend's, compiled by XLA or not; images and answers in NumPy."""
    import keras

    from inception_tf.inference.engines import KerasEngine
    from inception_tf.zoo import load_model

    model = load_model(path)
    model.compile(jit_compile=jit_compile)
    images = _images(batch, KerasEngine(model).preprocessing.size, model.input_shape[-1])
    if keras.backend.backend() != "tensorflow":
        return lambda: model.predict_on_batch(images)
    import tensorflow as tf

    run = tf.function(lambda x: model(x, training=False), autograph=False, jit_compile=jit_compile or None)
    return lambda: run(tf.constant(images)).numpy()


def _images(batch, size, channels):
    return np.random.default_rng(0).uniform(-1, 1, (batch, *size, channels)).astype(np.float32)
