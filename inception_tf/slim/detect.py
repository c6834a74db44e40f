"""Which network a checkpoint holds, read off its variables' names and shapes."""

import collections
import dataclasses
import math

from inception_tf.errors import MismatchError
from inception_tf.models.registry import find_network, networks
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.names import EMA, bookkeeping, scoped, shape_text, specification

MOVING = {"moving_mean", "moving_variance"}
BATCH_NORM_WORDS = {"beta", "gamma", *MOVING}
# The fraction of its variables below which a network is not named as near.
NEAR = 0.25
# Image sizes tried in this order for a classifier whose layers are named or shaped after the size.
COMMON_SIZES = (256, 224, 192, 160, 150, 128, 112, 96, 64, 48, 32, 384, 416, 448, 512)


@dataclasses.dataclass(frozen=True)
class Detection:
    """What a checkpoint holds.

    Attributes:
        network: the network's name.
        scope: the variable scope of its variables, "InceptionV3" or what it was renamed to.
        classes: the classes of its classifier, or None where it holds none.
        options: what its constructor needs to fit: `aux_logits`, `depth_multiplier`, `input_shape` and the
            like, as far as they differ from the defaults.
        match: the fraction of the backbone's variables that are there with their shapes, 1.0 for all.
        differences: the first variables that differ, as text, where `match` is below 1.
        others: further scopes with as many of its variables.
        statistics: whether the moving statistics of batch norm are there. `match` leaves them out where none is.
    """

    network: str
    scope: str
    classes: int | None
    options: dict
    match: float
    differences: tuple = ()
    others: tuple = ()
    statistics: bool = True

    @property
    def arguments(self):
        """All options of the constructor that the checkpoint's network needs, the number of classes among them."""
        return {**self.options, **({"classes": self.classes} if self.classes else {"include_top": False})}

    @property
    def place(self):
        """Its scope, in words."""
        return f"under the scope {self.scope}" if self.scope else "under no scope"

    def __str__(self):
        return f"{self.network} {self.place}, {100 * self.match:.0f}% of whose variables fit"


def weights_of(checkpoint):
    """The shapes of a checkpoint's weights: no bookkeeping, and a moving average stands for the weight it is of."""
    shapes = {}
    for name, shape in checkpoint.shapes.items():
        plain = name.removesuffix(EMA)
        if not bookkeeping(plain, checkpoint):
            shapes.setdefault(plain, shape)
    return shapes


def detect(checkpoint, network=None, scope=None, partial=False, statistics=True):
    """Detects the network, the scope, the classes, the auxiliary head and the width of a checkpoint.

    Args:
        checkpoint: what `open_checkpoint` takes.
        network: its name, when it is known.
        scope: its variable scope, when it is known.
        partial: whether half of the backbone is enough, for a caller that lists what differs itself.
        statistics: whether batch norm's moving statistics must be there.

    Returns:
        A `Detection` whose backbone fits completely.

    Raises:
        MismatchError: no network fits; names the nearest and the first variables that differ. Or it is there under
            several scopes, and none is the network's own.
        CheckpointError: no checkpoint.
    """
    checkpoint = open_checkpoint(checkpoint)
    path, best = checkpoint.path, nearest(checkpoint, network, scope)
    if best is None or best.match < (0.5 if partial else 1):
        asked = (network or "a known network") + (f" under the scope {scope}" if scope else "")
        asked = f"does not hold {asked}" if network or scope else "holds no known network"
        other = nearest(checkpoint) if network or scope else best
        if other and other.match == 1:
            raise MismatchError(
                f"{path} {asked}, but {other.network} {other.place}: every variable of its backbone is there."
            )
        hint = _normalization(best, checkpoint) if best else ""
        if best is None or best.match < NEAR:
            best = other if other and other.match >= NEAR else None
        if best is None:
            raise MismatchError(f"{path} {asked}. {_contents(checkpoint)}{hint}")
        raise MismatchError(f"{path} {asked}. Nearest: {best}. First differences: {'; '.join(best.differences)}.{hint}")
    if statistics and not best.statistics:
        raise MismatchError(
            f"{path} holds {best.network} {best.place} without the moving statistics of batch norm (moving_mean, "
            "moving_variance): only trainable variables were saved. They can be computed again from images like those "
            f"it was trained on: inception-tf convert {path} <target> --recalibrate <folder of images>."
        )
    if best.others and best.scope != find_network(best.network).scope:
        scopes = ", ".join([best.scope, *best.others])
        raise MismatchError(f"{path} holds {best.network} under several scopes. Give scope=, one of: {scopes}.")
    return best


