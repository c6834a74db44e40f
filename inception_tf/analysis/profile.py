"""What a network costs layer by layer, and what its maps see of the image. Read off the layers: nothing is run.

Receptive fields as in Araujo, Norris, Sim: "Computing Receptive Fields of Convolutional Neural Networks" (Distill,
2019), whose published table for TF-Slim's networks these agree with.
"""

import dataclasses
import math
from dataclasses import dataclass

import keras

from inception_tf.errors import UsageError
from inception_tf.models.blocks import (
    Auxiliary,
    AuxPooling2D,
    Conv2D,
    Conv2DSame,
    Repeat,
    Residual,
    Scope,
    SqueezedConv2D,
)

# Layers that leave every place of a map where it is and compute next to nothing.
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
class Map:
    """A feature map of one image, and where in the image its places lie. Pairs are (height, width).

    Attributes:
        shape: (height, width, channels), or (channels,) once the places are gone.
        stride: pixels between the fields of neighbouring places; 0 where there is one place, for all of the image.
        low, high: the first and the last pixel that place 0 sees. Pixels outside the image are padding.
        inner: (first, last) place of each axis that padding had no part in; last < first where there is none.
    """

    shape: tuple
    stride: tuple = (1, 1)
    low: tuple = (0, 0)
    high: tuple = (0, 0)
    inner: tuple = None

    def __post_init__(self):
        if self.inner is None:
            object.__setattr__(self, "inner", tuple((0, side - 1) for side in self.shape[:2]))

    @property
    def receptive_field(self):
        """(height, width) of what a place sees, padding included."""
        return tuple(high - low + 1 for low, high in zip(self.low, self.high))

    @property
    def center(self):
        """(y, x) of the middle of what place 0 sees, in pixels; the middle of the first pixel is 0."""
        return tuple((low + high) / 2 for low, high in zip(self.low, self.high))

    def window(self, shape, kernel, strides, dilation=(1, 1), before=(0, 0)):
        """The map of that `shape` that a sliding window makes of this one, `before` places of padding ahead of it."""
        axes = []
        for axis in (0, 1):
            step, (first, last), pad = self.stride[axis], self.inner[axis], before[axis]
            reach = dilation[axis] * (kernel[axis] - 1)
            inner = (-(-(first + pad) // strides[axis]), (last + pad - reach) // strides[axis])
            low, high = self.low[axis] - pad * step, self.high[axis] + (reach - pad) * step
            axes.append((step * strides[axis], low, high, (inner[0], min(inner[1], shape[axis] - 1))))
        return Map(tuple(shape), *zip(*axes))

    def whole(self, shape):
        """What is made of all places of this map at once."""
        if len(self.shape) == 1:
            return dataclasses.replace(self, shape=tuple(shape))
        sides = self.shape[:2]
        high = tuple(h + (side - 1) * step for h, side, step in zip(self.high, sides, self.stride))
        inner = tuple((0, 0) if span == (0, side - 1) else (0, -1) for span, side in zip(self.inner, sides))
        return Map(tuple(shape), (0, 0), self.low, high, inner)


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
        map: its output, a `Map`.
    """

    path: str
    end_point: str
    branch: str | None
    kind: str
    parameters: int
    multiply_adds: int
    activation_bytes: int
    map: Map


@dataclass(frozen=True)
class Block:
    """A layer with branches side by side: `path`, `end_point`, the `layer`, and its input `Map`."""

    path: str
    end_point: str
    layer: Scope
    input: Map


@dataclass(frozen=True)
class Profile:
    """What a model costs.

    Attributes:
        name: of its network, or the model's own where it is not of this library.
        input: the shape of the image, (height, width, channels).
        layers: a `LayerCost` each, in order.
        end_points: a dict from the end points' names, as `models.model.end_points` has them, to their `Map`.
        branches: a dict from (end point, branch) to the `Map` of the branch, the last of a scope of units.
        blocks: the blocks with branches, in order.
    """

    name: str
    input: tuple
    layers: tuple
    end_points: dict
    branches: dict
    blocks: tuple

    def by(self, key):
        """The layers in groups: a dict from what `key`, an attribute or a function of a layer, says to their list."""
        key = key if callable(key) else lambda layer, name=key: getattr(layer, name)
        groups = {}
        for layer in self.layers:
            groups.setdefault(key(layer), []).append(layer)
        return groups


def total(layers, cost):
    """The sum of a `cost` ("parameters", "multiply_adds", "activation_bytes") over layers."""
    return sum(getattr(layer, cost) for layer in layers)


def profile(model, size=None):
    """The `Profile` of a Keras model.

    Args:
        model: a model of this library, or a Keras model of layers as they have: convolutions, poolings, fully connected
            layers, batch norm, sums and concatenations.
        size: (height, width) of the image, for a model that takes any.

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
    try:
        ends = walk.model(model, Map(shape))
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        reason = str(error).splitlines()[0]
        raise UsageError(f"{model.name} cannot take images of {shape[0]}×{shape[1]}: {reason}") from error
    name = model.card.network if getattr(model, "card", None) else model.name
    return Profile(name, shape, tuple(walk.layers), ends, walk.branches, tuple(walk.blocks))


class _Walk:
    """Goes through a model's layers as an image does, and notes what each costs."""

    def __init__(self):
        self.layers, self.blocks, self.branches, self.end_points = [], [], {}, {}

    def model(self, model, image):
        """The end points of a model, a dict from names to maps."""
        maps = {id(model.inputs[0]): image}
        tangled = UsageError(f"{model.name} is no chain of layers that are used once each: its costs are not known.")
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
        return self.end_points

    def top(self, layer, inputs):
        """The map that a layer of the model itself makes of its input maps."""
        if isinstance(layer, Auxiliary):
            return inputs[0]
        if isinstance(layer, Repeat):
            (x,) = inputs
            for part in layer.layers:
                self.end_point = f"{layer.name}/{part.name}"
                x = self.end_points[self.end_point] = self.one(part, x, layer.name)
            return x
        self.end_point = layer.name
        if isinstance(layer, (*SUMS, keras.layers.Concatenate)):
            x = joined(inputs, isinstance(layer, keras.layers.Concatenate))
        else:
            x = self.one(layer, *inputs)
        self.end_points[layer.name] = x
        return x

    def one(self, layer, x, path="", branch=None):
        """The map that a layer under `path` makes of the map `x`."""
        path = f"{path}/{layer.name}" if path else layer.name
        if isinstance(layer, Residual):
            start = self.one(layer.preact, x, path, branch) if layer.preact else x
            shortcut = x
            if layer.shortcut:
                shortcut = self.one(layer.shortcut, start if isinstance(layer.shortcut, Conv2D) else x, path, branch)
            return joined([self.steps(layer, start, path, branch), shortcut], concatenated=False)
        if isinstance(layer, Scope):
            return self.steps(layer, x, path, branch)
        kind, out, multiply_adds = leaf(layer, x, path)
        size = 0 if kind == "other" else 4 * math.prod(out.shape)
        self.layers.append(
            LayerCost(path, self.end_point, branch, kind, layer.count_params(), multiply_adds, size, out)
        )
        return out

    def steps(self, scope, x, path, branch):
        for step in scope.steps:
            if not isinstance(step, list):
                x = self.one(step, x, path, branch)
            elif all(isinstance(layer, Scope) for layer in step):
                self.blocks.append(Block(path, self.end_point, scope, x))
                maps = {(self.end_point, layer.name): self.one(layer, x, path, layer.name) for layer in step}
                self.branches.update(maps)
                x = joined(list(maps.values()))
            else:
                x = joined([self.one(layer, x, path, branch) for layer in step])
        return x


def joined(maps, concatenated=True):
    """Maps of one size concatenated on the channels, or added: a place sees what it sees in any of them."""
    first = maps[0]
    shape = (*first.shape[:-1], sum(x.shape[-1] for x in maps)) if concatenated else first.shape
    low, high = (
        tuple(best(getattr(x, end)[axis] for x in maps) for axis in (0, 1))
        for end, best in (("low", min), ("high", max))
    )
    inner = tuple(
        (max(x.inner[axis][0] for x in maps), min(x.inner[axis][1] for x in maps)) for axis in range(len(first.inner))
    )
    return Map(shape, first.stride, low, high, inner)


def leaf(layer, x, path):
    """The kind, the output `Map` and the multiply-adds of a layer that has no layers with kernels in it."""
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise UsageError(f"Maps are expected with the channels last. Received: {path}")
    if isinstance(layer, CONVOLUTIONS):
        return convolution(layer, x)
    if isinstance(layer, keras.layers.Dense):
        if len(x.shape) == 3 and x.shape[:2] != (1, 1):
            raise UsageError(f"The costs of a Dense on a map are not known: {path}.")
        return "fully connected", x.whole((*x.shape[:-1], layer.units)), math.prod(layer.kernel.shape)
    shape = tuple(layer.compute_output_shape((None, *x.shape))[1:])
    if isinstance(layer, POOLINGS):
        return "pooling", windowed(layer, x, shape, layer.pool_size), 0
    if isinstance(layer, GLOBAL_POOLINGS):
        return "pooling", x.whole(shape), 0
    if isinstance(layer, keras.layers.Flatten) or isinstance(layer, keras.layers.Reshape) and len(shape) == 1:
        return "other", x.whole(shape), 0
    if isinstance(layer, keras.layers.ZeroPadding2D):
        before = tuple(pad[0] for pad in layer.padding)
        return "other", x.window(shape, (1, 1), (1, 1), before=before), 0
    if isinstance(layer, POINTWISE):
        return "other", dataclasses.replace(x, shape=shape), 0
    raise UsageError(f"The costs of a {type(layer).__name__} are not known: {path}.")


def convolution(layer, x):
    """`leaf` of a convolution."""
    rule = Conv2D if isinstance(layer, SqueezedConv2D) else type(layer)
    shape = tuple(rule.compute_output_shape(layer, (None, *x.shape))[1:])
    out = windowed(layer, x, shape, layer.kernel_size)
    kernels = [weight for weight in layer._trainable_variables if weight.name.endswith("kernel")]
    multiply_adds = shape[0] * shape[1] * sum(math.prod(kernel.shape) for kernel in kernels)
    if isinstance(layer, SqueezedConv2D):
        out = out.whole(shape[2:])
    suffix = {keras.layers.SeparableConv2D: " separable", keras.layers.DepthwiseConv2D: " depthwise"}
    kind = "×".join(map(str, layer.kernel_size)) + suffix.get(type(layer), "")
    return kind, out, multiply_adds


def windowed(layer, x, shape, kernel):
    """The map of a convolution or a pooling."""
    dilation = getattr(layer, "dilation_rate", (1, 1))
    before = (0, 0)
    if isinstance(layer, Conv2DSame) and layer.strides != (1, 1):
        before = tuple((size - 1) // 2 for size in kernel)
    elif layer.padding == "same":
        before = tuple(
            max((shape[i] - 1) * layer.strides[i] + dilation[i] * (kernel[i] - 1) + 1 - x.shape[i], 0) // 2
            for i in (0, 1)
        )
    elif isinstance(layer, AuxPooling2D) and layer.least:
        x = dataclasses.replace(x, shape=(*(max(side, layer.least) for side in x.shape[:2]), x.shape[2]))
    return x.window(shape, kernel, layer.strides, dilation, before)
