"""How a network is fine-tuned: a dataclass that prints as YAML and loads from it."""

import dataclasses
import math
from pathlib import Path

import yaml

from inception_tf.errors import UsageError

BATCH_NORM = ("frozen", "train", "recalibrate")
AUGMENTATIONS = ("fast", "full", "none")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
SCHEDULES = ("constant", "exponential", "polynomial", "cosine")

# What every optimizer of Keras is given unless the recipe says otherwise, and its usual learning rate for new heads.
# That of RMSProp is Slim's (train_image_classifier.py).
OPTIMIZERS = {
    "rmsprop": ({"rho": 0.9, "momentum": 0.9, "epsilon": 1.0}, 1e-2),
    "sgd": ({"momentum": 0.9}, 1e-2),
    "adam": ({}, 1e-3),
    "adamw": ({"weight_decay": 4e-3}, 1e-3),
    "lion": ({}, 1e-4),
}


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of the training, with an optimizer of its own.

    Attributes:
        name: what the metrics call it.
        epochs: how many.
        train: scope globs of what is trained, such as "Mixed_7*"; "heads" stands for the network's heads.
        learning_rate: at its start, after the warm-up. Default: the optimizer's usual one for heads, a hundredth of
            that where more is trained.
        augment: as `Recipe.augment`, for this phase. Heads alone, without augmentation, are trained on features that
            are computed once, in a fraction of the time.
    """

    name: str
    epochs: int
    train: tuple = ("*",)
    learning_rate: float = None
    augment: str = None


# Below so many images, the statistics of batch norm are worth more as they came than as a few batches tell them.
ENOUGH_IMAGES = 5000

# Slim's scripts/finetune_inception_v3_on_flowers.sh: 1000 and 500 steps of 32 among 3320 photographs.
TWO_PHASES = (Phase("heads", 10, ("heads",)), Phase("all", 5))
ONE_PHASE = (Phase("all", 15),)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides how the training goes, but for the data and the network.

    Attributes:
        phases: a sequence of `Phase`. Default: Slim's two, the heads alone and then everything at a hundredth of the
            rate; a single one for a network without weights.
        batch_size: images a step, over all devices and workers.
        freeze: scope globs that no phase trains.
        optimizer: "rmsprop" (TensorFlow 1's, as Slim), "sgd", "adam", "adamw" or "lion".
        optimizer_options: further arguments of `keras.optimizers`; momentum 0.9 and epsilon 1.0 for RMSProp.
        schedule: of the learning rate in each phase: "constant"; "exponential", times `decay_rate` every
            `decay_epochs`, in steps, as Slim; "polynomial", a line down to `end_learning_rate` (a share of the first);
            "cosine", down to the same.
        warmup_epochs: of each phase, over which the learning rate grows from 0.
        label_smoothing: the share of the labels spread over all classes.
        class_weights: None, "balanced" (inverse to how often a class comes), or a dict from class names to factors.
        aux_loss: the auxiliary head's loss is multiplied by this; 0 leaves the head out.
        l2: on the kernels of convolutions, Slim's `weight_decay`: l2 · Σw²/2.
        dropout: the rate before the classifier. Default: the network's.
        ema: the decay of the moving averages of the weights, which then are evaluated and kept. Default: no averages.
        accumulate: steps whose gradients are averaged into one update.
        clip: the largest global norm of the gradients. Default: no limit.
        mixup: alpha of the beta distribution (arXiv 1710.09412); 0 is none.
        batch_norm: "frozen", the moving statistics stay; "train", the batch's are used and the moving ones follow;
            "recalibrate", as "train", but the moving ones are recomputed over the training set before each evaluation.
            Default: "frozen" below 5000 training images, where there are weights to start from.
        batch_norm_momentum: of the moving statistics. Default: by the number of steps.
        augment: Slim's training preprocessing, "fast" (brightness and saturation) or "full" (hue and contrast too), or
            "none", the evaluation preprocessing.
        precision: the Keras dtype policy.
        xla: whether the step is compiled with XLA. On JAX it always is.
        size: the side of the images, or (height, width). Default: the network's.
        seed: of new weights, data order, augmentation and dropout.
    """

    phases: tuple = None
    batch_size: int = 32
    freeze: tuple = ()
    optimizer: str = "rmsprop"
    optimizer_options: dict = dataclasses.field(default_factory=dict)
    schedule: str = "constant"
    warmup_epochs: float = 0
    decay_rate: float = 0.94
    decay_epochs: float = 2
    end_learning_rate: float = 0.01
    label_smoothing: float = 0
    class_weights: object = None
    aux_loss: float = 0.4
    l2: float = 4e-5
    dropout: float = None
    ema: float = None
    accumulate: int = 1
    clip: float = None
    mixup: float = 0
    batch_norm: str = None
    batch_norm_momentum: float = None
    augment: str = "fast"
    precision: str = "float32"
    xla: bool = False
    size: object = None
    seed: int = 0

    def __post_init__(self):
        if self.phases is not None:
            object.__setattr__(self, "phases", tuple(map(_phase, _sequence("phases", self.phases))))
        object.__setattr__(self, "freeze", _globs("freeze", self.freeze))
        for field, (holds, rule) in _RULES.items():
            value = getattr(self, field)
            if not holds(value):
                raise UsageError(f"{field} must be {rule}. Received: {field}={value!r}")
        for phase in self.phases or ():
            if not (_whole(phase.epochs) and phase.epochs > 0):
                raise UsageError(f"A phase takes a whole number of epochs above 0. Received: {phase}")
            if phase.learning_rate is not None and not _between(phase.learning_rate, 0, math.inf):
                raise UsageError(f"learning_rate must be a number above 0. Received: {phase}")
            if phase.augment not in (None, *AUGMENTATIONS):
                raise UsageError(f"augment must be one of {', '.join(AUGMENTATIONS)}. Received: {phase}")

    def to_yaml(self):
        """The recipe as YAML, all of it, in the order of the fields."""
        return yaml.safe_dump(plain(self), sort_keys=False, allow_unicode=True)

    __str__ = to_yaml

    @classmethod
    def from_yaml(cls, source):
        """The recipe in YAML text, or in the file of that name. What it leaves out is as by default.

        Raises:
            UsageError: no YAML, an unknown name, a value out of range.
        """
        text = str(source)
        if isinstance(source, Path) or "\n" not in text and ":" not in text:
            try:
                text = Path(source).read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"Cannot read the recipe {source}: {getattr(error, 'strerror', error)}.") from error
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"A recipe is YAML, a `name: value` a line. Received: {_first_line(error)}") from error
        return cls.from_dict({} if values is None else values)

    @classmethod
    def from_dict(cls, values):
        """The recipe of a dict with the fields' names; errors as `from_yaml`."""
        if not isinstance(values, dict):
            raise UsageError(f"A recipe is YAML, a `name: value` a line. Received: {str(values)[:80]!r}")
        fields = [field.name for field in dataclasses.fields(cls)]
        unknown = [str(name) for name in values if name not in fields]
        if unknown:
            raise UsageError(f"A recipe has no {', '.join(unknown)}. It has: {', '.join(fields)}.")
        return cls(**values)

    def filled(self, images, pretrained):
        """The recipe with what was left to the data filled in: phases, learning rates, batch norm.

        Args:
            images: how many the training set has.
            pretrained: whether the network starts from weights.
        """
        first = OPTIMIZERS[self.optimizer][1]

        def rate(phase):
            return first if phase.train == ("heads",) or not pretrained else first / 100

        phases = [
            dataclasses.replace(
                phase, learning_rate=phase.learning_rate or rate(phase), augment=phase.augment or self.augment
            )
            for phase in self.phases or (TWO_PHASES if pretrained else ONE_PHASE)
        ]
        mode = self.batch_norm or ("frozen" if pretrained and images < ENOUGH_IMAGES else "train")
        return dataclasses.replace(self, phases=phases, batch_norm=mode)


