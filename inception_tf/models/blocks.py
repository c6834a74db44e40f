"""The parts all networks share: Slim's convolution, its scopes, the mixed block and the heads.

A layer here is named after its Slim scope and nested as Slim nests scopes, so that a variable's path is its name in a
Slim checkpoint but for the last word (`kernel` there is `weights`). Feature maps are N×H×W×C throughout.
"""

import contextlib
import contextvars
import itertools

import keras

from inception_tf.errors import UsageError
from inception_tf.models.initialization import initializer_for

CHANNELS = 3  # the axis that branches are concatenated on

# What `batch_norm_scope` has set.
_batch_norm = contextvars.ContextVar("batch_norm")

serializable = keras.saving.register_keras_serializable(package="inception_tf")


@serializable
class Conv2D(keras.layers.Conv2D):
    """`slim.conv2d`: a convolution, then batch norm or a bias, then the activation.

    Args:
        normalizer: arguments of `keras.layers.BatchNormalization`, or None for a bias instead.
        Everything else as in `keras.layers.Conv2D`.
    """

    def __init__(self, filters, kernel_size, *, activation="relu", normalizer=None, use_bias=None, **kwargs):
        use_bias = normalizer is None if use_bias is None else use_bias
        super().__init__(
            filters, kernel_size, activation=activation, use_bias=use_bias, data_format="channels_last", **kwargs
        )
        self.normalizer = normalizer
        self.batch_norm = batch_norm(normalizer, dtype=self.dtype_policy) if normalizer else None

    def build(self, input_shape):
        super().build(input_shape)
        if self.batch_norm:
            self.batch_norm.build(self.compute_output_shape(input_shape))

    def add_weight(self, *args, initializer=None, **kwargs):
        return super().add_weight(*args, initializer=initializer_for(initializer), **kwargs)

    def call(self, inputs, training=None):
        outputs = self.convolution_op(inputs, self.kernel)
        if self.use_bias:
            outputs = outputs + keras.ops.cast(self.bias, outputs.dtype)
        if self.batch_norm:
            outputs = self.batch_norm(outputs, training=training)
        return self.activation(outputs)

    def get_config(self):
        config = super().get_config()
        del config["data_format"]
        return {**config, "normalizer": self.normalizer}


@serializable
class Conv2DSame(Conv2D):
    """`resnet_utils.conv2d_same`: with strides, the padding is the same on all sides, whatever the image's size.

    `SAME` itself pads an even-sized feature map less on top and on the left.
    """

    def convolution_op(self, inputs, kernel):
        if self.strides == (1, 1):
            return super().convolution_op(inputs, kernel)
        margins = [((size - 1) // 2, size // 2) for size in self.kernel_size]
        inputs = keras.ops.pad(inputs, [(0, 0), *margins, (0, 0)])
        return keras.ops.conv(inputs, kernel, strides=self.strides, padding="valid", data_format=self.data_format)


@serializable
class SqueezedConv2D(Conv2D):
    """A convolution that classifies, squeezed from N×1×1×C to N×C; of a larger feature map the mean."""

    def call(self, inputs, training=None):
        return keras.ops.mean(super().call(inputs, training=training), axis=(1, 2))

    def compute_output_shape(self, input_shape):
        batch, *_, channels = super().compute_output_shape(input_shape)
        return batch, channels


class Nested(keras.layers.Layer):
    """A layer whose constructor takes layers, which are built in its scope: there their variables get their paths."""

    nested = ()  # the arguments that are layers, or lists of them

    def get_config(self):
        return {**super().get_config(), **{name: serialize(getattr(self, name)) for name in self.nested}}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, **{name: keras.saving.deserialize_keras_object(config[name]) for name in cls.nested}})


@serializable
class Scope(Nested):
    """Layers one after another under a Slim scope.

    Args:
        steps: layers; a list among them stands for layers side by side on the same input, concatenated on the channels.
    """

    nested = ("steps",)

    def __init__(self, steps, **kwargs):
        super().__init__(**kwargs)
        self.widths = [len(step) if isinstance(step, (list, tuple)) else 0 for step in steps]
        # Flat, because Keras saves the weights of a list of layers but not of a list of lists.
        self.layers = [layer for step in steps for layer in (step if isinstance(step, (list, tuple)) else [step])]

    @property
    def steps(self):
        """The constructor's `steps`: layers, and lists of layers side by side."""
        layers = iter(self.layers)
        return [[next(layers) for _ in range(width)] if width else next(layers) for width in self.widths]

    def build(self, input_shape):
        shape = input_shape
        for step in self.steps:
            build(step, shape)
            shape = step_shape(step, shape)

    def call(self, inputs, training=None):
        x = inputs
        for step in self.steps:
            if isinstance(step, list):
                x = concatenate([run(layer, x, training) for layer in step])
            else:
                x = run(step, x, training)
        return x

    def compute_output_shape(self, input_shape):
        shape = input_shape
        for step in self.steps:
            shape = step_shape(step, shape)
        return shape


