"""The networks by name: `create_model`, `list_models`, and the decorator that makes a network out of its function."""

import dataclasses
import difflib
import fnmatch
import functools
import importlib
import inspect
from collections.abc import Callable

from inception_tf.errors import UsageError

# A network's name and the constructor in inception_tf/models/ that makes it. A new network is one more line here.
CONSTRUCTORS = {
    "inception_v1": "inception_v1:InceptionV1",
    "inception_v2": "inception_v2:InceptionV2",
    "inception_v3": "inception_v3:InceptionV3",
    "inception_v4": "inception_v4:InceptionV4",
    "inception_resnet_v2": "inception_resnet_v2:InceptionResNetV2",
    "resnet_v1_50": "resnet_v1:ResNetV1_50",
    "resnet_v1_101": "resnet_v1:ResNetV1_101",
    "resnet_v1_152": "resnet_v1:ResNetV1_152",
    "resnet_v2_50": "resnet_v2:ResNetV2_50",
    "resnet_v2_101": "resnet_v2:ResNetV2_101",
    "resnet_v2_152": "resnet_v2:ResNetV2_152",
    "vgg_16": "vgg:VGG16",
    "vgg_19": "vgg:VGG19",
    "alexnet_v2": "alexnet:AlexNetV2",
    "lenet": "lenet:LeNet",
    "nin": "nin:NetworkInNetwork",
}

# How `load_slim` is to load `weights`.
LOADING = ("exclude_scopes", "ema", "background", "scope")

COMMON_ARGUMENTS = """

    Args:
        include_top: whether the classifier is part of the model. Without it the output is the last feature map.
        weights: None for random weights; the name of a published checkpoint, such as "imagenet"; the path of a TF-Slim
            checkpoint in any container; or the path of a `.weights.h5` file. What is not given among `classes`,
            `aux_logits`, `depth_multiplier` and the like is read from the checkpoint. A `classes` that differs from the
            checkpoint's starts new heads on the checkpoint's trunk. Nothing is downloaded unless a name is given.
        input_shape: (height, width, channels); height and width may be None. Default:
            {size}×{size}×{channels}, with `include_top=False` any size. At least {minimum}×{minimum}, with
            `include_top=False` {trunk}×{trunk}.
        pooling: with `include_top=False`, None for the feature map N×h×w×C, "avg" or "max" for N×C.
        classes: the number of classes, the background class included where there is one.
        classifier_activation: the activation of the logits, None for the logits themselves.
        dropout: the rate, the share of features dropped in training (1 − Slim's `dropout_keep_prob`).
        aux_logits: whether the auxiliary head is part of the model: not an output, but an end point, `AuxLogits`.
        depth_multiplier: factor on every layer's channels, above 0.
        min_depth: the channels that `depth_multiplier` leaves at least.
        spatial_squeeze: True for logits of N×classes. False for a map of N×h×w×classes: dense evaluation.
        name: the model's name. Default: the network's Slim scope.

    Returns:
        A Keras model from float32 images N×H×W×3, preprocessed as the network's `Preprocessing` says, to
        probabilities N×classes. Its layers are Slim's end points.

    Raises:
        UsageError: an argument out of range.
        CheckpointError, MismatchError: `weights` is no checkpoint, or does not fit.
"""


@dataclasses.dataclass(frozen=True)
class Network:
    """The facts of a network that are not in its graph.

    Attributes:
        name: its name here and the name of its function in TF-Slim.
        scope: its default variable scope.
        input_size: the side of the images it was published for.
        min_size: the smallest side at which every layer has an output.
        min_trunk_size: the same without the top, where that is smaller.
        channels: those of the images it was published for.
        classes: the classes of the published checkpoint, 1001 with the background class.
        preprocessing: the kind of `inception_tf.images.Preprocessing`.
        heads: the scopes whose variables depend on the number of classes.
        top: further scopes that the classifier alone has. A new number of classes leaves them as they are.
        variants: options that give other variables, in the order in which a checkpoint is tried for them.
        build: the function from (inputs, **options) to the output tensor.
    """

    name: str
    scope: str
    input_size: int
    min_size: int
    classes: int
    min_trunk_size: int = None
    channels: int = 3
    preprocessing: str = "inception"
    heads: tuple = ("Logits", "AuxLogits")
    top: tuple = ()
    variants: tuple = ({},)
    build: Callable = None

    @property
    def options(self):
        """The names of the options that `build` takes."""
        return list(inspect.signature(self.build).parameters)[1:]


