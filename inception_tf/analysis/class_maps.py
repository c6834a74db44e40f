"""Where in an image the evidence for a class is: class activation maps and Grad-CAM. On any of Keras's backends."""

import keras
import numpy as np

from inception_tf.analysis.profile import GLOBAL_POOLINGS
from inception_tf.errors import UsageError
from inception_tf.models.blocks import Scope, stages
from inception_tf.models.model import check_model, end_points

POOLINGS = (keras.layers.AveragePooling2D, *GLOBAL_POOLINGS)
# Layers of a head that compute nothing.
PASSIVE = (keras.layers.Dropout, keras.layers.Flatten, keras.layers.Identity, keras.layers.Reshape)


def class_activation_maps(model, images, classes=None):
    """The class activation maps of images: how much every position of the last feature map adds to a class's logit.

    The network must end in global average pooling and one linear layer, or the other way round. The logit then is the
    mean of what the linear layer gives at every position ("Learning Deep Features for Discriminative
    Localization", arXiv 1512.04150), bias included: an identity, not an approximation.

    Args:
        model: a model of this library with its classifier.
        images: float32 N×H×W×C, preprocessed.
        classes: the indices of k classes, or an array N×k of them for every image its own. None: all.

    Returns:
        A float32 array N×h×w×k; its mean over h and w is the logits.

    Raises:
        UsageError: the model has fully connected layers ahead of its classifier, or no classifier; a class that it does
            not have.
    """
    maps_model = class_map_model(model)
    indices = _indices(model, classes, len(images))
    maps = _run(maps_model, images)["maps"]
    return np.take_along_axis(maps, indices[:, None, None, :], axis=3)


def class_map_model(model):
    """A model that shares the weights of `model`, from the same images to a dict: "maps", float32 N×h×w×classes, and
    "logits", N×classes, which are their means. Arguments and errors as `class_activation_maps`."""
    maps = ClassMaps(*_head(model), name="class_maps")(model.backbone_output)
    return keras.Model(model.inputs[0], {"maps": maps, "logits": model.logits}, name=f"{model.name}_class_maps")


def grad_cam(model, images, classes, at):
    """Grad-CAM: the channels of an end point weighted by how much the class's logit gains from each, on average.

    "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (arXiv 1610.02391): the weighted
    sum of the channels, negative values set to zero. At the feature map that is pooled it is the class activation map
    without its bias, over the number of positions, cut at zero.

    Args:
        model: a model of this library with its classifier.
        images: float32 N×H×W×C, preprocessed.
        classes: the indices of k classes, or an array N×k of them for every image its own.
        at: an end point that has several positions, such as "Mixed_6e".

    Returns:
        A float32 array N×h×w×k, not negative.

    Raises:
        UsageError: no such end point, or one without positions; lists those that have some. A class that the model
            does not have.
    """
    backbone, rest = split(model, at)
    indices = _indices(model, classes, len(images))
    features = _run(backbone, images).astype("float32")  # bfloat16 where the model computes in that

    def score(x, mask):
        return keras.ops.sum(keras.ops.cast(rest(x, training=False), "float32") * mask)

    maps, one_hot = [], np.eye(rest.output_shape[-1], dtype="float32")
    for chosen in indices.T:
        weights = _gradient(score, features, one_hot[chosen]).mean((1, 2), keepdims=True)
        maps.append(np.maximum((weights * features).sum(axis=-1), 0))
    return np.stack(maps, axis=-1).astype("float32")