@serializable
class Repeat(Scope):
    """`slim.repeat`: layers one after another, each an end point `scope/layer`."""


@serializable
class Mixed(Scope):
    """An Inception block: branches side by side on one input, concatenated on the channels.

    Args:
        branches: a list of `Scope`, or of lists of layers, which become the scopes `Branch_0`, `Branch_1`, …
    """

    nested = ("branches",)

    def __init__(self, branches, **kwargs):
        branches = [
            branch if isinstance(branch, keras.layers.Layer) else Scope(branch, name=f"Branch_{i}")
            for i, branch in enumerate(branches)
        ]
        super().__init__([branches], **kwargs)

    @property
    def branches(self):
        """The scopes `Branch_0`, `Branch_1`, …"""
        return self.layers


@serializable
class Siblings(Nested):
    """Branches side by side on one input, concatenated on the channels, of which some share their first convolution.

    Args:
        opening: the convolution that they share, or None.
        branches: a `Scope` each, of what follows.
        widths: for each branch the channels it takes of `opening`'s output, in order; 0 for one on the input itself.
    """

    nested = ("opening", "branches")

    def __init__(self, opening, branches, widths, **kwargs):
        super().__init__(**kwargs)
        self.opening, self.branches, self.widths = opening, list(branches), list(widths)

    def _shapes(self, shape):
        """The shapes of the branches' inputs."""
        return [(*shape[:CHANNELS], width) if width else shape for width in self.widths]

    def build(self, input_shape):
        build(self.opening, input_shape)
        for branch, shape in zip(self.branches, self._shapes(input_shape)):
            build(branch, shape)

    def call(self, inputs, training=None):
        parts = self.parts(inputs, self.opening and self.opening(inputs))
        return concatenate([run(branch, part, training) for branch, part in zip(self.branches, parts)])

    def parts(self, inputs, opened):
        """What each branch takes: its channels of `opened`, which `opening` made of the inputs, or these themselves."""
        ends = list(itertools.accumulate(width for width in self.widths if width))[:-1]
        parts = iter(keras.ops.split(opened, ends, axis=CHANNELS) if self.opening else ())
        return [next(parts) if width else inputs for width in self.widths]

    def compute_output_shape(self, input_shape):
        shapes = [step_shape(branch, shape) for branch, shape in zip(self.branches, self._shapes(input_shape))]
        return (*shapes[0][:CHANNELS], sum(shape[CHANNELS] for shape in shapes))

    def get_config(self):
        return {**super().get_config(), "widths": self.widths}


@serializable
class Residual(Scope):
    """A residual unit: `steps`, added to the input.

    Args:
        steps: as in `Scope`.
        preact: the batch norm that `steps` starts from, or None.
        shortcut: the layer on the other way, or None. A convolution starts from the preactivated input.
        scale: the factor on what `steps` gives. With the activation "relu6" that is then cut to [-6, 6].
        activation: that of the sum, or None.
    """

    nested = ("steps", "preact", "shortcut")

    def __init__(self, steps, *, preact=None, shortcut=None, scale=1.0, activation=None, **kwargs):
        super().__init__(steps, **kwargs)
        self.preact = preact
        self.shortcut = shortcut
        self.scale = scale
        self.activation = activation

    def build(self, input_shape):
        build([self.preact, self.shortcut], input_shape)
        super().build(input_shape)

    def call(self, inputs, training=None):
        x = run(self.preact, inputs, training) if self.preact else inputs
        shortcut = run(self.shortcut, self.shortcut_input(inputs, x), training) if self.shortcut else inputs
        return self.added(shortcut, super().call(x, training=training))

    def added(self, shortcut, residual):
        """The unit's output, of what comes by either way."""
        residual = residual if self.scale == 1 else residual * self.scale
        residual = keras.ops.clip(residual, -6.0, 6.0) if self.activation == "relu6" else residual
        return keras.activations.get(self.activation)(shortcut + residual)

    def shortcut_input(self, inputs, preactivated):
        """What the shortcut takes, of the unit's inputs and of these after `preact`."""
        return preactivated if isinstance(self.shortcut, Conv2D) else inputs

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "activation": self.activation}


