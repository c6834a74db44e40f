"""Two checkpoints side by side, variable by variable, whatever their containers and scopes."""

import collections
import itertools
import math
import re

import numpy as np

from inception_tf import tables
from inception_tf.errors import UsageError
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.detect import weights_of
from inception_tf.slim.load import find_sources
from inception_tf.slim.names import scoped, shape_text

SHOWN = 10  # lines of a list in the text; the JSON has them all


def diff(a, b, ema="auto"):
    """Compares the weights of two checkpoints.

    Names are compared without the variable scope, so that a network under a scope of another name fits. What is not a
    weight (optimizer slots, `global_step`) is counted only.

    Args:
        a, b: what `open_checkpoint` takes.
        ema: "auto" for a weight's moving average where a checkpoint has one, as `load_slim` loads it; "ignore" for the
            weights themselves.

    Returns:
        A dict:
            identical: whether both hold the same variables with the same values. Dtypes may differ, and what is no
                weight.
            a, b: what was compared, each a dict: path, container, scope and, of what is not a weight, how many tensors.
            scopes: a dict for every top scope (Conv2d_1a_3x3, Mixed_5b, …), in the order of names: the scope, how many
                variables both have in one shape, how many of them are different, and the max_difference, the largest
                |difference|; NaN or infinite where a value is, and is not the same in both.
            only_a, only_b: the variables that the other lacks, names without the scope.
            shapes: a dict from the variables whose shapes differ to (shape in a, shape in b).

    Raises:
        UsageError: no variable of one has a name that the other has too.
        CheckpointError: no checkpoint, or a damaged one.
    """
    a, b = open_checkpoint(a), open_checkpoint(b)
    # With the averages ignored, one that is there without its weight is no source.
    sources_a, sources_b = (find_sources(checkpoint, weights_of(checkpoint), "", ema) for checkpoint in (a, b))
    scope_a, scope_b = _common_scopes(sources_a, sources_b)
    sources_a, sources_b = _without(scope_a, sources_a), _without(scope_b, sources_b)
    common = [name for name in sources_a if name in sources_b]
    if not common:
        first_a, first_b = (next(iter(names), "nothing") for names in (sources_a, sources_b))
        raise UsageError(f"{a.path} and {b.path} have no variable in common: {first_a} …, and {first_b} ….")
    shapes, differences = {}, collections.defaultdict(list)
    for name in common:
        source_a, source_b = sources_a[name], sources_b[name]
        if a.shapes[source_a] != b.shapes[source_b]:
            shapes[name] = (a.shapes[source_a], b.shapes[source_b])
        else:
            differences[name.partition("/")[0]].append(_difference(a[source_a], b[source_b]))
    scopes = [
        {
            "scope": scope,
            "variables": len(found),
            "different": sum(difference != 0 for difference in found),
            "max_difference": float(np.max(found)),
        }
        for scope, found in differences.items()
    ]
    only_a = [name for name in sources_a if name not in sources_b]
    only_b = [name for name in sources_b if name not in sources_a]
    return {
        "identical": not (only_a or only_b or shapes or any(scope["different"] for scope in scopes)),
        "a": _side(a, scope_a, sources_a),
        "b": _side(b, scope_b, sources_b),
        "scopes": scopes,
        "only_a": only_a,
        "only_b": only_b,
        "shapes": shapes,
    }


def diff_text(found):
    """What `diff` returned, as tables, with a line at the end: identical, or how much is not."""
    sides = [(side.upper(), *found[side].values()) for side in "ab"]
    parts = [tables.render(sides, ("", "checkpoint", "container", "scope", "weights", "besides"))]
    rows = []
    for scope, variables, different, largest in map(dict.values, found["scopes"]):
        rows.append((scope, variables, different, f"{largest:.3g}" if different else "equal"))
    if rows:
        parts.append(tables.render(rows, ("scope", "variables", "different", "max |difference|"), "<>>>"))
    shapes = [f"{name}: {shape_text(a)} in A, {shape_text(b)} in B" for name, (a, b) in found["shapes"].items()]
    for title, lines in (("another shape", shapes), ("only in A", found["only_a"]), ("only in B", found["only_b"])):
        more = [f"… and {len(lines) - SHOWN} more (--json lists all)"] if len(lines) > SHOWN else []
        if lines:
            parts.append("\n  ".join([f"{title}:", *lines[:SHOWN], *more]))
    variables = sum(scope["variables"] for scope in found["scopes"])
    counts = {
        f"of {variables} in both differ": sum(scope["different"] for scope in found["scopes"]),
        "have another shape": len(shapes),
        "only in A": len(found["only_a"]),
        "only in B": len(found["only_b"]),
    }
    different = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return "\n\n".join([*parts, f"NOT identical: {different}" if different else f"identical: {variables} variables"])


def _common_scopes(names_a, names_b):
    """The scopes of two checkpoints without which the most names are the same."""

    def scopes(names):
        """Those that hold nearly all of the names, "" among them. Half would do for a ResNet's longest block."""
        counts = collections.Counter(name[: end.start()] for name in names for end in re.finditer("^|/", name))
        return [scope for scope, count in counts.items() if count >= 0.9 * len(names)]

    def fit(pair):
        common = _without(pair[0], names_a).keys() & _without(pair[1], names_b).keys()
        return len(common), sum(map(len, pair))

    return max(itertools.product(scopes(names_a), scopes(names_b)), key=fit)


def _without(scope, names):
    """A dict with the scope taken off its keys, where they are in it."""
    return {name.removeprefix(scoped(scope, "")): value for name, value in names.items()}


def _difference(a, b):
    """The largest |a − b|, 0 where both are equal, NaN being equal to NaN."""
    a, b = np.asarray(a), np.asarray(b)
    if np.array_equal(a, b):
        return 0.0
    if a.dtype.kind in "OSU" or b.dtype.kind in "OSU":
        return math.inf
    a, b = a.astype("float64"), b.astype("float64")
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return float(np.max(np.where(same, 0.0, difference)))


def _side(checkpoint, scope, weights):
    besides = len(checkpoint) - len(weights)
    facts = {"path": str(checkpoint.path), "container": checkpoint.container, "scope": scope}
    return {**facts, "weights": len(weights), "besides": besides}
