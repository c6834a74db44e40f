"""The same network of Keras's own layers alone: a model that opens wherever Keras does, without this library."""

import keras

from inception_tf.errors import UsageError
from inception_tf.models import blocks
from inception_tf.models.fused import chain
from inception_tf.models.model import check_model


def to_plain_keras(model):
    """A functional model of Keras's own layers that answers as `model` does. `model` stays as it is.

    Saved, it opens by `keras.saving.load_model` where this library is not installed, on any of Keras's backends. Its
    layers bear Slim's scopes, `/` as `_`: the convolution `Mixed_5b_Branch_1_Conv2d_0b_5x5`, its batch norm
    `…_BatchNorm` and activation `…_Relu`; a block's concatenation or sum is called as the block is.

    It has no card, hence no preprocessing and no labels, and no auxiliary head. `fuse_for_inference` first, and it has
    no batch norm after convolutions either.

    Args:
        model: a model of this library, or a fused one.

    Returns:
        A `keras.Model` from the same images to the same outputs, within 1e-6 of them, with weights of its own.

    Raises:
        UsageError: not a model of this library, or one with further layers that are not Keras's.
    """
    check_model(model)
    x = inputs = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype, name=model.inputs[0].name)
    writer = _Writer()
    for layer in chain(model):
        x = writer.layer(layer, x, layer.name)
    plain = keras.Model(inputs, x, name=model.name)
    for layer, values in writer.weights:
        layer.set_weights(values)
    return plain


class _Writer:
    """Calls Keras's layers on Keras tensors; `weights` are pairs of such a layer and its weights' values."""

    def __init__(self):
        self.weights = []

    def call(self, kind, x, path, values=(), **config):
        """A layer of that `kind` and `config` on `x`, called as its Slim scope."""
        layer = kind.from_config({**config, "name": path.replace("/", "_")})
        self.weights.append((layer, values))
        return layer(x)

    def layer(self, layer, x, path):
        """What does on `x` what a layer of a network does, which is found under the Slim scope `path`."""
        if isinstance(layer, blocks.Conv2D):
            return self.convolution(layer, x, path)
        if isinstance(layer, blocks.Siblings):
            return self.siblings(layer, x, path)
        if isinstance(layer, blocks.Residual):
            return self.residual(layer, x, path)
        if isinstance(layer, blocks.Scope):
            return self.steps(layer.steps, x, path)
        config, values = layer.get_config(), layer.get_weights()
        if isinstance(layer, blocks.BatchNorm):
            del config["activation"]
            x = self.call(keras.layers.BatchNormalization, x, path, values=values, **config)
            return self.activation(layer.activation, x, path, config["dtype"])
        if not type(layer).__module__.startswith("keras."):
            raise UsageError(f"Keras has no layer that does what {path} does, a {type(layer).__name__}.")
        return self.call(type(layer), x, path, values=values, **config)

    def steps(self, steps, x, path):
        """Layers one after another; a list among them side by side."""
        for i, step in enumerate(steps):
            if isinstance(step, list):
                dtype = step[0].dtype_policy
                x = [self.layer(layer, x, f"{path}/{layer.name}") for layer in step]
                x = self.concatenate(x, path if i == len(steps) - 1 else f"{path}/concat", dtype)
            else:
                x = self.layer(step, x, f"{path}/{step.name}")
        return x

    def concatenate(self, tensors, path, dtype):
        if len(tensors) == 1:
            return tensors[0]
        return self.call(keras.layers.Concatenate, tensors, path, axis=blocks.CHANNELS, dtype=dtype)

    def activation(self, activation, x, path, dtype):
        activation = keras.activations.get(activation)
        if activation is keras.activations.linear:
            return x
        name = keras.activations.serialize(activation)
        path = f"{path}/{name.capitalize()}"
        return self.call(keras.layers.Activation, x, path, activation=name, dtype=dtype)

    def convolution(self, layer, x, path):
        """The padding of ResNets ahead of it, batch norm, activation and squeeze after it, as far as it has them."""
        config = {**layer.get_config(), "data_format": "channels_last"}
        normalized, dtype = config.pop("normalizer") is not None, config["dtype"]
        if isinstance(layer, blocks.Conv2DSame) and layer.strides != (1, 1):
            margins = [[(size - 1) // 2, size // 2] for size in layer.kernel_size]
            padding = {"padding": margins, "data_format": "channels_last", "dtype": dtype}
            x = self.call(keras.layers.ZeroPadding2D, x, f"{path}/Pad", **padding)
            config["padding"] = "valid"
        if normalized:
            config["activation"] = None
        own = [layer.kernel, layer.bias] if layer.use_bias else [layer.kernel]
        x = self.call(keras.layers.Conv2D, x, path, values=list(map(keras.ops.convert_to_numpy, own)), **config)
        if normalized:
            norm = layer.batch_norm
            x = self.call(type(norm), x, f"{path}/BatchNorm", values=norm.get_weights(), **norm.get_config())
            x = self.activation(layer.activation, x, path, dtype)
        if isinstance(layer, blocks.SqueezedConv2D):
            pooling = {"data_format": "channels_last", "dtype": dtype}
            x = self.call(keras.layers.GlobalAveragePooling2D, x, f"{path}/SpatialSqueeze", **pooling)
        return x

    def residual(self, layer, x, path):
        dtype = layer.dtype_policy
        start = self.layer(layer.preact, x, f"{path}/preact") if layer.preact else x
        shortcut = x
        if layer.shortcut:
            shortcut = self.layer(layer.shortcut, layer.shortcut_input(x, start), f"{path}/shortcut")
        x = self.steps(layer.steps, start, path)
        if layer.scale != 1:
            x = self.call(keras.layers.Rescaling, x, f"{path}/scale", scale=layer.scale, offset=0.0, dtype=dtype)
        if layer.activation == "relu6":  # cut to [-6, 6]: what is positive, less what is negative
            negative = self.call(keras.layers.Rescaling, x, f"{path}/negative", scale=-1.0, offset=0.0, dtype=dtype)
            halves = [
                self.activation("relu6", half, f"{path}/{name}", dtype)
                for half, name in ((x, "positive"), (negative, "negative"))
            ]
            x = self.call(keras.layers.Subtract, halves, f"{path}/cut", dtype=dtype)
        x = self.call(keras.layers.Add, [shortcut, x], path, dtype=dtype)
        return self.activation(layer.activation, x, path, dtype)

    def siblings(self, layer, x, path):
        """Branches of a fused model, the shared first convolution as one of each branch again."""
        outputs, start = [], 0
        for branch, width in zip(layer.branches, layer.widths):
            own, inner = x, f"{path}/{branch.name}"
            if width:
                values = [value[..., start : start + width] for value in layer.opening.get_weights()]
                config = {**layer.opening.get_config(), "filters": width, "data_format": "channels_last"}
                del config["normalizer"]
                own = self.call(keras.layers.Conv2D, x, f"{inner}/{layer.opening.name}", values=values, **config)
                start += width
            outputs.append(self.steps(branch.steps, own, inner))
        return self.concatenate(outputs, path, layer.dtype_policy)