def is_unit(layer):
    """Whether a layer is a residual unit of Slim's ResNets, of which all convolutions are end points."""
    return isinstance(layer, Residual) and layer.name.startswith("bottleneck_v")


def stages(layer):
    """The layers that a `Repeat` or a block of residual units is in turn: a dict from their end points' names to them.

    Of every other layer an empty one.
    """
    if isinstance(layer, Repeat):
        return {f"{layer.name}/{part.name}": part for part in layer.layers}
    units = [part.layers[0] if type(part) is Scope and part.layers else None for part in getattr(layer, "layers", ())]
    if type(layer) is not Scope or not units or not all(map(is_unit, units)):
        return {}
    return {f"{layer.name}/{part.name}/{unit.name}": part for part, unit in zip(layer.layers, units)}


def inner_end_points(layer, x):
    """Slim's end points inside of a layer on `x`, pairs of a name and a Keras tensor, in Slim's order.

    Of a residual unit they are its shortcut, where that is a convolution, its convolutions, and their sum.
    """
    for path, part in stages(layer).items():
        if isinstance(layer, Repeat):
            yield path, (x := part(x))
            continue
        (part,) = part.layers
        # In a Keras model no two layers have one name, as the units' convolutions have.
        unique = {"name": path.replace("/", "_"), "dtype": part.dtype_policy}

        def inner(step, unique=unique):
            return Scope([step], **{**unique, "name": f"{unique['name']}_{step.name}"})

        start = residual = inner(part.preact)(x) if part.preact else x
        shortcut = x
        if part.shortcut:
            shortcut = inner(part.shortcut)(part.shortcut_input(x, start))
            if isinstance(part.shortcut, Conv2D):
                yield f"{path}/shortcut", shortcut
        for step in part.steps:
            yield f"{path}/{step.name}", (residual := inner(step)(residual))
        x = keras.layers.Add(**{**unique, "name": f"{unique['name']}_sum"})([shortcut, residual])
        if part.activation:
            x = keras.layers.Activation(part.activation, **unique)(x)
        yield path, x


@serializable
class BatchNorm(keras.layers.BatchNormalization):
    """`slim.batch_norm` on its own, with an activation after it. Arguments as in `keras.layers.BatchNormalization`."""

    def __init__(self, *, activation="relu", axis=CHANNELS, **kwargs):
        super().__init__(axis=axis, **kwargs)
        self.activation = keras.activations.get(activation)

    def call(self, inputs, training=None):
        return self.activation(super().call(inputs, training=training))

    def get_config(self):
        return {**super().get_config(), "activation": keras.activations.serialize(self.activation)}


@serializable
class AuxPooling2D(keras.layers.AveragePooling2D):
    """The pooling that auxiliary heads begin with.

    Args:
        least: the side that smaller feature maps are padded to with zeros, or None. The convolution after it is 5×5 in
            a model for images of any size and needs 17×17 here; a smaller image leaves AuxLogits without meaning, but
            not the model without an output.
        Everything else as in `keras.layers.AveragePooling2D`.
    """

    def __init__(self, pool_size=5, strides=3, *, least=None, **kwargs):
        super().__init__(pool_size, strides, **kwargs)
        self.least = least

    def call(self, inputs):
        if self.least:
            sides = keras.ops.shape(inputs)[1:3]
            height, width = (
                max(side, self.least) if isinstance(side, int) else keras.ops.maximum(side, self.least)
                for side in sides
            )
            inputs = keras.ops.pad(inputs, [(0, 0), (0, self.least), (0, self.least), (0, 0)])[:, :height, :width]
        return super().call(inputs)

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        return super().compute_output_shape((batch, *(side and max(side, self.least or 0) for side in sides), channels))

    def get_config(self):
        return {**super().get_config(), "least": self.least}


@serializable
class Auxiliary(keras.layers.Layer):
    """Returns its first input and ignores the second.

    It ties the auxiliary head to the model, so that the head's weights load, save and train with it, while the model
    keeps one output. What is compiled (tf.function, XLA) leaves the unused head out of the computation.
    """

    def call(self, inputs):
        return inputs[0]

    def compute_output_shape(self, input_shape):
        return input_shape[0]


