"""A fused network in plain JAX, in the forms that XLA makes the fastest programs of on a GPU.

- Kernels are stored O×H×W×I, as cuDNN reads them; XLA would transpose Keras's H×W×I×O in every call.
- The first convolution, 3×3 with strides on three colors, is one of 2×2 without strides on 16 channels: four pixels'
  colors, and zeros. Tensor cores take eight channels at a time.
- Pooling is arithmetic of shifted slices, which XLA fuses with what is around it.
"""

import contextlib
import functools

import keras
import numpy as np

from inception_tf.models.blocks import Conv2D, Mixed, PooledBlocks, Repeat, Residual, Scope, Siblings, concatenate, run
from inception_tf.models.fused import chain

STEM = 16  # channels of the first convolution


def jax_network(network, kernels="OHWI"):
    """What a fused network computes as (its weights, a pure function of them and of images).

    Args:
        network: of `fuse_for_inference`, on Keras's JAX backend.
        kernels: the order of their axes; a processor reads Keras's own, "HWIO".

    Returns:
        A dict from the variables' paths to JAX arrays in the types that the layers compute in, and a function from such
        a dict and images, N×H×W×C, to the network's outputs. Layers other than convolutions, pooling, activations and
        those that hold them run as Keras has them.
    """
    weights = {}
    steps = [(layer, _step(layer, weights, kernels)) for layer in chain(network)]

    def outputs(weights, x):
        made = {}  # by layer, for what takes several
        with precise(network):
            for layer, step in steps:
                given = [made[name] for name in layer.blocks] if isinstance(layer, PooledBlocks) else x
                x = made[layer.name] = step(weights, given)
            return x

    return weights, outputs


def precise(network):
    """The context in which JAX computes what is float32 in float32, unless `jax_default_matmul_precision` says
    otherwise: a GPU's own default is TF32, of ten bits."""
    import jax

    if network.compute_dtype != "float32" or jax.config.jax_default_matmul_precision:
        return contextlib.nullcontext()
    return jax.default_matmul_precision("highest")


def _sequence(steps, weights, kernels):
    """The function that does `steps` of a `Scope`, whose weights are added to `weights`; so are those of the others."""
    steps = [
        _together([_step(one, weights, kernels) for one in step])
        if isinstance(step, list)
        else _step(step, weights, kernels)
        for step in steps
    ]
    return lambda weights, x: functools.reduce(lambda x, step: step(weights, x), steps, x)


def _step(layer, weights, kernels):
    """The function that does what a layer does."""
    kind = type(layer)
    if kind is Conv2D and layer.batch_norm is None and layer.use_bias and layer.groups == 1:
        return _convolution(layer, weights, kernels)
    if kind in (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D):
        return _pooling(layer, weights)
    if kind in (Scope, Repeat, Mixed):
        return _sequence(layer.steps, weights, kernels)
    if kind is Siblings:
        return _siblings(layer, weights, kernels)
    if kind is Residual and layer.preact is None:
        return _residual(layer, weights, kernels)
    return _as_keras(layer, weights)


def _as_keras(layer, weights):
    """What has no form of its own here."""
    weights.update({variable.path: variable.value for variable in layer.variables})

    def call(weights, x):
        with keras.StatelessScope([(variable, weights[variable.path]) for variable in layer.variables]):
            return run(layer, x, training=False)

    return call


def _convolution(layer, weights, kernels):
    from jax import lax

    dtype, strides = layer.compute_dtype, layer.strides
    kernel = keras.ops.convert_to_numpy(layer.kernel).astype("float32")
    four = kernel.shape[:3] == (3, 3, 3) and (strides, layer.padding, layer.dilation_rate) == ((2, 2), "valid", (1, 1))
    kernel = kernel.transpose(3, 0, 1, 2)
    if four:
        kernel, strides = _four_as_one(kernel, np), (1, 1)
    kernel = kernel if kernels == "OHWI" else kernel.transpose(1, 2, 3, 0)
    names = layer.kernel.path, layer.bias.path
    for name, value in zip(names, (kernel, layer.bias)):
        weights[name] = keras.ops.cast(value, dtype)

    def convolution(weights, x):
        x = x.astype(dtype)
        kernel, bias = (weights[name].astype(dtype) for name in names)
        x = lax.conv_general_dilated(
            _four_as_one(x, keras.ops) if four else x,
            kernel,
            strides,
            layer.padding.upper(),
            rhs_dilation=layer.dilation_rate,
            dimension_numbers=("NHWC", kernels, "NHWC"),
        )
        return layer.activation(x + bias)

    return convolution


def _four_as_one(x, library):
    """N×H×W×3, odd sides made even with zeros, as N×H/2×W/2×STEM: the colors of 2×2 pixels, and zeros."""
    x = library.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)])
    n, height, width, channels = x.shape
    x = library.reshape(x, (n, height // 2, 2, width // 2, 2, channels))
    x = library.reshape(library.transpose(x, (0, 1, 3, 2, 4, 5)), (n, height // 2, width // 2, 4 * channels))
    return library.pad(x, [(0, 0), (0, 0), (0, 0), (0, STEM - 4 * channels)])


def _pooling(layer, weights):
    """Pooling of few pixels by slices; the mean, of float32, leaves SAME padding out."""
    from jax import lax

    largest, same = type(layer) is keras.layers.MaxPooling2D, layer.padding == "same"
    if max(layer.pool_size) > 3 or not (largest or same):
        return _as_keras(layer, weights)

    def pooling(weights, x):
        sides, dtype = x.shape[1:3], x.dtype
        margins = lax.padtype_to_pads(sides, layer.pool_size, layer.strides, layer.padding.upper())
        if same:
            x = keras.ops.pad(x, [(0, 0), *margins, (0, 0)], constant_values=-np.inf if largest else 0)
        x = x if largest else x.astype("float32")
        for axis, size, stride in zip((1, 2), layer.pool_size, layer.strides):
            last = (x.shape[axis] - size) // stride * stride
            parts = [lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(size)]
            x = functools.reduce(keras.ops.maximum if largest else keras.ops.add, parts)
        if largest:
            return x
        counts = []
        for side, size, stride, (before, _) in zip(sides, layer.pool_size, layer.strides, margins):
            starts = np.arange(x.shape[len(counts) + 1]) * stride - before
            counts.append(np.minimum(starts + size, side) - np.maximum(starts, 0))
        return (x * np.float32(1 / np.outer(*counts))[:, :, None]).astype(dtype)

    return pooling


def _siblings(layer, weights, kernels):
    opening = layer.opening and _step(layer.opening, weights, kernels)
    branches = [_step(branch, weights, kernels) for branch in layer.branches]

    def siblings(weights, x):
        parts = layer.parts(x, opening and opening(weights, x))
        return concatenate([branch(weights, part) for branch, part in zip(branches, parts)])

    return siblings


def _residual(layer, weights, kernels):
    """A unit without normalization in front; its factor is as it is."""
    steps = _sequence(layer.steps, weights, kernels)
    shortcut = layer.shortcut and _step(layer.shortcut, weights, kernels)
    return lambda weights, x: layer.added(shortcut(weights, x) if shortcut else x, steps(weights, x))


def _together(branches):
    return lambda weights, x: concatenate([branch(weights, x) for branch in branches])
