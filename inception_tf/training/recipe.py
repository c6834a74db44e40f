"""How a network is fine-tuned: dataclasses that print as YAML and load from it.

An option is written once, in a field: its default, what it means, and the rule for its values. The docstring of the
class, the checks, YAML and the options of `inception-tf finetune` all come from it.
"""

import dataclasses
import inspect
import math
import textwrap
from collections.abc import Callable
from pathlib import Path

import yaml

from inception_tf.errors import UsageError, reason

# The arguments of every Keras optimizer unless the recipe says otherwise, and its usual learning rate for new heads.
# Those of RMSProp are Slim's (train_image_classifier.py).
OPTIMIZERS = {
    "rmsprop": ({"rho": 0.9, "momentum": 0.9, "epsilon": 1.0}, 1e-2),
    "sgd": ({"momentum": 0.9}, 1e-2),
    "adam": ({}, 1e-3),
    "adamw": ({"weight_decay": 4e-3}, 1e-3),
    "lion": ({}, 1e-4),
}

# With fewer images, a few batches estimate batch norm's statistics worse than the ones that came with the weights.
ENOUGH_IMAGES = 5000


@dataclasses.dataclass(frozen=True)
class Rule:
    """What the value of an option must be.

    Attributes:
        holds: a function from a value to whether it is allowed.
        text: the same in words, after "must be".
        parse: the function that turns the command line's text into a value; None where there is no such option.
    """

    holds: Callable
    text: str
    parse: Callable = None


def _number(holds, text):
    return Rule(lambda v: type(v) in (int, float) and math.isfinite(v) and holds(v), text, float)


def _integer(holds, text):
    return Rule(lambda v: type(v) is int and holds(v), text, int)


def _one_of(*values):
    return Rule(lambda v: v in values, f"one of {', '.join(values)}", str)


def _optional(rule):
    return Rule(lambda v: v is None or rule.holds(v), f"None, or {rule.text}", rule.parse)


def _is_globs(value):
    return isinstance(value, tuple) and all(isinstance(glob, str) and glob for glob in value)


def _is_size(value):
    sides = value if isinstance(value, (list, tuple)) else (value,)
    return len(sides) in (1, 2) and all(COUNT.holds(side) for side in sides)


def _is_class_weights(value):
    return value == "balanced" or isinstance(value, dict) and all(map(NOT_NEGATIVE.holds, value.values()))


COUNT = _integer(lambda v: v > 0, "an integer above 0")
SEED = _integer(lambda v: 0 <= v < 2**31, "an integer of at least 0 and below 2³¹")
POSITIVE = _number(lambda v: v > 0, "a number above 0")
NOT_NEGATIVE = _number(lambda v: v >= 0, "a number of at least 0")
FRACTION = _number(lambda v: 0 <= v < 1, "at least 0 and below 1")
PART = _number(lambda v: 0 < v <= 1, "above 0 and at most 1")
BOOL = Rule(lambda v: isinstance(v, bool), "true or false", bool)
NAME = Rule(lambda v: isinstance(v, str) and v, "a text that is not empty")
DICT = Rule(lambda v: isinstance(v, dict), "a dict of arguments of the Keras optimizer")
GLOBS = Rule(_is_globs, "a list of scope globs such as Mixed_7*", lambda text: tuple(text.split(",")))
SIZE = Rule(_is_size, "a side above 0, or (height, width)", int)
CLASS_WEIGHTS = Rule(_is_class_weights, '"balanced", or a dict from class names to factors of at least 0', str)
AUGMENT = _one_of("fast", "full", "none")
PHASES = Rule(
    lambda v: (
        isinstance(v, tuple) and v and all(isinstance(p, Phase) for p in v) and len({p.name for p in v}) == len(v)
    ),
    "a list of phases that is not empty, each with a name of its own",
)


def option(rule, help, default=dataclasses.MISSING, *, otherwise=None, alias=None):
    """A field of `Recipe` or `Phase`.

    Args:
        rule: a `Rule` for its values.
        help: what it means.
        default: its default, or a function that makes it. Without one, the option is required.
        otherwise: what a default of None stands for. None is then allowed.
        alias: a second name on the command line.
    """
    metadata = {"rule": _optional(rule) if otherwise else rule, "help": help, "otherwise": otherwise, "alias": alias}
    kind = "default_factory" if callable(default) else "default"
    return dataclasses.field(**{kind: default}, metadata=metadata)


def describe(field):
    """What an option means, and its default."""
    default = field.metadata["otherwise"] or field.default
    if isinstance(default, tuple):
        default = ", ".join(default)
    shown = default is not dataclasses.MISSING and default is not False and default != ""
    return field.metadata["help"] + (f" ({default})" if shown else "")


def _documented(cls):
    """Lists the options in the docstring of their class, and what is raised."""
    wrap = {"width": 112, "initial_indent": " " * 4, "subsequent_indent": " " * 8}
    lines = (textwrap.fill(f"{field.name}: {describe(field)}", **wrap) for field in dataclasses.fields(cls))
    cls.__doc__ = "\n".join(
        [
            inspect.cleandoc(cls.__doc__ or ""),
            "",
            "Attributes:",
            *lines,
            "",
            "Raises:",
            "    UsageError: a value out of its range.",
        ]
    )
    return cls