@serializable
class PooledBlocks(keras.layers.Layer):
    """The feature maps of several blocks, each averaged over its positions, side by side: N×1×1×channels.

    Of each mean m the root of m + 0.01, which brings channels that answer rarely nearer to those that always do
    ("Improving the Fisher Kernel for Large-Scale Image Classification", ECCV 2010, section 3.1). Feature maps end in
    ReLU here, so that no mean is negative.

    Args:
        blocks: the names of the layers that make its inputs, the last feature map of the network first.
    """

    def __init__(self, blocks, **kwargs):
        super().__init__(**kwargs)
        self.blocks = list(blocks)

    def call(self, inputs):
        means = concatenate([keras.ops.mean(x, axis=(1, 2), keepdims=True) for x in inputs])
        return keras.ops.sqrt(keras.ops.relu(means) + 0.01)

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], 1, 1, sum(shape[CHANNELS] for shape in input_shape))

    def get_config(self):
        return {**super().get_config(), "blocks": self.blocks}


def build(layers, shape):
    """Builds a layer, or layers side by side, of which some may be None."""
    for layer in layers if isinstance(layers, list) else [layers]:
        if layer and not layer.built:
            layer.build(shape)


def serialize(layer):
    """A layer's config inside another's, which is to build it; the same for lists of layers, and None."""
    if isinstance(layer, list):
        return [serialize(one) for one in layer]
    config = keras.saving.serialize_keras_object(layer)
    if config:
        config.pop("build_config", None)
    return config


def run(layer, x, training):
    """Calls `layer`, with `training` where it takes it."""
    return layer(x, training=training) if layer._call_has_training_arg else layer(x)


def step_shape(step, shape):
    """The output shape of a step of a `Scope`."""
    if not isinstance(step, list):
        return tuple(step.compute_output_shape(shape))
    shapes = [layer.compute_output_shape(shape) for layer in step]
    return (*shapes[0][:CHANNELS], sum(shape[CHANNELS] for shape in shapes))


def concatenate(tensors):
    """The branches' outputs side by side on the channel axis."""
    return keras.ops.concatenate(tensors, axis=CHANNELS) if len(tensors) > 1 else tensors[0]


@contextlib.contextmanager
def batch_norm_scope(changes):
    """A context in which networks get another batch norm than their own, as in another arg scope of Slim.

    Args:
        changes: arguments of `keras.layers.BatchNormalization` that differ, or None for biases in its place.
    """
    token = _batch_norm.set(changes)
    try:
        yield
    finally:
        _batch_norm.reset(token)


def scoped_batch_norm(arguments):
    """A network's own arguments of batch norm with the changes of `batch_norm_scope`; None for no batch norm."""
    changes = _batch_norm.get({})
    return {**arguments, **changes} if arguments and changes is not None else None


def batch_norm(arguments, name="BatchNorm", **kwargs):
    """The layer for `slim.batch_norm`. `arguments`: those of `keras.layers.BatchNormalization`."""
    return keras.layers.BatchNormalization(axis=CHANNELS, name=name, **arguments, **kwargs)


def conv(name, filters, kernel, strides=1, padding="same", kind=Conv2D, normalizer=None, **kwargs):
    """A `Conv2D`, or another `kind` of it, in the order a network's table is read in: Slim's name first."""
    normalizer = scoped_batch_norm(normalizer)
    return kind(filters, kernel, strides=strides, padding=padding, name=name, normalizer=normalizer, **kwargs)


def max_pool(name, size=3, strides=1, padding="same"):
    return keras.layers.MaxPooling2D(size, strides, padding, data_format="channels_last", name=name)


def avg_pool(name, size=3, strides=1, padding="same"):
    """`SAME` average pooling does not count the padding, as in Slim."""
    return keras.layers.AveragePooling2D(size, strides, padding, data_format="channels_last", name=name)


def trunc_normal(stddev):
    """Slim's initializer, as a description: layers that share an initializer itself start with the same values."""
    return {"class_name": "TruncatedNormal", "config": {"stddev": stddev}}


def scaled(depth_multiplier, min_depth):
    """Slim's `depth`: the function that narrows a layer's filters to `depth_multiplier`, not below `min_depth`."""
    return lambda filters: max(int(filters * depth_multiplier), min_depth)


