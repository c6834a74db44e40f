"""The network that inference needs: what training put between its convolutions is folded into them."""

import dataclasses

import keras
import numpy as np

from inception_tf.errors import UsageError
from inception_tf.models.blocks import Auxiliary, Conv2D, Mixed, PooledBlocks, Residual, Scope, Siblings
from inception_tf.models.initialization import drawn_on_host, skip_init
from inception_tf.models.model import SlimModel, check_model


def fuse_for_inference(model, siblings=True):
    """A model that answers as `model` does, in fewer operations. `model` stays as it is.

    - Batch norm after a convolution becomes a factor on its kernel, and its bias. Batch norm on its own, as ResNet v2
      has it before its convolutions, stays.
    - The 1×1 convolutions that open sibling branches, with one activation, become one; its output is split.
    - A 1×1 convolution after average pooling that keeps the feature map's size comes before it, where it has fewer
      channels than its input. That is exact, since SAME pooling leaves the padding out of the mean; the activation
      comes after.
    - The factor of a residual branch goes into the convolution that ends it.
    - Dropout and the auxiliary head are gone.

    The result has the same card, so it classifies, exports, saves and loads as any model of this library. It is no
    longer Slim's: `save_slim` and fine-tuning need the model it was fused from.

    Args:
        model: a model of this library, on any of Keras's backends.
        siblings: whether sibling branches share their opening convolution. It makes them fewer and wider, and costs a
            split of its output.

    Returns:
        A `SlimModel` whose outputs are equal but for rounding, in float32 below 1e-5 of their maximum.

    Raises:
        UsageError: not a model of this library.
    """
    check_model(model)
    weights, outputs = [], {}  # (layer, its weights' values), for when the layers are built; what each layer gives
    x = inputs = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype, name=model.inputs[0].name)
    with drawn_on_host(), skip_init():
        for layer in _fused(chain(model), weights, siblings=siblings):
            x = layer([outputs[name] for name in layer.blocks] if isinstance(layer, PooledBlocks) else x)
            outputs[layer.name] = x
    fused = SlimModel(inputs, x, name=model.name, card=dataclasses.replace(model.card, fused=True))
    for layer, values in weights:
        layer.set_weights(values)
    return fused


def refuse_fused(model, what):
    """Raises a `UsageError` where a model has been fused: `what`, such as "Fine-tuning", needs its own layers."""
    if getattr(model, "card", None) and model.card.fused:
        raise UsageError(f"{what} needs the model that {model.name} was fused from: its own layers are gone.")


def chain(model):
    """The layers from the model's input to its output, without the auxiliary head."""
    producers = {id(layer.output): layer for layer in model.layers}
    layers, tensor = [], model.outputs[0]
    while tensor is not model.inputs[0]:
        layer = producers[id(tensor)]
        given = keras.tree.flatten(layer.input)
        if len(given) > 1 and not isinstance(layer, (Auxiliary, PooledBlocks)):
            raise UsageError(f"Only a chain of layers can be fused. Received: {layer.name}, which takes {len(given)}.")
        tensor = given[0]
        if not isinstance(layer, Auxiliary):
            layers.append(layer)
    return layers[::-1]


def _fused(steps, weights, scale=1.0, siblings=True):
    """The layers that do what `steps` of a `Scope` do, the last of them, a linear convolution, times `scale`.

    Appends to `weights`.
    """
    steps = [step for step in steps if not isinstance(step, keras.layers.Dropout)]
    fused = []
    while steps:
        step, *steps = steps
        if isinstance(step, list):
            fused.append(_side_by_side(step, weights, siblings))
        elif steps and _commute(step, steps[0]):
            convolution, *steps = steps
            activation = convolution.activation
            fused += [_convolution(convolution, weights, activation=None), _copy(step, weights)]
            if activation is not keras.activations.linear:
                fused.append(keras.layers.Activation(activation, dtype=step.dtype_policy, name="Activation"))
        elif isinstance(step, Conv2D):
            fused.append(_convolution(step, weights, scale=1.0 if steps else scale))
        elif isinstance(step, Residual):
            fused.append(_residual(step, weights, siblings))
        elif isinstance(step, Mixed):
            fused.append(_side_by_side(step.branches, weights, siblings, step.name))
        elif isinstance(step, Scope):
            fused.append(
                type(step)(_fused(step.steps, weights, siblings=siblings), name=step.name, dtype=step.dtype_policy)
            )
        else:
            fused.append(_copy(step, weights))
    return fused