def split(model, at):
    """A model in two: from the images to the end point `at`, and from there to the logits. Errors as `grad_cam`."""
    logits, tensors = _logits(model), end_points(model)
    inside = {name: layer for layer in model.layers for name in stages(layer)}
    main = {*end_points(model, inner=False), *inside}  # a convolution of a residual unit has a way around it
    spatial = [n for n, x in tensors.items() if n in main and len(x.shape) == 4 and tuple(x.shape[1:3]) != (1, 1)]
    if at not in spatial:
        what = "has no feature map of several positions at" if at in main else "has no end point"
        if at in tensors and at not in main:
            what = "has a way around"
        raise UsageError(f"{model.name} {what} {at}. It has: {', '.join(spatial)}.")
    backbone = keras.Model(model.inputs[0], tensors[at])
    if at in inside and tensors[at] is not inside[at].output:
        # The way on from the inside of a scope is not part of the model's graph.
        x = start = keras.Input(tensors[at].shape[1:])
        parts = stages(inside[at])
        for part in list(parts.values())[list(parts).index(at) + 1 :]:
            x = part(x)
        return backbone, keras.Model(start, keras.Model(inside[at].output, logits)(x))
    return backbone, keras.Model(tensors[at], logits)


@keras.saving.register_keras_serializable(package="inception_tf")
class ClassMaps(keras.layers.Layer):
    """What the classifier `linear` says at every position of a feature map, float32.

    Args:
        linear: the layer, whose weights are shared.
        size: (height, width) of the part of the feature map that is pooled; None for all of it.
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
        raise UsageError(f"{model.name} has no classifier to explain: it was built with include_top=False.")
    logits = model.logits
    if model.card.options.get("head_blocks"):
        raise UsageError(
            f"{model.name} classifies by several blocks (head_blocks): no feature map has all the evidence. "
            "Fine-tuned by --recipe slim from other weights it has one."
        )
    if len(logits.shape) != 2:
        raise UsageError(
            f"The output of {model.name} has scores by position already: it was built with spatial_squeeze=False."
        )
    return logits


def _head(model):
    """(linear layer, (height, width) that is pooled, whether that comes first) of a model that ends in these two."""
    tensor, layers = _logits(model), []
    made_by = {id(layer.output): layer for layer in model.layers}
    while tensor is not model.backbone_output:
        layer = made_by[id(tensor)]
        layers = [*(layer.steps if isinstance(layer, Scope) else [layer]), *layers]
        tensor = layer.input
    poolings = [layer for layer in layers if isinstance(layer, POOLINGS)]
    others = [layer for layer in layers if not isinstance(layer, POOLINGS + PASSIVE)]
    if poolings and len(others) == 1:
        (linear,), pooling = others, poolings[0]  # what pools once more squeezes a single position
        pooled_first = layers.index(pooling) < layers.index(linear)
        if linear.activation is keras.activations.linear or not pooled_first:
            return linear, getattr(pooling, "pool_size", (None, None)), pooled_first
    raise UsageError(
        f"{model.name} does not end in global average pooling and one linear layer: it has no class activation maps. "
        f"Grad-CAM works at any end point: --at {backbone_end_point(model)}"
    )


def backbone_end_point(model):
    """The name of the end point that is the last feature map, whose positions the class activation maps have."""
    return next(name for name, tensor in end_points(model, inner=False).items() if tensor is model.backbone_output)


def _indices(model, classes, count):
    """The classes as an integer array N×k."""
    known = _logits(model).shape[-1]
    indices = np.arange(known) if classes is None else np.asarray(classes)
    if indices.ndim not in (1, 2) or indices.dtype.kind not in "iu" or indices.ndim == 2 and len(indices) != count:
        raise UsageError(f"classes are k indices, or k for each of {count} images. Received: {classes!r}")
    if indices.size and not 0 <= indices.min() <= indices.max() < known:
        raise UsageError(f"{model.name} has the classes 0 to {known - 1}. Received: {classes!r}")
    return np.broadcast_to(indices, (count, indices.shape[-1]))


def _run(model, images):
    """What a model answers, as NumPy arrays."""
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(np.asarray(images, "float32"), training=False))


def _gradient(function, x, constant):
    """The gradient of a function of two arrays to a number by the first, as a NumPy array."""
    x, constant = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(constant)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x, constant)
        return tape.gradient(value, x).numpy()
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(function)(x, constant))
    x = x.detach().requires_grad_()
    function(x, constant).backward()
    return keras.ops.convert_to_numpy(x.grad)
