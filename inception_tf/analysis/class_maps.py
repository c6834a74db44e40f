"""Where in an image a class is seen: class activation maps and Grad-CAM. On any of Keras's backends."""

import keras
import numpy as np

from inception_tf.analysis.profile import GLOBAL_POOLINGS
from inception_tf.errors import UsageError
from inception_tf.models.blocks import Repeat, Residual, Scope
from inception_tf.models.model import check_model, end_points

HARMLESS = (keras.layers.Dropout, keras.layers.Flatten, keras.layers.Identity, keras.layers.Reshape)


def class_activation_maps(model, images, classes=None, jit_compile=False):
    """The class activation maps of images: how much every place of the last map adds to a class's logit.

    The network must end in global average pooling and one linear layer, or the other way round. The logit then is the
    mean of the map that the linear layer gives at every place ("Learning Deep Features for Discriminative
    Localization", arXiv 1512.04150), bias included: an identity, not an approximation.

    Args:
        model: a model of this library with its classifier.
        images: float32 N×H×W×C, preprocessed.
        classes: the indices of k classes, or an array N×k of them for every image its own. None: all.
        jit_compile: whether to have XLA compile it (on TensorFlow; JAX decides itself).

    Returns:
        A float32 array N×h×w×k; its mean over h and w is the logits.

    Raises:
        UsageError: the model has fully connected layers ahead of its classifier, or no classifier; a class that it does
            not have.
    """
    maps_model = class_map_model(model)
    indices = _indices(model, classes, len(images))
    maps = _run(maps_model, images, jit_compile)["maps"]
    return np.take_along_axis(maps, indices[:, None, None, :], axis=3)


def class_map_model(model):
    """A model that shares the weights of `model`, from the same images to a dict: "maps", float32 N×h×w×classes, and
    "logits", N×classes, which are their means. Arguments and errors as `class_activation_maps`."""
    features, linear, size, pooled_first, logits = _head(model)
    maps = ClassMaps(linear, size, pooled_first, name="class_maps")(features)
    return keras.Model(model.inputs[0], {"maps": maps, "logits": logits}, name=f"{model.name}_class_maps")


def class_map_end_point(model):
    """The name of the end point whose places the class activation maps have. Errors as `class_activation_maps`."""
    features = _head(model)[0]
    return next(name for name, tensor in end_points(model).items() if tensor is features)


def grad_cam(model, images, classes, at, jit_compile=False):
    """Grad-CAM: the channels of an end point weighted by how much the class's logit gains from each, on average.

    "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (arXiv 1610.02391): the weighted
    sum of the channels, negative values set to zero. At the map that is pooled it is the class activation map without
    its bias, over the number of places, cut at zero.

    Args:
        model: a model of this library with its classifier.
        images: float32 N×H×W×C, preprocessed.
        classes: the indices of k classes, or an array N×k of them for every image its own.
        at: an end point that has a map and that the logits depend on, such as "Mixed_6e".
        jit_compile: whether to have XLA compile it (on TensorFlow; JAX decides itself).

    Returns:
        A float32 array N×h×w×k, not negative.

    Raises:
        UsageError: no such end point, or none with a map on the way to the logits; lists those there are. A class
            that the model does not have.
    """
    trunk, rest = split(model, at)
    indices = _indices(model, classes, len(images))
    features = _run(trunk, images, jit_compile).astype("float32")  # bfloat16 where the model computes in that

    def score(x, mask):
        return keras.ops.sum(keras.ops.cast(rest(x, training=False), "float32") * mask)

    gradient = _gradient(score, jit_compile)
    maps = []
    for chosen in indices.T:
        weights = gradient(features, np.eye(rest.output_shape[-1], dtype="float32")[chosen]).mean((1, 2), keepdims=True)
        maps.append(np.maximum((weights * features).sum(axis=-1), 0))
    return np.stack(maps, axis=-1).astype("float32")


def split(model, at):
    """A model in two: from the images to the end point `at`, and from there to the logits. Errors as `grad_cam`."""
    tensors, logits = end_points(model), _logits(model)
    possible = _with_map(model, tensors, logits)
    if at not in possible:
        what = "has no end point" if at not in tensors else "has no map on the way to its logits at"
        raise UsageError(f"{model.name} {what} {at}. It has: {', '.join(possible)}.")
    trunk = keras.Model(model.inputs[0], tensors[at])
    for layer in model.layers:
        names = [f"{layer.name}/{part.name}" for part in layer.layers[:-1]] if isinstance(layer, Repeat) else []
        if at in names:  # the way on from the inside of a scope is not part of the model's graph
            x = start = keras.Input(tensors[at].shape[1:])
            for part in layer.layers[names.index(at) + 1 :]:
                x = part(x)
            return trunk, keras.Model(start, keras.Model(layer.output, logits)(x))
    return trunk, keras.Model(tensors[at], logits)