def _contents(checkpoint):
    """What a checkpoint without a network near holds, in a sentence or two."""
    if any(name.endswith("/.ATTRIBUTES/VARIABLE_VALUE") for name in checkpoint):
        return (
            "It is an object-based checkpoint of TensorFlow 2 (tf.train.Checkpoint, Keras), whose tensors are named "
            "after objects, and no InceptionV3 or InceptionResNetV2 of keras.applications: load it with the code that "
            "wrote it."
        )
    weights = list(weights_of(checkpoint))
    if not weights:
        return f"It holds no weights, only {', '.join(list(checkpoint)[:3])}."
    for info in networks().values():
        if all(in_scopes(name, [scoped(info.scope, head) for head in (*info.heads, *info.top)]) for name in weights):
            return f"It holds {', '.join(weights[:4])}: the classifier of {info.name} alone, without its backbone."
    return f"It begins with: {', '.join(weights[:3])}."


def _normalization(found, checkpoint):
    """What a checkpoint has in place of a network's batch norm, where it has none: a sentence, or nothing."""
    prefix = scoped(found.scope, "")
    words = {name.rpartition("/")[2] for name in weights_of(checkpoint) if name.startswith(prefix)}
    info = find_network(found.network)
    if not info.batch_norm or words & BATCH_NORM_WORDS or found.match < 0.1:  # the kernels alone are more
        return ""
    if info.arg_scope_pads and "biases" in words:
        return (
            f" It has biases in place of {found.network}'s batch norm. Slim has two such networks, with its arg scope "
            "and without, whose poolings differ and whose variables do not: neither is known here."
        )
    return " It has no batch norm at all."


def nearest(checkpoint, network=None, scope=None):
    """The best `Detection` for a checkpoint, fitting or not; None when nothing in it looks like a network."""
    weights, best = weights_of(checkpoint), None
    # A network whose own scope occurs comes first: usually it fits, and the others need no building.
    parts = {part for name in weights for part in name.split("/")[:-1]}
    infos = [find_network(name) for name in ([network] if network else networks())]
    for info in sorted(infos, key=lambda info: (info.scope not in parts, info.shares_variables)):
        for variant in info.variants:
            found = _fit(weights, info, scope, variant)
            if found and (best is None or found.match > best.match):
                best = found
            if found is None or best.match == 1:
                break
        if best and best.match == 1:
            break
    return best


def _fit(weights, info, scope, variant):
    """The `Detection` of `weights` as one variant of the network `info`, or None when nothing fits."""
    aux = {"aux_logits": True} if "aux_logits" in info.options else {}
    expected = specification(info.name, **variant, **aux)
    scopes = _find_scopes(weights, expected, info) if scope is None else [scope]
    if not scopes:
        return None
    scope = scopes[0]
    prefix = scoped(scope, "")
    found = {name.removeprefix(prefix): shape for name, shape in weights.items() if name.startswith(prefix)}
    classifier = (*info.heads, *info.top)
    backbone = {name: shape for name, shape in expected.items() if not in_scopes(name, classifier)}
    if not any(name in found for name in backbone):
        return None

    words = {name.rpartition("/")[2] for name in found if not in_scopes(name, classifier)}
    options = {**variant, **_batch_norm(info, words)}
    if options != variant:
        expected = specification(info.name, **options, **aux)
        backbone = {name: shape for name, shape in expected.items() if not in_scopes(name, classifier)}
    statistics = bool(words & MOVING) or not words & BATCH_NORM_WORDS
    options |= _width(info, backbone, found)
    first, shape = next(iter(backbone.items()))
    channels = found.get(first, shape)[2:3]
    if channels and channels != shape[2:3]:
        options["input_shape"] = (info.input_size, info.input_size, *channels)
    if options:
        expected = specification(info.name, **options, **aux)
        backbone = {name: expected[name] for name in backbone}
    if not statistics:
        backbone = {name: shape for name, shape in backbone.items() if name.rpartition("/")[2] not in MOVING}
    fits = [name for name in backbone if found.get(name) == backbone[name]]
    others = [name for name in found if name not in backbone and not in_scopes(name, classifier)]
    match = len(fits) / (len(backbone) + len(others))

    classes = _classes(info, expected, found)
    if aux and classes and any(in_scopes(name, ["AuxLogits"]) for name in found):
        options["aux_logits"] = True
    if match == 1:  # only then is the search worth its time
        options.update(_image_size(info, found, options))
    differences = [
        f"{n} is {shape_text(found.get(n))}, not {shape_text(s)}" for n, s in backbone.items() if found.get(n) != s
    ]
    differences += [f"{name} is not in the network" for name in others]
    return Detection(info.name, scope, classes, options, match, tuple(differences[:4]), tuple(scopes[1:]), statistics)


