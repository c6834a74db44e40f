"""What a network costs layer by layer, and the receptive fields of its feature maps. Read off the layers, not run.

Receptive fields as in Araujo, Norris, Sim: "Computing Receptive Fields of Convolutional Neural Networks" (Distill,
2019), whose published table for TF-Slim's networks these agree with.
"""

import dataclasses
import math
from dataclasses import dataclass

import keras

from inception_tf.errors import UsageError, raising
from inception_tf.models import blocks

# Layers that leave every position of a feature map where it is and compute next to nothing.
POINTWISE = (
    keras.layers.Activation,
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.Identity,
    keras.layers.ReLU,
    keras.layers.Rescaling,
)
CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
POOLINGS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
GLOBAL_POOLINGS = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
SUMS = (keras.layers.Add, keras.layers.Multiply, keras.layers.Average, keras.layers.Maximum)


@dataclass(frozen=True)
class FeatureMap:
    """The feature map of one image, and where in the image its positions lie. Pairs are (height, width).

    Attributes:
        shape: (height, width, channels), or (channels,) once the positions are gone.
        stride: pixels between the receptive fields of neighboring positions; 0 where there is one position in all.
        low, high: the first and the last pixel of position 0's receptive field. Pixels outside the image are padding.
    """

    shape: tuple
    stride: tuple = (1, 1)
    low: tuple = (0, 0)
    high: tuple = (0, 0)

    @property
    def receptive_field(self):
        """(height, width) of a position's receptive field, padding included."""
        return tuple(high - low + 1 for low, high in zip(self.low, self.high))

    @property
    def center(self):
        """(y, x) of the middle of position 0's receptive field, in pixels; the middle of the first pixel is 0."""
        return tuple((low + high) / 2 for low, high in zip(self.low, self.high))

    def without_padding(self, image):
        """The positions that no padding of any layer reached, a range for each axis, on an image of (height, width)."""
        axes = zip(self.shape, image, self.stride, self.low, self.high)
        return tuple(
            range(max(0, -(low // (step or 1))), min(count, (side - 1 - high) // (step or 1) + 1))
            for count, side, step, low, high in axes
        )

    def window(self, shape, kernel, strides, dilation=(1, 1), before=(0, 0)):
        """The feature map of that `shape` that a sliding window makes of this one, padded by `before` ahead of it."""
        axes = []
        for step, low, high, size, move, apart, pad in zip(
            self.stride, self.low, self.high, kernel, strides, dilation, before
        ):
            axes.append((step * move, low - pad * step, high + (apart * (size - 1) - pad) * step))
        return FeatureMap(tuple(shape), *zip(*axes))

    def pooled(self, shape):
        """What is made of all positions of this feature map at once."""
        if len(self.shape) == 1:
            return dataclasses.replace(self, shape=tuple(shape))
        high = tuple(high + (side - 1) * step for high, side, step in zip(self.high, self.shape, self.stride))
        return FeatureMap(tuple(shape), (0, 0), self.low, high)


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs on one image.

    Attributes:
        path: its name under those of its scopes.
        end_point: the end point it is a part of.
        branch: the branch of the block it is a part of, such as "Branch_1", or None.
        kind: "3×3" for a convolution, "3×3 separable", "3×3 depthwise", "fully connected", "pooling", "other".
        parameters: the numbers in its weights, its batch norm's moving averages included.
        multiply_adds: of a convolution or a fully connected layer.
        activation_bytes: of its output as float32. Batch norm, activations, sums and concatenations are counted as
            done in place: 0.
        output: its output, a `FeatureMap`.
    """

    path: str
    end_point: str
    branch: str | None
    kind: str
    parameters: int
    multiply_adds: int
    activation_bytes: int
    output: FeatureMap


@dataclass(frozen=True)
class Block:
    """A layer with branches side by side: its `path`, its `end_point`, the `layer`, and its input `FeatureMap`."""

    path: str
    end_point: str
    layer: blocks.Scope
    input: FeatureMap


@dataclass(frozen=True)
class Profile:
    """What a model costs.

    Attributes:
        name: of its network, or the model's own where it is not of this library.
        input: the shape of the image, (height, width, channels).
        layers: a `LayerCost` each, in order.
        end_points: a dict from the end points' names, as `models.model.end_points` has them but for the ResNets' inner
            ones, to their `FeatureMap`.
        units: the same of the ResNets' residual units.
        branches: a dict from (end point, branch) to the `FeatureMap` of the branch.
        blocks: the blocks with branches, in order.
    """

    name: str
    input: tuple
    layers: tuple
    end_points: dict
    units: dict
    branches: dict
    blocks: tuple

    def by(self, attribute):
        """The layers in groups: a dict from the values of an attribute of `LayerCost` to the layers that have it."""
        groups = {}
        for layer in self.layers:
            groups.setdefault(getattr(layer, attribute), []).append(layer)
        return groups


def total(layers, cost):
    """The sum of a `cost` ("parameters", "multiply_adds", "activation_bytes") over layers."""
    return sum(getattr(layer, cost) for layer in layers)


def profile(model, size=None):
    """What a Keras model costs: parameters and multiply-adds of every layer, and receptive fields.

    Args:
        model: a model of this library, or a Keras model of layers as they have: convolutions, poolings, fully connected
            layers, batch norm, sums and concatenations.
        size: (height, width) of the image, for a model that takes any.

    Returns:
        A `Profile`.

    Raises:
        UsageError: the image's size is not known, or not the model's; the image is too small for a layer; a layer whose
            costs are not known.
    """
    own = model.input_shape[1:] if isinstance(model.input_shape, tuple) else ()
    if len(own) != 3 or own[2] is None:
        raise UsageError(f"Expected a model of images, N×H×W×C. Received: input {model.input_shape}")
    shape = (*(size or own[:2]), own[2])
    if None in shape:
        raise UsageError(f"{model.name} takes images of any size: say of which.")
    if any(side not in (None, wanted) for side, wanted in zip(own, shape)):
        raise UsageError(f"{model.name} takes images of {own[0]}×{own[1]}. Received: {shape[0]}×{shape[1]}")
    walk = _Walk()
    with raising(UsageError, f"{model.name} cannot take images of {shape[0]}×{shape[1]}", ValueError):
        walk.model(model, FeatureMap(shape))
    name = model.card.network if getattr(model, "card", None) else model.name
    return Profile(name, shape, tuple(walk.layers), walk.end_points, walk.units, walk.branches, tuple(walk.blocks))


class _Walk:
    """Walks a model's layers in the order of the data, and records what each costs."""

    def __init__(self):
        self.layers, self.blocks, self.branches, self.end_points, self.units = [], [], {}, {}, {}

    def model(self, model, image):
        """Records the layers of a model."""
        maps = {id(model.inputs[0]): image}
        tangled = UsageError(f"{model.name} is not a chain of layers that are each used once: its costs are not known.")
        for layer in model.layers:
            if isinstance(layer, keras.layers.InputLayer):
                continue
            try:
                inputs, output = [maps[id(tensor)] for tensor in keras.tree.flatten(layer.input)], layer.output
            except (AttributeError, KeyError):
                raise tangled from None
            maps[id(output)] = self.top(layer, inputs)
        if id(model.outputs[0]) not in maps:
            raise tangled

    def top(self, layer, inputs):
        """The output of a layer of the model itself."""
        x, *_ = inputs
        if isinstance(layer, blocks.Auxiliary):
            return x
        if isinstance(layer, blocks.Repeat):
            for part in layer.layers:
                self.end_point = f"{layer.name}/{part.name}"
                x = self.end_points[self.end_point] = self.one(part, x, layer.name)
            return x
        self.end_point = layer.name
        if isinstance(layer, (*SUMS, keras.layers.Concatenate)):
            x = joined(inputs, isinstance(layer, keras.layers.Concatenate))
        elif isinstance(layer, blocks.PooledBlocks):
            x = joined(inputs)
            x = x.pooled((1, 1, x.shape[-1]))
        else:
            x = self.one(layer, x)
        self.end_points[layer.name] = x
        return x

    def one(self, layer, x, path="", branch=None):
        """The output of a layer under `path` on the feature map `x`."""
        path = f"{path}/{layer.name}" if path else layer.name
        if isinstance(layer, blocks.Residual):
            start = self.one(layer.preact, x, path, branch) if layer.preact else x
            shortcut = x
            if layer.shortcut:
                shortcut = self.one(layer.shortcut, layer.shortcut_input(x, start), path, branch)
            x = joined([self.steps(layer, start, path, branch), shortcut], concatenated=False)
            if blocks.is_unit(layer):
                self.units[path] = x
            return x
        if isinstance(layer, blocks.Scope):
            return self.steps(layer, x, path, branch)
        kind, out, multiply_adds = leaf(layer, x, path)
        size = 0 if kind == "other" else 4 * math.prod(out.shape)
        self.layers.append(
            LayerCost(path, self.end_point, branch, kind, layer.count_params(), multiply_adds, size, out)
        )
        return out

    def steps(self, scope, x, path, branch):
        """The output of the steps of a scope."""
        for step in scope.steps:
            if not isinstance(step, list):
                x = self.one(step, x, path, branch)
            elif all(isinstance(layer, blocks.Scope) for layer in step):
                self.blocks.append(Block(path, self.end_point, scope, x))
                maps = {(self.end_point, layer.name): self.one(layer, x, path, layer.name) for layer in step}
                self.branches.update(maps)
                x = joined(list(maps.values()))
            else:
                x = joined([self.one(layer, x, path, branch) for layer in step])
        return x


def joined(maps, concatenated=True):
    """Feature maps of one size concatenated on the channels, or added: the receptive field covers those of all."""
    first = maps[0]
    shape = (*first.shape[:-1], sum(x.shape[-1] for x in maps)) if concatenated else first.shape
    low = tuple(map(min, zip(*(x.low for x in maps))))
    high = tuple(map(max, zip(*(x.high for x in maps))))
    return FeatureMap(shape, first.stride, low, high)


def leaf(layer, x, path):
    """The kind, the output `FeatureMap` and the multiply-adds of a layer that has no layers with kernels in it."""
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise UsageError(f"Feature maps are expected with the channels last. Received: {path}")
    if isinstance(layer, CONVOLUTIONS):
        return convolution(layer, x)
    if isinstance(layer, keras.layers.Dense):
        if len(x.shape) == 3 and x.shape[:2] != (1, 1):
            raise UsageError(f"The costs of a Dense on a feature map are not known: {path}.")
        return "fully connected", x.pooled((*x.shape[:-1], layer.units)), math.prod(layer.kernel.shape)
    shape = tuple(layer.compute_output_shape((None, *x.shape))[1:])
    if isinstance(layer, POOLINGS):
        return "pooling", windowed(layer, x, shape, layer.pool_size), 0
    if isinstance(layer, GLOBAL_POOLINGS):
        return "pooling", x.pooled(shape), 0
    if isinstance(layer, keras.layers.Flatten) or isinstance(layer, keras.layers.Reshape) and len(shape) == 1:
        return "other", x.pooled(shape), 0
    if isinstance(layer, keras.layers.ZeroPadding2D):
        before = tuple(pad[0] for pad in layer.padding)
        return "other", x.window(shape, (1, 1), (1, 1), before=before), 0
    if isinstance(layer, POINTWISE):
        return "other", dataclasses.replace(x, shape=shape), 0
    raise UsageError(f"The costs of a {type(layer).__name__} are not known: {path}.")


def convolution(layer, x):
    """`leaf` of a convolution."""
    squeezed = isinstance(layer, blocks.SqueezedConv2D)
    rule = blocks.Conv2D if squeezed else type(layer)
    shape = tuple(rule.compute_output_shape(layer, (None, *x.shape))[1:])
    out = windowed(layer, x, shape, layer.kernel_size)
    kernels = [weight for weight in layer._trainable_variables if weight.name.endswith("kernel")]
    multiply_adds = shape[0] * shape[1] * sum(math.prod(kernel.shape) for kernel in kernels)
    suffix = {keras.layers.SeparableConv2D: " separable", keras.layers.DepthwiseConv2D: " depthwise"}
    kind = "×".join(map(str, layer.kernel_size)) + suffix.get(type(layer), "")
    return kind, out.pooled(shape[2:]) if squeezed else out, multiply_adds


def windowed(layer, x, shape, kernel):
    """The feature map of a convolution or a pooling."""
    dilation = getattr(layer, "dilation_rate", (1, 1))
    before = (0, 0)
    if isinstance(layer, blocks.Conv2DSame) and layer.strides != (1, 1):
        before = tuple((size - 1) // 2 for size in kernel)
    elif layer.padding == "same":
        before = tuple(
            max((out - 1) * step + apart * (size - 1) + 1 - side, 0) // 2
            for out, step, apart, size, side in zip(shape, layer.strides, dilation, kernel, x.shape)
        )
    return x.window(shape, kernel, layer.strides, dilation, before)
