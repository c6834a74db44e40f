"""keras.applications' InceptionV3 and InceptionResNetV2 beside ours: which variable of one is which of the other.

keras.applications numbers its layers as they come (conv2d_93), so names say nothing. What both have is the
architecture, in the order of the paper: branches from first to last, in a branch from its input to its output. Ours is
the order of the scopes; theirs is that in which the graph's layers are met when each is preceded by its inputs, first
input first. `variable_pairs` walks both, and every pair must agree in kind, shape, strides and padding.
"""

import collections
import json
import re

import keras
import numpy as np

from inception_tf.errors import CheckpointError, MismatchError, raising
from inception_tf.models.blocks import Scope
from inception_tf.models.untrusted import NO_CONFIG

APPLICATIONS = {"inception_v3": "InceptionV3", "inception_resnet_v2": "InceptionResNetV2"}
# What in a layer's config says what it computes, and what pairs of variables do not.
FACTS = ("activation", "dilation_rate", "epsilon", "padding", "pool_size", "strides")
# What does nothing unless it trains; and what adds residuals, a Lambda before Keras 3.
IDLE = re.compile(r"InputLayer|Random\w+|GaussianNoise|(Spatial|Gaussian|Alpha)?Dropout(2D)?|Lambda|CustomScaleLayer")


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


def check_layers(path, layers, application):
    """What stands ahead of a model's first convolution, as the end of a sentence; "" where nothing does.

    Args:
        path: what messages call the model's file.
        layers: the configs of its layers, in order, as the file has them.
        application: the model of keras.applications whose variables it has.

    Raises:
        CheckpointError: up to its last feature map it has a layer that `application` has not, or it scales its images
            otherwise than from [0, 255] to [-1, 1].
    """

    def facts(kind, config):
        return kind, *(f"{fact}={config[fact]}" for fact in FACTS if fact in config)

    own = (facts(type(layer).__name__, json.loads(json.dumps(layer.get_config()))) for layer in application.layers)
    with raising(CheckpointError, NO_CONFIG.format(path), Exception):
        kinds = [layer["class_name"] for layer in layers]
        first = kinds.index("Conv2D")
        last = next((i for i, kind in enumerate(kinds) if re.match("Global|Flatten|Dense", kind)), len(kinds))
        found = [facts(layer["class_name"], layer["config"]) for layer in layers[first:last]]
        strange = collections.Counter(one for one in found if not IDLE.fullmatch(one[0])) - collections.Counter(own)
        if strange:
            raise CheckpointError(
                f"{path} has a layer that {application.name} of keras.applications has not: {', '.join([*strange][0])}."
            )
        ahead = [kind for kind in kinds[:first] if kind == "Lambda" or not IDLE.fullmatch(kind)]
        ends = np.array([[0.0], [255.0]])
        for config in (layer["config"] for layer in layers[:first] if layer["class_name"] == "Rescaling"):
            ends = ends * config["scale"] + config["offset"]
        if "Normalization" in ahead or ("Rescaling" in ahead and not np.allclose(ends, [[-1], [1]], atol=0.01)):
            raise CheckpointError(
                f"{path} scales its images otherwise than from [0, 255] to [-1, 1], by {' and '.join(ahead)} ahead of "
                "its first convolution. No network of Slim's does."
            )
    into = f"; not loaded, since ahead of the first convolution: {', '.join(ahead)}. Images are taken in [-1, 1]"
    return into if ahead else ""