def _commute(pool, convolution):
    """Whether a convolution is better done before the pooling in front of it."""
    return (
        type(pool) is keras.layers.AveragePooling2D
        and pool.padding == "same"
        and set(pool.strides) == {1}
        and _is_pointwise(convolution)
        and convolution.filters < convolution.kernel.shape[2]
    )


def _is_pointwise(layer):
    return type(layer) is Conv2D and (layer.kernel_size, layer.strides, layer.groups) == ((1, 1), (1, 1), 1)


def _copy(layer, weights, values=None, **changes):
    """A layer of the same config, but for `changes`, and of the same weights, or of `values`."""
    copy = type(layer).from_config({**layer.get_config(), **changes})
    weights.append((copy, layer.get_weights() if values is None else values))
    return copy


def _convolution(layer, weights, scale=1.0, **changes):
    """A convolution with a bias in place of its batch norm, its kernel and bias times `scale`."""
    values = [value.astype("float32") * np.float32(scale) for value in _folded(layer)]
    return _copy(layer, weights, values, normalizer=None, use_bias=True, **changes)


def _folded(layer):
    """The kernel and the bias, float64, that do what a convolution and its batch norm do."""
    numpy = keras.ops.convert_to_numpy
    kernel = numpy(layer.kernel).astype("float64")
    bias = numpy(layer.bias).astype("float64") if layer.use_bias else np.zeros(layer.filters)
    norm = layer.batch_norm
    if norm is None:
        return kernel, bias
    factor = 1 / np.sqrt(numpy(norm.moving_variance).astype("float64") + norm.epsilon)
    factor = factor * numpy(norm.gamma) if norm.scale else factor
    bias = (bias - numpy(norm.moving_mean)) * factor
    return kernel * factor, bias + numpy(norm.beta) if norm.center else bias


def _residual(layer, weights, siblings):
    """A residual unit; its factor goes into the linear convolution at the end of its branch, if there is one."""
    last = layer.steps[-1]
    folds = isinstance(last, Conv2D) and last.activation is keras.activations.linear
    ends = {"preact": layer.preact, "shortcut": layer.shortcut}
    return type(layer)(
        _fused(layer.steps, weights, layer.scale if folds else 1.0, siblings),
        **{name: end and _fused([end], weights)[0] for name, end in ends.items()},
        scale=1.0 if folds else layer.scale,
        activation=layer.activation,
        name=layer.name,
        dtype=layer.dtype_policy,
    )


def _side_by_side(branches, weights, siblings, name="Siblings"):
    """What runs `branches` on one input, concatenated: where `siblings`, their opening 1×1 convolutions as one."""
    branches = [branch.steps if isinstance(branch, Scope) else [branch] for branch in branches]
    dtype = next(step.dtype_policy for branch in branches for step in branch if not isinstance(step, list))
    opening = [branch[0] if branch and _is_pointwise(branch[0]) else None for branch in branches]
    together = max(
        ([c for c in opening if c is not None and c.activation is first.activation] for first in opening if first),
        key=len,
        default=[],
    )
    if len(together) < 2 or not siblings:
        together = []
    first, widths = None, [convolution.filters if convolution in together else 0 for convolution in opening]
    if together:
        values = [np.concatenate(parts, -1).astype("float32") for parts in zip(*map(_folded, together))]
        changes = {"name": "Openings", "filters": sum(widths), "normalizer": None, "use_bias": True}
        first = _copy(together[0], weights, values, **changes)
    scopes = [
        Scope(_fused(branch[1:] if width else branch, weights, siblings=siblings), name=f"Branch_{i}", dtype=dtype)
        for i, (branch, width) in enumerate(zip(branches, widths))
    ]
    return Siblings(first, scopes, widths, name=name, dtype=dtype)