def _batch_norm(info, words):
    """The options by which a network has batch norm as the last words of a checkpoint's names say."""
    if not info.batch_norm:
        return {}
    if words & BATCH_NORM_WORDS:
        gamma = "gamma" in words
        return {"batch_norm_scale": gamma} if gamma != info.batch_norm.get("scale", True) else {}
    return {"batch_norm": False} if "biases" in words and not info.arg_scope_pads else {}


def in_scopes(name, scopes):
    """Whether a variable lies under one of the scopes."""
    return any(name == scope or name.startswith(scope + "/") for scope in scopes)


def _find_scopes(weights, expected, info):
    """The scopes under which most of the expected variables are found, the network's own first."""
    counts = collections.Counter()
    for name in weights:
        parts = name.split("/")
        for i in range(len(parts)):
            if "/".join(parts[i:]) in expected:
                counts["/".join(parts[:i])] += 1
    most = max(counts.values(), default=0)
    scopes = [scope for scope in counts if counts[scope] == most]
    return sorted(scopes, key=lambda scope: scope != info.scope)


def _width(info, backbone, found):
    """The options `depth_multiplier` and `min_depth` that give the backbone's channels, where not the default."""
    if "depth_multiplier" not in info.options:
        return {}
    pairs = {
        (s[-1], found[n][-1]) for n, s in backbone.items() if n.endswith("/weights") and len(found.get(n, ())) == 4
    }
    if not pairs or all(wide == narrow for wide, narrow in pairs):
        return {}
    least = min(narrow for _, narrow in pairs)
    # int(wide * multiplier) == narrow, but for the layers that min_depth holds up.
    free = [(wide, narrow) for wide, narrow in pairs if narrow > least] or [max(pairs)]
    low, high = max(n / w for w, n in free), min((n + 1) / w for w, n in free)
    multiplier = _simplest(low, high)
    for min_depth in (16, least):
        if all(max(int(wide * multiplier), min_depth) == narrow for wide, narrow in pairs):
            return {"depth_multiplier": multiplier} | ({"min_depth": min_depth} if min_depth != 16 else {})
    return {}


def _simplest(low, high):
    """The number with the fewest decimals in [low, high)."""
    for digits in range(1, 10):
        value = math.ceil(round(low * 10**digits, 9)) / 10**digits
        if value < high:
            return value
    return low


def _classes(info, expected, found):
    """The number of classes, off the variables of the heads that have as many channels as there are classes."""
    heads = [head for head in info.heads if head != "AuxLogits"]
    name = next((n for n, shape in expected.items() if in_scopes(n, heads) and shape[-1] == info.classes), None)
    return found[name][-1] if name in found else None


def _image_size(info, found, options):
    """The option `input_shape`, where a layer of the classifier in `found` is named or shaped after the size."""
    scopes = [*info.top, *(["AuxLogits"] if options.get("aux_logits") else [])]
    scopes = [scope for scope in scopes if any(in_scopes(name, [scope]) for name in found)]

    def head(variables):
        return {name: shape[:-1] for name, shape in variables.items() if in_scopes(name, scopes)}

    channels = options.get("input_shape", (0, 0, info.channels))[2]
    sizes = (info.input_size, *COMMON_SIZES, *range(info.input_size, info.min_size, -4)) if scopes else ()
    height, width = _kernel(head(found))
    sides = {}  # of the images, by the side of the largest kernel that they give
    for size in sizes:
        shape = {"input_shape": (size, size, channels)} if size != info.input_size else {}
        try:
            expected = head(specification(info.name, **{**options, **shape}))
        except ValueError:  # too small for the classifier
            continue
        if head(found) == expected:
            return shape
        sides.setdefault(_kernel(expected)[0], size)
        if height != width and {height, width} <= set(sides):
            return {"input_shape": (sides[height], sides[width], channels)}
    return {}


def _kernel(shapes):
    """The largest (height, width) of a convolution's kernel."""
    return max((shape[:2] for shape in shapes.values() if len(shape) == 3), default=(0, 0))