def reduced_kernel(size, largest):
    """Slim's `_reduced_kernel_size_for_small_input`: (height, width), at most `largest` and `size`.

    `size` is the feature map's; where it is unknown, it counts as large enough.
    """
    return (largest, largest) if None in size else tuple(min(s, largest) for s in size)


def global_pool(x, pooling):
    """What `pooling` asks for on the last feature map of a network without its top, as in keras.applications."""
    if pooling is None:
        return x
    kind = {"avg": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}[pooling]
    return kind(data_format="channels_last", name="global_pool")(x)


def pre_logits(x, kernel, dropout, spatial_squeeze, strides=2, name="AvgPool_1a"):
    """The end points `name`, the last feature map average-pooled, and PreLogits, the same after dropout.

    The pooling is Slim's, `kernel`×`kernel` or as large as the feature map where that is smaller. With
    `spatial_squeeze`, global average pooling replaces it where it would leave more than 1×1, or where the size is
    unknown.
    """
    pool = avg_pool(name, reduced_kernel(x.shape[1:3], kernel), strides, padding="valid")
    if spatial_squeeze and pool.compute_output_shape(x.shape)[1:3] != (1, 1):
        pool = keras.layers.GlobalAveragePooling2D(keepdims=True, data_format="channels_last", name=name)
    return Scope([keras.layers.Dropout(dropout, name="Dropout_1b")], name="PreLogits")(pool(x))


def pre_logits_of(blocks, end_points, dropout, spatial_squeeze):
    """As `pre_logits`, of the last of the end points (a dict) and of those called `blocks` too: `PooledBlocks`.

    Raises:
        UsageError: no such block, or no `spatial_squeeze`.
    """
    *others, last = end_points
    if unknown := [block for block in blocks if block not in others]:
        raise UsageError(f"head_blocks has {', '.join(unknown)}. Blocks below {last} are: {', '.join(others)}.")
    if not spatial_squeeze:
        raise UsageError("A classifier on several blocks (head_blocks) has no scores by position: spatial_squeeze.")
    names = [last, *blocks]
    x = PooledBlocks(names, name="PooledBlocks")([end_points[name] for name in names])
    return Scope([keras.layers.Dropout(dropout, name="Dropout_1b")], name="PreLogits")(x)


def flattened_logits(x, classes, dropout):
    """Global average pooling and a fully connected layer: global_pool, PreLogitsFlatten and Logits of Slim's newer
    networks, which take images of any size. Returns N×classes."""
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, data_format="channels_last", name="global_pool")(x)
    flat = [keras.layers.Flatten(name="Flatten"), keras.layers.Dropout(dropout, name="Dropout")]
    x = Scope(flat, name="PreLogitsFlatten")(x)
    return Scope([keras.layers.Dense(classes, name="Logits")], name="Logits")(x)


def aux_pool(name, x):
    """The pooling that Slim's auxiliary heads begin with, and the size of the feature map it makes of `x`.

    The next convolution is as large as that feature map. An unknown size counts as the 5×5 of the published networks.

    Raises:
        UsageError: the feature map `x` is smaller than the pooling.
    """
    if any(size is not None and size < 5 for size in x.shape[1:3]):
        raise UsageError(f"aux_logits needs larger images: its feature map is {x.shape[1]}×{x.shape[2]}, below 5×5.")
    least = 17 if None in x.shape[1:3] else None
    pool = AuxPooling2D(padding="valid", data_format="channels_last", least=least, name=name)
    return pool, tuple(size or 5 for size in pool.compute_output_shape(x.shape)[1:3])


def logits(x, name, steps, spatial_squeeze):
    """A head under the scope `name`: `steps`, and Slim's SpatialSqueeze from N×1×1×C to N×C where asked.

    The squeeze is an average: an image too large for Slim's, which leaves a feature map of logits, has its mean.
    """
    if spatial_squeeze:
        steps = [*steps, keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="SpatialSqueeze")]
    return Scope(steps, name=name)(x)


def predictions(x, aux, activation, name="Predictions"):
    """The model's output: the logits `x`, activated; the auxiliary head `aux` (or None) is tied to it."""
    if aux is not None:
        x = Auxiliary(name="Auxiliary")([x, aux])
    if activation is None:
        return x
    return keras.layers.Activation(activation, dtype="float32", name=name)(x)
