"""The networks by name, and the decorator by which a network's file registers it."""

import dataclasses
import difflib
import fnmatch
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable

from inception_tf import models
from inception_tf.errors import UsageError

_NETWORKS = {}

# The options that every network with batch norm has, besides those of its function, by the argument that they stand
# for of `keras.layers.BatchNormalization`; "batch_norm" itself says whether there is any.
BATCH_NORM_ARGUMENTS = {"batch_norm_scale": "scale", "batch_norm_epsilon": "epsilon", "batch_norm_decay": "momentum"}
BATCH_NORM_OPTIONS = {"batch_norm": True, **dict.fromkeys(BATCH_NORM_ARGUMENTS)}


@dataclasses.dataclass(frozen=True)
class Network:
    """The facts of a network that are not in its graph.

    Attributes:
        name: its name here and the name of its function in TF-Slim.
        scope: its default variable scope.
        input_size: the side of the images it was published for.
        min_size: the smallest side at which every layer has an output.
        min_backbone_size: the same without the top, where that is smaller.
        channels: those of the images it was published for.
        classes: the classes of the published checkpoint, 1001 with the background class.
        preprocessing: the kind of `inception_tf.images.Preprocessing`.
        backbone: the layer whose output is the last feature map. Default: the one that the classifier takes.
        heads: the scopes whose variables depend on the number of classes, the classifier's first.
        top: further scopes that the classifier alone has. A new number of classes leaves them as they are.
        shares_variables: whether another network has the same: a checkpoint is that one's, but under this scope.
        variants: options that give other variables, in the order in which a checkpoint is tried for them.
        batch_norm: the arguments of `keras.layers.BatchNormalization` that Slim's arg scope stands for, where the
            network has batch norm.
        arg_scope_pads: whether that arg scope also says how a pooling is padded, so that without batch norm two graphs
            of Slim, with the arg scope and without, have the same variables.
        build: the function from (inputs, **options) to the output tensor.
    """

    name: str
    scope: str
    input_size: int
    min_size: int
    classes: int
    min_backbone_size: int = None
    channels: int = 3
    preprocessing: str = "inception"
    backbone: str = None
    heads: tuple = ("Logits", "AuxLogits")
    top: tuple = ()
    shares_variables: bool = False
    variants: tuple = ({},)
    batch_norm: dict = None
    arg_scope_pads: bool = False
    build: Callable = None

    @property
    def options(self):
        """The names of the options that the network's constructor takes."""
        return list(self.defaults)

    @property
    def defaults(self):
        """The options of the network's constructor, a dict from names to defaults: `build`'s, then batch norm's."""
        own = {p.name: p.default for p in list(inspect.signature(self.build).parameters.values())[1:]}
        return {**own, **(BATCH_NORM_OPTIONS if self.batch_norm else {})}

    def smallest_side(self, include_top):
        """The smallest side of an image at which every layer, with the top or without, has an output."""
        return self.min_size if include_top else self.min_backbone_size or self.min_size

    def options_for(self, **given):
        """All options: those given, and the defaults; of batch norm's those alone that are not the default.

        Others among those given are left out.
        """
        options = {option: given.get(option, default) for option, default in self.defaults.items()}
        return {o: value for o, value in options.items() if o not in BATCH_NORM_OPTIONS or value != self.defaults[o]}


def network(**facts):
    """Registers a function from (inputs, **options) to an output tensor as a network, and returns it.

    Its name in Python is that of the public constructor: `InceptionV3`. `zoo.constructor` adds the arguments that all
    constructors have.
    """

    def register(build):
        info = Network(**facts, build=build)
        _NETWORKS[info.name] = info
        return build

    return register


def networks():
    """Every network, a dict from names to `Network`. Imports the networks' files, and so Keras."""
    _import_files()
    return _NETWORKS


@functools.cache
def _import_files():
    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"{models.__name__}.{module.name}")


def find_network(name):
    """The `Network` called `name`.

    Raises:
        UsageError: there is none; names the nearest ones.
    """
    known = networks()
    if name not in known:
        near = difflib.get_close_matches(str(name), known) or sorted(known)
        raise UsageError(f"There is no network {name!r}. Did you mean {' or '.join(near)}?")
    return known[name]


def list_models(pattern="*"):
    """The names of the networks, as `timm.list_models`.

    Args:
        pattern: a wildcard such as "inception*".

    Returns:
        A sorted list of those that match.
    """
    return sorted(fnmatch.filter(networks(), pattern))