@keras.saving.register_keras_serializable(package="inception_tf")
class ClassMaps(keras.layers.Layer):
    """What the classifier `linear` says at every place of a map, float32.

    Args:
        linear: the layer, whose weights are shared.
        size: (height, width) of the part of the map that is pooled; None for all of it.
        pooled_first: whether the pooling comes ahead of `linear` in the network.
    """

    def __init__(self, linear, size, pooled_first, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.linear, self.size, self.pooled_first = linear, size, pooled_first

    def build(self, input_shape):
        pass

    def call(self, features):
        height, width = self.size
        features = features[:, :height, :width]
        if not self.pooled_first:
            return keras.ops.cast(self.linear(features), "float32")
        kernel = keras.ops.cast(self.linear.kernel, "float32")
        maps = keras.ops.matmul(features, keras.ops.reshape(kernel, kernel.shape[-2:]))
        return maps + keras.ops.cast(self.linear.bias, "float32") if self.linear.use_bias else maps


def _logits(model):
    if not check_model(model).has_top:
        raise UsageError(f"{model.name} has no classifier, so no class to explain: it was made with include_top=False.")
    logits = model.logits
    if len(logits.shape) != 2:
        raise UsageError(
            f"The output of {model.name} is a map of scores already: it was made with spatial_squeeze=False."
        )
    return logits


def _head(model):
    """(features, linear layer, (height, width) that is pooled, whether that comes first, logits) of a model."""
    logits = _logits(model)
    pool = linear = found = None
    for layer, tensor in _backwards(model, logits):
        if pool is None and isinstance(layer, (keras.layers.AveragePooling2D, keras.layers.GlobalAveragePooling2D)):
            pool, pooled_first = layer, linear is not None
        elif linear is None and hasattr(layer, "kernel"):
            linear = layer
        elif not isinstance(layer, HARMLESS):
            break
        if pool and linear and tensor is not None and (_is_linear(linear) or not pooled_first):
            size = (None, None) if isinstance(pool, GLOBAL_POOLINGS) else pool.pool_size
            found = tensor, linear, size, pooled_first, logits
            if tuple(tensor.shape[1:3]) != (1, 1):
                return found
            pool = None  # it squeezed a map of one place; the pooling itself may come ahead
    if found:
        return found
    raise UsageError(
        f"{model.name} does not end in global average pooling and one linear layer: it has no class activation maps. "
        f"Grad-CAM works at any end point: --at {_with_map(model, end_points(model), logits)[-1]}"
    )


def _is_linear(layer):
    """Whether a layer behind the pooling maps a vector of channels linearly."""
    one_place = isinstance(layer, keras.layers.Dense) or getattr(layer, "kernel_size", None) == (1, 1)
    normalized = getattr(layer, "batch_norm", None) is not None
    return one_place and not normalized and layer.activation is keras.activations.linear


def _backwards(model, tensor):
    """The layers that lead to a tensor, the last first, each with the tensor it takes, or None within a scope."""
    made_by = {id(layer.output): layer for layer in model.layers}
    while id(tensor) in made_by:
        layer = made_by[id(tensor)]
        if isinstance(layer, Scope) and not isinstance(layer, Residual):
            steps = layer.steps
            for i, step in reversed(list(enumerate(steps))):
                yield step, None if i else layer.input
        else:
            yield layer, layer.input
        if isinstance(layer.input, list):
            return
        tensor = layer.input


def _with_map(model, tensors, logits):
    """The end points with a map of several places, or of places not known, that the logits depend on, in order."""
    made_by = {id(layer.output): layer for layer in model.layers}
    on_the_way, waiting = set(), [logits]
    while waiting:
        tensor = waiting.pop()
        on_the_way.add(id(tensor))
        layer = made_by.get(id(tensor))
        if layer is None or isinstance(layer, keras.layers.InputLayer):
            continue
        if isinstance(layer, Repeat):
            on_the_way |= {id(tensors[f"{layer.name}/{part.name}"]) for part in layer.layers}
        waiting += keras.tree.flatten(layer.input)
    return [
        name
        for name, tensor in tensors.items()
        if id(tensor) in on_the_way and len(tensor.shape) == 4 and tuple(tensor.shape[1:3]) != (1, 1)
    ]


def _indices(model, classes, count):
    """The classes as an integer array N×k."""
    known = _logits(model).shape[-1]
    indices = np.arange(known) if classes is None else np.asarray(classes)
    if indices.ndim not in (1, 2) or indices.dtype.kind not in "iu" or indices.ndim == 2 and len(indices) != count:
        raise UsageError(f"classes are k indices, or k for each of {count} images. Received: {classes!r}")
    if indices.size and not 0 <= indices.min() <= indices.max() < known:
        raise UsageError(f"{model.name} has the classes 0 to {known - 1}. Received: {classes!r}")
    return np.broadcast_to(indices, (count, indices.shape[-1]))


def _run(model, images, jit_compile):
    """What a model answers, as NumPy arrays."""
    if jit_compile:
        model.jit_compile = True
        return keras.tree.map_structure(np.asarray, model.predict_on_batch(images))
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(np.asarray(images, "float32"), training=False))


def _gradient(function, jit_compile):
    """From a function of an array and constants to a number: the function to its gradient, NumPy arrays throughout."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        def gradient(x, *constants):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = function(x, *constants)
            return tape.gradient(value, x)

        run = tf.function(gradient, jit_compile=True) if jit_compile else gradient
        return lambda *arrays: run(*map(tf.convert_to_tensor, arrays)).numpy()
    if backend == "jax":
        import jax

        return lambda *arrays: np.asarray(jax.grad(function)(*map(keras.ops.convert_to_tensor, arrays)))

    def gradient(x, *constants):
        x = keras.ops.convert_to_tensor(x).detach().requires_grad_()
        function(x, *map(keras.ops.convert_to_tensor, constants)).backward()
        return keras.ops.convert_to_numpy(x.grad)

    return gradient
