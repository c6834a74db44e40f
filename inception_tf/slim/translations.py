"""Networks of ours under other names: keras.applications' in Keras's files, TensorFlow 2's objects, names of 2016."""

import collections
import re

import keras

from inception_tf.errors import CheckpointError, raising
from inception_tf.models.applications import APPLICATIONS, check_layers, variable_pairs
from inception_tf.models.initialization import meta_init
from inception_tf.models.model import build_model
from inception_tf.models.registry import find_network
from inception_tf.slim.containers.base import Renamed
from inception_tf.slim.graph_2015 import branches, convolutions
from inception_tf.slim.names import EMA, scoped, slim_name

# How many convolutions a network of keras.applications has.
CONVOLUTIONS = {94: "inception_v3", 244: "inception_resnet_v2"}
RESNETS = {53: "ResNet50", 104: "ResNet101", 155: "ResNet152"}

# Keras 3 and tf.keras: a layer's place among a model's layers, and its variable.
OBJECT = re.compile(r"(.*?)(?:_operations/|layer_with_weights-)(\d+)/_?(\w+)/\.ATTRIBUTES/VARIABLE_VALUE")
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
WORDS = ("kernel", "gamma", "beta", "bias", "moving_mean", "moving_variance")  # in Keras's order

# The blocks of `inception_v3` in tensorflow/models' inception/slim/inception_model.py of March 2016, in order. In them
# are branches, whose convolutions are numbered: Conv, Conv_1, ….
BLOCKS_2016 = {
    **{f"Mixed_5{letter}": f"mixed_35x35x{name}" for letter, name in zip("bcd", ("256a", "288a", "288b"))},
    **{f"Mixed_6{letter}": f"mixed_17x17x768{name}" for letter, name in zip("abcde", "abcde")},
    "Mixed_7a": "mixed_17x17x1280a",
    "Mixed_7b": "mixed_8x8x2048a",
    "Mixed_7c": "mixed_8x8x2048b",
}
CONVOLUTIONS_2016 = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
HEADS_2016 = {
    "AuxLogits/Conv2d_1b_1x1": "aux_logits/proj",
    "AuxLogits/Conv2d_2a_5x5": "aux_logits/Conv",
    "AuxLogits/Conv2d_2b_1x1": "aux_logits/FC",
    "Logits/Conv2d_1c_1x1": "logits/logits",
}


def translated(checkpoint):
    """A checkpoint under Slim's names where it holds a network of ours under others; else as it is.

    Raises:
        CheckpointError: it holds a network that is nearly one of ours.
    """
    objects = _objects(checkpoint)
    if objects:
        return from_keras(checkpoint, objects, "its object graph") or checkpoint
    if GRAPH in checkpoint:
        return _by_full_names(checkpoint)
    if any(name.removesuffix(EMA).endswith("mixed_35x35x256a/branch1x1/Conv/weights") for name in checkpoint):
        return _from_2016(checkpoint)
    return checkpoint


def _objects(checkpoint):
    """The layers of a Keras model in an object-based checkpoint of TensorFlow 2, as `from_keras` takes them."""
    layers = {}
    for name in checkpoint if any(name.endswith(VALUE) for name in checkpoint) else ():
        match = OBJECT.fullmatch(name)
        if match and match[3] in WORDS:
            layers.setdefault((match[1], int(match[2])), {})[WORDS.index(match[3])] = name
    return [tuple(name for _, name in sorted(layers[place].items())) for place in sorted(layers)]


