"""keras.applications' InceptionV3 and InceptionResNetV2 beside ours: which variable of one is which of the other.

keras.applications numbers its layers as they come (conv2d_93), so names say nothing. What both have is the
architecture, in the order of the paper: branches from first to last, in a branch from its input to its output. Ours is
the order of the scopes; theirs is that in which the graph's layers are met when each is preceded by its inputs, first
input first. `variable_pairs` walks both, and every pair must agree in kind, shape, strides and padding.
"""

import keras

from inception_tf.errors import MismatchError
from inception_tf.models.blocks import Scope

APPLICATIONS = {"inception_v3": "InceptionV3", "inception_resnet_v2": "InceptionResNetV2"}


def variable_pairs(model, application, drop=False):
    """The variables of a model of ours and of keras.applications that correspond. No value is looked at.

    Args:
        model: an inception_v3 or inception_resnet_v2 of ours.
        application: the Keras model.
        drop: whether class 0 of our classifier has no counterpart.

    Returns:
        A list of (their variable, our variable). The last two are the classifier's, where there is one: a convolution
        of ours, fully connected there.

    Raises:
        MismatchError: there are more of one than of the other, or a pair differs in kind, shape, strides or padding.
    """
    layers = weighted_layers(layer for layer in model.layers if layer.name != "AuxLogits")
    ours = [(layer, variable) for layer in layers for variable in layer.weights]
    theirs = [(layer, variable) for layer in layers_in_order(application) for variable in layer.weights]
    different = f"{application.name} is not {model.card.network}"
    if len(ours) != len(theirs):
        raise MismatchError(f"{different}: it has {len(theirs)} variables, not {len(ours)}.")
    differences = []
    for (layer, variable), (other, counterpart) in zip(ours, theirs):
        shape, is_classifier = tuple(variable.shape), model.has_top and layer is ours[-1][0]
        if is_classifier:
            shape = (*shape[-2:-1], shape[-1] - drop)
        found, wanted = _facts(other, counterpart, counterpart.shape), _facts(layer, variable, shape)
        if found[:2] != wanted[:2] or (found != wanted and not is_classifier):
            differences.append(f"{counterpart.path} is {found}, {variable.path} is {wanted}")
    if differences:
        raise MismatchError(f"{different}; {len(differences)} variables differ: {'; '.join(differences[:3])}.")
    return [(counterpart, variable) for (_, counterpart), (_, variable) in zip(theirs, ours)]


def weighted_layers(layers):
    """The layers with weights among `layers`, those within scopes too.

    In Slim's order: a block's branches from the first to the last, a branch's layers from its input to its output.
    """
    for layer in layers:
        if isinstance(layer, Scope):
            yield from weighted_layers(layer.layers)
        elif layer.weights:
            yield layer


def layers_in_order(model):
    """The layers of a functional model with one output: each after its inputs, the first input's first."""
    order, waiting = {}, [(model.outputs[0], False)]
    while waiting:
        tensor, inputs_done = waiting.pop()
        layer = tensor._keras_history.operation
        if layer in order:
            continue
        if inputs_done:
            order[layer] = None
            continue
        waiting.append((tensor, True))
        if not isinstance(layer, keras.layers.InputLayer):
            waiting += [(source, False) for source in reversed(keras.tree.flatten(layer.input))]
    return list(order)


def _facts(layer, variable, shape):
    """What a pair must agree in: the variable's kind and shape, and how its convolution moves over the feature map."""
    moves = (layer.strides, layer.padding) if variable.name == "kernel" and hasattr(layer, "strides") else ()
    return (variable.name, tuple(shape), *moves)