def _check(options):
    for field in dataclasses.fields(options):
        rule, value = field.metadata["rule"], getattr(options, field.name)
        if not rule.holds(value):
            kind = type(options).__name__
            raise UsageError(f"{field.name} must be {rule.text}. Received: {kind}({field.name}={value!r})")


def _from_dict(cls, values):
    kind, fields = cls.__name__.lower(), dataclasses.fields(cls)
    if not isinstance(values, dict):
        raise UsageError(f"A {kind} is YAML, a `name: value` on each line. Received: {str(values)[:80]!r}")
    names = [field.name for field in fields]
    unknown = [str(name) for name in values if name not in names]
    if unknown:
        raise UsageError(f"A {kind} has no {', '.join(unknown)}. It has: {', '.join(names)}.")
    missing = [f.name for f in fields if f.name not in values and f.default is f.default_factory is dataclasses.MISSING]
    if missing:
        raise UsageError(f"A {kind} needs {' and '.join(missing)}. Received: {values}")
    return cls(**values)


def _globs(value):
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


@_documented
@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of the training, with an optimizer of its own.

    Heads alone, without augmentation, are trained on features that are computed once, in a fraction of the time.
    """

    name: str = option(NAME, "what the metrics call it")
    epochs: int = option(COUNT, "how many")
    train: tuple = option(GLOBS, 'scopes that are trained, such as Mixed_7*; "heads" for the network\'s heads', ("*",))
    learning_rate: float = option(
        POSITIVE,
        "at its start, after the warm-up",
        None,
        otherwise="the optimizer's usual one for heads, a hundredth of it where more is trained",
    )
    augment: str = option(AUGMENT, "as in Recipe, for this phase", None, otherwise="the recipe's")
    ridge: bool = option(
        BOOL,
        "begin with the heads' ridge regression on the features, whose penalty leaves one image out best; for heads "
        "alone, without augmentation",
        False,
    )

    def __post_init__(self):
        object.__setattr__(self, "train", _globs(self.train))
        _check(self)


# Slim's scripts/finetune_inception_v3_on_flowers.sh: 1000 and 500 steps of 32 among 3320 photographs.
TWO_PHASES = (Phase("heads", 10, ("heads",)), Phase("all", 5))
ONE_PHASE = (Phase("all", 15),)


@_documented
@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides how a network is trained, apart from the data and the network."""

    phases: tuple = option(
        PHASES,
        "a sequence of Phase",
        None,
        otherwise="Slim's two, the heads alone and then everything at a hundredth of the rate; one without weights",
    )
    batch_size: int = option(COUNT, "images per step, over all devices and workers", 32)
    freeze: tuple = option(GLOBS, "scopes that no phase trains, such as Conv2d_*,Mixed_5*", ())
    optimizer: str = option(
        _one_of(*OPTIMIZERS), "rmsprop (TensorFlow 1's, as in Slim), sgd, adam, adamw or lion", "rmsprop"
    )
    optimizer_options: dict = option(DICT, "further arguments of the optimizer in keras.optimizers", dict)
    schedule: str = option(
        _one_of("constant", "exponential", "polynomial", "cosine"),
        "of the learning rate in a phase: constant; exponential, times decay_rate every decay_epochs, in steps, as in "
        "Slim; polynomial, a line down to end_learning_rate; cosine, down to the same",
        "constant",
    )
    warmup_epochs: float = option(NOT_NEGATIVE, "of each phase, over which the learning rate grows from 0", 0)
    decay_rate: float = option(PART, "of the exponential schedule", 0.94)
    decay_epochs: float = option(POSITIVE, "of the exponential schedule", 2)
    end_learning_rate: float = option(
        _number(lambda v: 0 <= v <= 1, "a fraction, from 0 to 1, of the first learning rate"),
        "of the polynomial and the cosine schedule, as a fraction of the first",
        0.01,
    )
    label_smoothing: float = option(FRACTION, "the fraction of each label that is spread over all classes", 0)
    class_weights: object = option(
        CLASS_WEIGHTS,
        "balanced (inverse to how often a class occurs), or a dict from class names to factors",
        None,
        otherwise="all alike",
    )
    aux_loss: float = option(NOT_NEGATIVE, "factor on the auxiliary head's loss; 0 leaves the head out", 0.4)
    l2: float = option(NOT_NEGATIVE, "on the kernels of convolutions, Slim's weight_decay: l2 · Σw²/2", 4e-5)
    dropout: float = option(FRACTION, "rate before the classifier", None, otherwise="the network's")
    ema: float = option(
        _number(lambda v: 0 < v < 1, "a decay above 0 and below 1"),
        "decay of the moving averages of the weights, which then are evaluated and saved",
        None,
        otherwise="no averages",
    )
    patience: int = option(
        COUNT,
        "epochs without a better validation accuracy after which a phase ends",
        None,
        otherwise="all of its epochs",
    )
    accumulate: int = option(COUNT, "steps whose gradients are averaged into one update", 1)
    clip: float = option(POSITIVE, "largest global norm of the gradients", None, otherwise="no limit")
    mixup: float = option(NOT_NEGATIVE, "alpha of mixup's beta distribution (arXiv 1710.09412); 0 for none", 0)
    batch_norm: str = option(
        _one_of("frozen", "train", "recalibrate"),
        "frozen, the moving statistics stay; train, the batch's are used and the moving ones follow; recalibrate, as "
        "train, but the moving ones are recomputed over the training set before each evaluation",
        None,
        otherwise=f"frozen below {ENOUGH_IMAGES} images where there are weights to start from, else train",
        alias="bn",
    )
    batch_norm_momentum: float = option(
        FRACTION, "of batch norm's moving statistics", None, otherwise="by the number of steps", alias="bn-momentum"
    )
    augment: str = option(
        AUGMENT,
        "Slim's training preprocessing, fast (brightness and saturation) or full (hue and contrast too), or none, the "
        "evaluation preprocessing",
        "fast",
    )
    crop_area: float = option(
        PART,
        "the smallest part of an image's area that a training crop shows, but for the preprocessing of VGG and LeNet",
        0.05,
    )
    precision: str = option(
        _one_of("float32", "mixed_bfloat16", "mixed_float16"),
        "Keras dtype policy: float32, mixed_bfloat16 or mixed_float16",
        "float32",
    )
    xla: bool = option(BOOL, "compile the step with XLA, as JAX always does", False)
    head_blocks: tuple = option(
        GLOBS,
        "blocks, such as Mixed_5d,Mixed_6*, whose features the classifier takes beside the last: of Inception-v3, "
        "other networks have no such option",
        (),
    )
    size: object = option(SIZE, "side of the images, or (height, width)", None, otherwise="the network's")
    train_scale: float = option(
        PART,
        "side of the augmented training images, as a part of the size. Things look larger in a random crop, so that "
        "smaller images, whose steps cost less, go with evaluation at the full size (FixRes, arXiv 1906.06423)",
        1.0,
    )
    seed: int = option(SEED, "of new weights, data order, augmentation and dropout", 0)

    def __post_init__(self):
        for name in ("freeze", "head_blocks"):
            object.__setattr__(self, name, _globs(getattr(self, name)))
        if isinstance(self.phases, (list, tuple)):
            phases = (_from_dict(Phase, phase) if isinstance(phase, dict) else phase for phase in self.phases)
            object.__setattr__(self, "phases", tuple(phases))
        _check(self)

    def to_yaml(self):
        """The recipe as YAML, all of it, in the order of the fields."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)

    __str__ = to_yaml

    @classmethod
    def from_yaml(cls, source):
        """The recipe of a name in `NAMED`, in YAML text, or in a file. What it leaves out has its default.

        Raises:
            UsageError: no YAML, an unknown name, a value out of range.
        """
        text = str(source)
        if text in NAMED:
            return NAMED[text]
        if isinstance(source, Path) or "\n" not in text and ":" not in text:
            try:
                text = Path(source).read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"Cannot read the recipe {source}: {getattr(error, 'strerror', error)}.") from error
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"A recipe is YAML, a `name: value` on each line. Received: {reason(error)}") from error
        return cls.from_dict({} if values is None else values)

    @classmethod
    def from_dict(cls, values):
        """The recipe of a dict with the fields' names; errors as in `from_yaml`."""
        return _from_dict(cls, values)

    def filled(self, images, pretrained):
        """The recipe with the defaults that depend on the data: phases, learning rates, batch norm.

        Args:
            images: how many the training set has.
            pretrained: whether the network starts from weights.
        """
        for_heads = OPTIMIZERS[self.optimizer][1]
        phases = []
        for phase in self.phases or (TWO_PHASES if pretrained else ONE_PHASE):
            usual = for_heads if phase.train == ("heads",) or not pretrained else for_heads / 100
            rate, augment = phase.learning_rate or usual, phase.augment or self.augment
            phases.append(dataclasses.replace(phase, learning_rate=rate, augment=augment))
        mode = self.batch_norm or ("frozen" if pretrained and images < ENOUGH_IMAGES else "train")
        return dataclasses.replace(self, phases=phases, batch_norm=mode)


# A run that asks for no more than these has the recipe that reached more where that was tried (`finetune`).
COMMON = {"batch_size", "class_weights", "precision", "seed", "size", "xla"}

# "modern", for few images: nothing below the heads is trained. The classifier, on features of
# several blocks where the network can (Head2Toe, arXiv 2201.03529), is a ridge regression; one epoch of a rate that
# hardly changes it makes it a run as any other. Dropout, which the regression did not see, would undo it.
NAMED = {
    "slim": Recipe(),
    "modern": Recipe(
        phases=(Phase("heads", 1, ("heads",), 1e-6, "none", ridge=True),),
        head_blocks=("Mixed_5d", "Mixed_6[ace]", "Mixed_7*"),
        optimizer="sgd",
        aux_loss=0,
        l2=0,
        dropout=0,
    ),
}
