"""The Keras model that every network is: built, cast, saved, with its parts and its end points."""

import difflib
import shutil
import zipfile
from pathlib import Path

import keras

from inception_tf.errors import CheckpointError, UsageError, raising
from inception_tf.models.blocks import Auxiliary, Repeat, batch_norm_scope, inner_end_points, serializable
from inception_tf.models.card import Card
from inception_tf.models.initialization import drawn_on_host
from inception_tf.models.registry import BATCH_NORM_ARGUMENTS, BATCH_NORM_OPTIONS, find_network
from inception_tf.models.untrusted import NO_MODEL, check_keras_file


@serializable
class SlimModel(keras.Model):
    """A functional Keras model that knows what it is, in memory and in its `.keras` file, and knows its parts.

    Attributes:
        card: its `Card`; None for one that Keras made of its layers, such as a clone.
    """

    # As Keras 3.12 and 3.15 alike want it of a functional model that they are to save: inputs, outputs, name, ….
    def __init__(self, *args, card=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.card = Card.from_dict(card) if isinstance(card, dict) else card

    def get_config(self):
        # First, so that Keras's error without this library, which quotes the config, says what is missing.
        card = self.card and {"opens_with": "import inception_tf; inception_tf.load_model(path)", **self.card.to_dict()}
        return {"card": card, **super().get_config()}

    @classmethod
    def from_config(cls, *args, **kwargs):
        with drawn_on_host():
            return super().from_config(*args, **kwargs)

    @property
    def has_top(self):
        """Whether the model ends in its classifier."""
        return self.card.include_top

    @property
    def classifier(self):
        """The layer that makes the logits."""
        return self.get_layer(find_network(self.card.network).heads[0])

    @property
    def features(self):
        """The Keras tensor that the classifier takes: PreLogits, or a global pooling."""
        return self.classifier.input

    @property
    def logits(self):
        """The Keras tensor of the output before its activation."""
        squeezed = [layer for layer in self.layers if layer.name == "spatial_squeeze"]
        return (*squeezed, self.classifier)[0].output

    @property
    def backbone_output(self):
        """The Keras tensor of the last feature map, N×h×w×C."""
        backbone = find_network(self.card.network).backbone
        if backbone is not None:
            return self.get_layer(backbone).output
        if self.has_top:
            return self.features
        return self.layers[-1].input if self.layers[-1].name == "global_pool" else self.outputs[0]

    @property
    def activation(self):
        """The function from the model's logits to its probabilities; softmax where the model gives logits."""
        card = self.card
        return keras.activations.get("softmax" if card.gives_logits else card.options["classifier_activation"])

    def as_probabilities(self, outputs):
        """The probabilities that outputs of a model with a top stand for: softmax of logits, others as they are."""
        return self.activation(outputs) if self.card.gives_logits else outputs


def check_model(model):
    """Returns a model of this library.

    Raises:
        UsageError: it is none.
    """
    if getattr(model, "card", None) is None:
        raise UsageError(
            "Expected a model with this library's card, as create_model makes it; one in Keras's own layers (--plain) "
            f"has none. Received: {type(model).__name__}"
        )
    return model


def build_model(info, input_shape=None, name=None, **options):
    """The Keras model of a `Network` with random weights. Arguments as its constructor's."""
    # As JSON, and so the model's card, knows them.
    options = {option: value.item() if hasattr(value, "item") else value for option, value in options.items()}
    if callable(options.get("classifier_activation")):
        options["classifier_activation"] = keras.activations.serialize(options["classifier_activation"])
    check_options(options)
    options = info.options_for(**options)
    input_shape = check_input_shape(info, input_shape, options["include_top"])
    inputs = keras.Input(input_shape, name="images")
    with drawn_on_host(), batch_norm_scope(_batch_norm_changes(info, options)):
        outputs = info.build(inputs, **{o: value for o, value in options.items() if o not in BATCH_NORM_OPTIONS})
    size = [side or info.input_size for side in input_shape[:2]]
    preprocessing = {"kind": info.preprocessing, "size": size, "channels": input_shape[2]}
    card = Card(info.name, options, info.scope, preprocessing)
    return SlimModel(inputs, outputs, name=name or info.scope, card=card)


def _batch_norm_changes(info, options):
    """What `batch_norm_scope` takes for the options of a network."""
    if options.get("batch_norm", True):
        return {argument: options[o] for o, argument in BATCH_NORM_ARGUMENTS.items() if o in options}
    if info.arg_scope_pads:
        raise UsageError(
            f"{info.name} has no form without batch norm here: Slim's arg scope also says how its first pooling is "
            "padded, and there are two such networks. Received: batch_norm=False"
        )
    return None


def check_input_shape(info, input_shape, include_top):
    """The shape of one image, checked, with the default filled in."""
    if input_shape is None:
        return (*((info.input_size,) * 2 if include_top else (None, None)), info.channels)
    try:
        height, width, channels = (None if side is None else int(side) for side in input_shape)
    except (TypeError, ValueError):
        raise UsageError(f"input_shape is (height, width, channels). Received: input_shape={input_shape}") from None
    if channels is None or channels < 1:
        raise UsageError(f"The number of channels must be known. Received: input_shape={input_shape}")
    least = info.smallest_side(include_top)
    if any(side is not None and side < least for side in (height, width)):
        raise UsageError(f"{info.name} needs images of at least {least}×{least}. Received: input_shape={input_shape}")
    return height, width, channels


def check_options(options):
    """Raises a `UsageError` for an option out of its range, whatever the network."""
    number = (int, float)
    rules = {
        "classes": (lambda v: isinstance(v, int) and v >= 1, "a whole number of at least 1"),
        "pooling": (lambda v: v in (None, "avg", "max"), 'None, "avg" or "max"'),
        "classifier_activation": (_is_activation, "the name of an activation in Keras, or None"),
        "dropout": (lambda v: isinstance(v, number) and 0 <= v < 1, "a rate of at least 0 and below 1"),
        "depth_multiplier": (lambda v: isinstance(v, number) and v > 0, "greater than zero"),
        "min_depth": (lambda v: isinstance(v, int) and v >= 1, "a whole number of at least 1"),
        "batch_norm": (lambda v: isinstance(v, bool), "True or False"),
        "head_blocks": (_is_names, "None, or a list of blocks' names"),
        "batch_norm_scale": (lambda v: v is None or isinstance(v, bool), "True, False or None"),
        "batch_norm_epsilon": (lambda v: v is None or (isinstance(v, number) and v > 0), "above 0, or None"),
        "batch_norm_decay": (lambda v: v is None or (isinstance(v, number) and 0 <= v <= 1), "from 0 to 1, or None"),
    }
    for option, (holds, rule) in rules.items():
        if option in options and not holds(options[option]):
            raise UsageError(f"{option} must be {rule}. Received: {option}={options[option]!r}")


def _is_names(value):
    return value is None or isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


def _is_activation(value):
    try:
        return callable(keras.activations.get(value))
    except ValueError:
        return False


def open_keras_file(path):
    """The model in a `.keras` file, of whomever: no code of its author's is run.

    Raises:
        CheckpointError: there is none, it is damaged, or unsafe: see `untrusted`.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no model at {path}.")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is no Keras model, or damaged: a .keras file is a zip archive, and this is none."
        )
    check_keras_file(path)
    with raising(CheckpointError, NO_MODEL.format(path), Exception):
        return keras.saving.load_model(path, compile=False)


def with_dtype(model, policy):
    """A model of the same layers, weights and card under another Keras dtype policy.

    Args:
        model: a model of this library, or a fused one.
        policy: "float32", "float16" or "bfloat16".

    Returns:
        A `SlimModel`. Its inputs are of the type they were; its outputs are of the policy's compute dtype.
    """

    def changed(config):
        if isinstance(config, (list, tuple)):
            return [changed(value) for value in config]
        if not isinstance(config, dict) or config.get("class_name") == "InputLayer":
            return config
        return {key: policy if key == "dtype" else changed(value) for key, value in config.items()}

    other = type(model).from_config({**changed(model.get_config()), "card": model.card})
    other.set_weights(model.get_weights())
    return other


def save_weights(model, path):
    """Writes a model's weights alone, `path` a `.weights.h5`, by way of a `.keras` file beside it.

    On a full disk HDF5 crashes the process; for a `.keras` file Keras has it write to memory.

    Raises:
        OSError: the disk is full.
    """
    part = Path(path)
    model_file = part.with_name("model.keras")
    model.save(model_file)
    with zipfile.ZipFile(model_file) as archive, archive.open("model.weights.h5") as weights, part.open("wb") as out:
        shutil.copyfileobj(weights, out)
    model_file.unlink()


def end_points(model, inner=True):
    """Slim's end points of a model: the outputs of its layers by name, in order.

    Args:
        model: a model of this library.
        inner: whether those inside of the ResNets' blocks are among them, which Slim collects too: residual units,
            their convolutions and shortcuts, such as `block1/unit_1/bottleneck_v1/conv1`. They are the values after
            the layer's batch norm and activation, where it has them.

    Returns:
        A dict from Slim's names (Conv2d_1a_3x3 … Mixed_7c, AuxLogits, PreLogits, Logits, Predictions) to Keras
        tensors, from which `keras.Model(model.input, tensor)` makes a model.
    """
    tensors = {}
    for layer in model.layers:
        if isinstance(layer, (keras.layers.InputLayer, Auxiliary)):
            continue
        repeat = isinstance(layer, Repeat)
        if inside := dict(inner_end_points(layer, layer.input)) if inner or repeat else {}:
            tensors |= inside | {list(inside)[-1]: layer.output}
        if not repeat:
            tensors[layer.name] = layer.output
    return tensors


def feature_extractor(model, names):
    """A model from the same images to end points of `model`, sharing its weights.

    Args:
        model: a model of this library.
        names: an end point, for a model with one output; or a list of them, for one whose output is a dict by name.
            Slim's full names will do, with the scope of the network ahead.

    Returns:
        A `keras.Model`. It saves where no block is in it both whole and in parts, since Keras saves the weights of a
        layer once.

    Raises:
        UsageError: no such end point; lists those there are.
    """
    tensors = end_points(model)
    if getattr(model, "card", None):
        tensors = {f"{model.card.scope}/{name}": tensor for name, tensor in tensors.items()} | tensors
    if unknown := [name for name in ([names] if isinstance(names, str) else names) if name not in tensors]:
        main = end_points(model, inner=False)
        near = [name for name in difflib.get_close_matches(unknown[0], tensors) if name not in main]
        raise UsageError(
            f"{model.name} has no end point {', '.join(unknown)}. It has: {', '.join([*main, *near])}."
            + (" What is missing was left out by fuse_for_inference." if getattr(model.card, "fused", False) else "")
        )
    outputs = tensors[names] if isinstance(names, str) else {name: tensors[name] for name in names}
    return keras.Model(model.inputs[0], outputs, name=f"{model.name}_features")