def network(**facts):
    """Makes a model constructor, as keras.applications has them, out of a function from inputs to an output.

    The constructor takes the function's options, and `weights`, `input_shape` and `name`.
    """

    def decorate(build):
        info = Network(**facts, build=build)
        options = list(inspect.signature(build).parameters.values())[1:]
        keyword = functools.partial(inspect.Parameter, kind=inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)
        parameters = [options[0], keyword("weights"), keyword("input_shape"), *options[1:], keyword("name")]
        signature = inspect.Signature(parameters)

        @functools.wraps(build)
        def constructor(*args, **kwargs):
            given = dict(signature.bind(*args, **kwargs).arguments)
            weights = given.pop("weights", None)
            if weights is None:
                return build_model(info, **given)
            return load_weights(info, weights, given)

        constructor.__signature__ = signature
        common = COMMON_ARGUMENTS.format(
            size=info.input_size, channels=info.channels, minimum=info.min_size, trunk=smallest_side(info, False)
        )
        constructor.__doc__ = inspect.cleandoc(build.__doc__) + inspect.cleandoc("\n" + common).join(["\n\n", "\n"])
        constructor.network = info
        return constructor

    return decorate


def load_weights(info, weights, options, **loading):
    """The Keras model of a `Network` with weights. The one arrow that points up: networks know of no checkpoints."""
    from inception_tf.zoo import load_pretrained

    return load_pretrained(info, weights, options, **loading)


def build_model(info, input_shape=None, name=None, **options):
    """The Keras model of a `Network` with random weights. Arguments as its constructor's."""
    import keras  # here, so that the list of networks does not wait for it

    from inception_tf.models.model import SlimModel

    # As JSON, and so the model's card, knows them.
    options = {option: value.item() if hasattr(value, "item") else value for option, value in options.items()}
    if callable(options.get("classifier_activation")):
        options["classifier_activation"] = keras.activations.serialize(options["classifier_activation"])
    check_options(options)
    options = build_options(info, **options)
    input_shape = check_input_shape(info, input_shape, options["include_top"])
    inputs = keras.Input(input_shape, name="images")
    outputs = info.build(inputs, **options)
    size = [side or info.input_size for side in input_shape[:2]]
    card = {
        "network": info.name,
        "scope": info.scope,
        "options": options,
        "preprocessing": {"kind": info.preprocessing, "size": size, "channels": input_shape[2]},
        "labels": None,
    }
    return SlimModel(inputs, outputs, name=name or info.scope, card=card)


def build_options(info, **given):
    """All options of a network's `build`: those given, and its defaults. Others among those given are left out."""
    defaults = {p.name: p.default for p in list(inspect.signature(info.build).parameters.values())[1:]}
    return {option: given.get(option, default) for option, default in defaults.items()}


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
    least = smallest_side(info, include_top)
    if any(side is not None and side < least for side in (height, width)):
        raise UsageError(f"{info.name} needs images of at least {least}×{least}. Received: input_shape={input_shape}")
    return height, width, channels


def smallest_side(info, include_top):
    """The smallest side of an image at which every layer of a network, with its top or without, has an output."""
    return info.min_size if include_top else info.min_trunk_size or info.min_size


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
    }
    for option, (holds, rule) in rules.items():
        if option in options and not holds(options[option]):
            raise UsageError(f"{option} must be {rule}. Received: {option}={options[option]!r}")


def _is_activation(value):
    import keras

    try:
        return callable(keras.activations.get(value))
    except ValueError:
        return False


def find_network(name):
    """The `Network` called `name`.

    Raises:
        UsageError: there is none; names the nearest ones.
    """
    return constructor_of(name).network


def constructor_of(name):
    """The constructor of the network called `name`, `InceptionV3` for "inception_v3"."""
    if name not in CONSTRUCTORS:
        near = difflib.get_close_matches(str(name), CONSTRUCTORS) or sorted(CONSTRUCTORS)
        raise UsageError(f"There is no network {name!r}. Did you mean {' or '.join(near)}?")
    module, function = CONSTRUCTORS[name].split(":")
    return getattr(importlib.import_module(f"inception_tf.models.{module}"), function)


def create_model(name, /, weights=None, **options):
    """A Keras model by its network's name, as `timm.create_model`.

    Args:
        name: one of `list_models()`.
        weights, **options: as the network's constructor takes them, see `inception_tf.InceptionV3`; and, for a Slim
            checkpoint, `exclude_scopes`, `ema`, `background` and `scope`, as `load_slim` takes them.

    Returns:
        A Keras model from preprocessed float32 images N×H×W×3 to probabilities N×classes.

    Raises:
        UsageError: no such network, or an argument out of range.
        CheckpointError, MismatchError: `weights` is no checkpoint, or does not fit.
    """
    constructor = constructor_of(name)
    loading = {option: options.pop(option) for option in LOADING if option in options}
    unknown = set(options) - set(inspect.signature(constructor).parameters)
    if unknown:
        known = ", ".join(inspect.signature(constructor).parameters)
        raise UsageError(f"{name} has no option {', '.join(sorted(unknown))}. It has: {known}.")
    if weights is None:
        if loading:
            raise UsageError(f"{', '.join(loading)} tells how to load weights. Received: weights=None")
        return constructor(**options)
    return load_weights(constructor.network, weights, options, **loading)


def list_models(pattern="*"):
    """The names of the networks that match `pattern`, a wildcard such as "inception*", sorted."""
    return sorted(fnmatch.filter(CONSTRUCTORS, pattern))
