"""The network as one program of XLA, by Keras's JAX or TensorFlow backend."""

import keras
import numpy as np

from inception_tf.models.fused import fuse_for_inference
from inception_tf.models.model import with_dtype


def stateless(network):
    """A Keras network on the JAX backend as (its weights, a function of them and of images).

    The weights are a dict from paths to JAX arrays; the function computes as in inference, and what is float32 in
    float32, unless JAX's `jax_default_matmul_precision` says otherwise: a GPU's own default is TF32, of ten bits.
    """
    import jax

    trainable = [variable.path for variable in network.trainable_variables]
    others = {variable.path: variable.value for variable in network.non_trainable_variables}
    # Generators of dropout have a state, which inference does not use.
    constants = {path: np.asarray(value) for path, value in others.items() if path.endswith("seed_generator_state")}
    weights = {variable.path: variable.value for variable in network.variables if variable.path not in constants}

    def run(weights, images):
        known = {**constants, **weights}
        states = [[known[path] for path in paths] for paths in (trainable, others)]
        default = "highest" if network.compute_dtype == "float32" else "default"
        with jax.default_matmul_precision(jax.config.jax_default_matmul_precision or default):
            return network.stateless_call(*states, images, training=False)[0]

    return weights, run


def pays():
    """Whether XLA should run a network here: Keras is on JAX, which has nothing else, or TensorFlow sees a GPU."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    return keras.backend.backend() == "jax"


def compiled(model, precision=None):
    """The probabilities of a classifier as a function that XLA compiled, once for every shape of images.

    The network is fused first. The function comes back before its result is there: whoever reads that waits.

    Args:
        model: a model of this library with its top, on Keras's JAX or TensorFlow backend.
        precision: "float32", "float16" or "bfloat16", of weights and operations; None: as the model computes.

    Returns:
        A function from images, float32 N×H×W×C, to an array of the backend's, float32 N×classes.
    """
    network = model if model.card.fused else fuse_for_inference(model)
    network = with_dtype(network, precision) if precision else network

    def probabilities(outputs):
        return model.as_probabilities(keras.ops.cast(outputs, "float32"))

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        run = tf.function(lambda x: probabilities(network(x, training=False)), autograph=False, jit_compile=True)
        return lambda images: run(tf.constant(images))
    import jax

    weights, outputs = stateless(network)
    run = jax.jit(lambda weights, images: probabilities(outputs(weights, images)))
    return lambda images: run(weights, images)