def plain(value):
    """A recipe, or a part of it, in dicts, lists, numbers and strings alone."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _phase(value):
    if isinstance(value, Phase):
        return dataclasses.replace(value, train=_globs("train", value.train))
    fields = [field.name for field in dataclasses.fields(Phase)]
    if not isinstance(value, dict) or not {"name", "epochs"} <= set(value) <= set(fields):
        raise UsageError(f"A phase has name and epochs, and may have {', '.join(fields[2:])}. Received: {value!r}")
    return _phase(Phase(**value))


def _sequence(name, value):
    if not isinstance(value, (list, tuple)) or not value:
        raise UsageError(f"{name} is a list that is not empty. Received: {name}={value!r}")
    return value


def _globs(name, value):
    globs = (value,) if isinstance(value, str) else value
    if not isinstance(globs, (list, tuple)) or not all(isinstance(glob, str) and glob for glob in globs):
        raise UsageError(f"{name} is a list of scope globs such as Mixed_7*. Received: {name}={value!r}")
    return tuple(globs)


def _first_line(error):
    return " ".join(str(error).split())[:200]


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _between(value, low, high, low_too=False, high_too=False):
    return _number(value) and (low < value or low_too and low == value) and (value < high or high_too and high == value)


def _optional(holds):
    return lambda value: value is None or holds(value)


def _size(value):
    sides = value if isinstance(value, (list, tuple)) else (value,)
    return len(sides) in (1, 2) and all(_whole(side) and side > 0 for side in sides)


def _one_of(values):
    return (lambda value: value in values), f"one of {', '.join(values)}"


_POSITIVE = (lambda v: _whole(v) and v > 0), "a whole number above 0"
_SHARE = (lambda v: _between(v, 0, 1, low_too=True)), "at least 0 and below 1"
_NOT_NEGATIVE = (lambda v: _between(v, 0, math.inf, low_too=True)), "a number of at least 0"
_RULES = {
    "batch_size": _POSITIVE,
    "optimizer": _one_of(list(OPTIMIZERS)),
    "optimizer_options": ((lambda v: isinstance(v, dict)), "a dict of arguments of the Keras optimizer"),
    "schedule": _one_of(SCHEDULES),
    "warmup_epochs": _NOT_NEGATIVE,
    "decay_rate": ((lambda v: _between(v, 0, 1, high_too=True)), "above 0 and at most 1"),
    "decay_epochs": ((lambda v: _between(v, 0, math.inf)), "a number above 0"),
    "end_learning_rate": ((lambda v: _between(v, 0, 1, True, True)), "a share from 0 to 1 of the first learning rate"),
    "label_smoothing": _SHARE,
    "class_weights": (
        (
            lambda v: (
                v in (None, "balanced")
                or isinstance(v, dict)
                and all(_between(w, 0, math.inf, low_too=True) for w in v.values())
            )
        ),
        'None, "balanced", or a dict from class names to factors of at least 0',
    ),
    "aux_loss": _NOT_NEGATIVE,
    "l2": _NOT_NEGATIVE,
    "dropout": (_optional(_SHARE[0]), "None, or " + _SHARE[1]),
    "ema": (_optional(lambda v: _between(v, 0, 1)), "None, or a decay above 0 and below 1"),
    "accumulate": _POSITIVE,
    "clip": (_optional(lambda v: _between(v, 0, math.inf)), "None, or a number above 0"),
    "mixup": _NOT_NEGATIVE,
    "batch_norm": (_optional(lambda v: v in BATCH_NORM), f"None, or one of {', '.join(BATCH_NORM)}"),
    "batch_norm_momentum": (_optional(_SHARE[0]), "None, or " + _SHARE[1]),
    "augment": _one_of(AUGMENTATIONS),
    "precision": _one_of(PRECISIONS),
    "xla": ((lambda v: isinstance(v, bool)), "true or false"),
    "size": (_optional(_size), "None, a side above 0, or (height, width)"),
    "seed": ((lambda v: _whole(v) and 0 <= v < 2**31), "a whole number from 0"),
}
