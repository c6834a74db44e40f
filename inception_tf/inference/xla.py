"""The network as one program of XLA, by Keras's JAX or TensorFlow backend."""

import functools

import keras
import numpy as np

from inception_tf.inference.jax_network import jax_network, precise
from inception_tf.models.fused import fuse_for_inference
from inception_tf.models.model import with_dtype

# Of few images every launch of a kernel counts: one CUDA graph, and what is independent in it side by side.
GRAPH_OPTIONS = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONVOLUTION,DYNAMIC_SLICE_FUSION",
    "xla_gpu_graph_min_graph_size": 1,
    "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT",
}
GRAPH_BATCH = 8


def stateless(network):
    """A Keras network on the JAX backend as (its weights, a function of them and of images).

    The weights are a dict from paths to JAX arrays; the function computes as in inference, and in the precision that
    `jax_network.precise` says.
    """
    trainable = [variable.path for variable in network.trainable_variables]
    others = {variable.path: variable.value for variable in network.non_trainable_variables}
    # Generators of dropout have a state, which inference does not use.
    constants = {path: np.asarray(value) for path, value in others.items() if path.endswith("seed_generator_state")}
    weights = {variable.path: variable.value for variable in network.variables if variable.path not in constants}

    def run(weights, images):
        known = {**constants, **weights}
        states = [[known[path] for path in paths] for paths in (trainable, others)]
        with precise(network):
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
    return jax_compiled(network, probabilities)


def jax_compiled(network, then=lambda outputs: outputs):
    """A fused network by `jax_network`, compiled by XLA: a function from images to what `then` makes of its outputs."""
    import jax

    weights, outputs = jax_network(network, "HWIO" if jax.default_backend() == "cpu" else "OHWI")
    weights, structure = jax.tree.flatten(weights)  # once, not in every call

    def run(weights, images):
        return then(outputs(jax.tree.unflatten(structure, weights), images))

    plain, graph = jax.jit(run), jax.jit(run, compiler_options=graph_options())
    return lambda images: (graph if len(images) <= GRAPH_BATCH else plain)(weights, images)


@functools.cache
def graph_options():
    """The options by which XLA launches a whole program at once, on a GPU; None where it does not know them."""
    import jax

    if jax.default_backend() != "gpu":
        return None
    try:
        jax.jit(lambda x: x + 1, compiler_options=GRAPH_OPTIONS)(0.0)
    except jax.errors.JaxRuntimeError:
        return None
    return GRAPH_OPTIONS