def _by_full_names(checkpoint):
    """An object-based checkpoint under its variables' own names where those are Slim's, each once; else as it is."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    with raising(CheckpointError, f"{checkpoint.path} is damaged: its object graph cannot be read", DecodeError):
        nodes = TrackableObjectGraph.FromString(checkpoint[GRAPH]).nodes
    found = [
        (a.full_name, a.checkpoint_key) for node in nodes for a in node.attributes if a.checkpoint_key in checkpoint
    ]
    names = {name: key for name, key in found if name}
    if len(names) < len(found) or not any(name.endswith("/weights") for name in names):
        return checkpoint
    return Renamed(checkpoint, names, "an object-based checkpoint of TensorFlow 2, by its variables' full names")


def from_keras(checkpoint, layers, place, config=None):
    """The network of ours that a Keras model's layers are, under Slim's names; None where it is another one.

    Args:
        checkpoint: a `Checkpoint` of their variables.
        layers: of every layer the names of its variables. In the model's order, at least within a kind: convolutions,
            batch norms, dense layers.
        place: where the order was read, in words.
        config: those of the model's layers, as its file has them, where it does.

    Raises:
        CheckpointError: it is a ResNet of keras.applications, which Slim's are not; or `config` has a layer that
            computes what none of ours does.
    """
    layers = [names for names in layers if names]
    found = _by_kind(([tuple(checkpoint.shapes[name]) for name in names], names) for names in layers)
    convolutions = found.get("convolution", [])
    resnet = convolutions and RESNETS.get(len(convolutions))
    if resnet and checkpoint.shapes[convolutions[0][0]][:2] == (7, 7):
        raise CheckpointError(
            f"{checkpoint.path} holds a {resnet} of keras.applications, which computes something else than Slim's: "
            f"{resnet} strides in a block's first 1×1 convolution, {resnet}V2 pads its first pooling with zeros; "
            f"Slim's do neither. Load it with keras.applications.{resnet}(weights=…)."
        )
    network = CONVOLUTIONS.get(len(convolutions))
    if network is None:
        return None
    dense = found.get("dense", [])
    head = {"classes": checkpoint.shapes[dense[0][0]][1]} if dense else {"include_top": False}
    with meta_init():
        model = build_model(find_network(network), **head)
        application = getattr(keras.applications, APPLICATIONS[network])(weights=None, **head)
        pairs = variable_pairs(model, application)
        ours = {id(theirs): variable for theirs, variable in pairs}
        wanted = _by_kind(
            ([tuple(variable.shape) for variable in layer.weights], layer.weights)
            for layer in application.layers
            if layer.weights
        )
        names, shapes = {}, {}
        for kind, counterparts in wanted.items():
            if len(counterparts) != len(found.get(kind, [])):
                return None
            for theirs, stored in zip(counterparts, found[kind]):
                if [tuple(v.shape) for v in theirs] != [checkpoint.shapes[name] for name in stored]:
                    return None
                for variable, name in zip(theirs, stored):
                    own = ours[id(variable)]
                    slim = scoped(model.card.scope, slim_name(own.path))
                    names[slim], shapes[slim] = name, tuple(own.shape)
    if sum(map(len, found.values())) != sum(map(len, wanted.values())):
        return None
    note = f"{APPLICATIONS[network]} of keras.applications, its layers matched by {place}"
    if config:
        note += check_layers(checkpoint.path, config, application)
    elif dense:
        note += "; what its classifier ends in is not recorded, softmax is taken"
    return Renamed(checkpoint, names, note, shapes)


def _by_kind(layers):
    """Layers' variables by kind, from pairs of (their shapes, they themselves)."""
    kinds = {}
    for shapes, variables in layers:
        kind = {4: "convolution", 2: "dense"}.get(len(shapes[0]), "batch norm" if len(shapes) > 2 else "other")
        kinds.setdefault(kind, []).append(variables)
    return kinds


def names_2016():
    """The scopes of Inception-v3's layers in 2016, a dict from Slim's scopes to them."""
    scopes = {name: f"conv{i}" for i, name in enumerate(CONVOLUTIONS_2016)} | HEADS_2016
    counts = collections.Counter()
    for scope in (scope for scope in convolutions() if "/" in scope):
        block, branch, _ = scope.split("/")
        name = f"{BLOCKS_2016[block]}/{branches(block)[int(branch.removeprefix('Branch_'))]}/Conv"
        scopes[scope] = name + (f"_{counts[name]}" if counts[name] else "")
        counts[name] += 1
    return scopes


def _from_2016(checkpoint):
    """Inception-v3 of March 2016 under the names that Slim gave it in August."""
    anchor = "mixed_35x35x256a/"
    prefix = next(name.partition(anchor)[0] for name in checkpoint if anchor in name)
    ours = {theirs: scope for scope, theirs in names_2016().items()}
    names, shapes = {}, {}
    for stored, shape in checkpoint.shapes.items():
        plain = stored.removeprefix(prefix)
        theirs = next((t for t in _parents(plain) if t in ours), None)
        name = f"InceptionV3/{ours[theirs]}{plain.removeprefix(theirs)}" if theirs else stored
        names[name] = stored
        if theirs and len(shape) == 2 and name.endswith(("/weights", f"/weights{EMA}")):
            shapes[name] = (1, 1, *shape)  # fully connected there, a 1×1 convolution here
    return Renamed(checkpoint, names, "names of March 2016 (conv0, mixed_35x35x256a), translated into Slim's", shapes)


def _parents(name):
    """The scopes that a name lies in, the innermost first."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
