"""The networks and their published checkpoints: size, cost, accuracy, and where they come from.

Parameters are all numbers in the weights; multiply-adds those of one image of the published size; top-1 and top-5 the
published accuracy on ImageNet's validation images, one central crop.
"""

import fnmatch

from inception_tf.cli.outcome import Outcome
from inception_tf.errors import UsageError


def add_arguments(parser):
    parser.add_argument(
        "pattern", nargs="?", default="*", help="a wildcard on networks or weights, such as 'inception*' or adv (all)"
    )
    parser.add_argument("--weights", metavar="GLOB", default="*", help="only these weights, such as '*adv' (all)")


def listing(pattern="*", weights="*"):
    """The networks with their published weights, as far as they match.

    Args:
        pattern: a wildcard on the network's name, on the weights' ("adv*"), or on both ("adv_inception*").
        weights: a wildcard on the weights' name. A network without published weights matches "*" only.

    Returns:
        A dict from networks to lists of `Published`, empty for one without published weights.

    Raises:
        UsageError: nothing matches.
    """
    from inception_tf.models.registry import list_models
    from inception_tf.slim.catalogue import catalogue

    found = {}
    for network in list_models():
        for entry in [entry for entry in catalogue() if entry.network == network] or [None]:
            names = (network, entry.weights, entry.name) if entry else (network,)
            if fnmatch.filter(names, pattern) and fnmatch.fnmatch(entry.weights if entry else "", weights):
                found.setdefault(network, []).extend([entry] if entry else [])
    if not found:
        raise UsageError(
            f"No network or weights match {pattern!r} with weights {weights!r}. There are: {', '.join(list_models())}."
        )
    return found


def run(args):
    import dataclasses

    from inception_tf import tables
    from inception_tf.analysis.costs import cost_of

    rows, data = [], []
    for network, entries in listing(args.pattern, args.weights).items():
        cost = cost_of(network)
        size = f"{cost.input_size}×{cost.input_size}×{cost.channels}"
        numbers = tables.short(cost.parameters), tables.short(cost.multiply_adds)
        for entry in entries or [None]:
            known = (entry.top1, entry.top5, entry.provenance) if entry else (None,) * 3
            classes = entry.classes if entry else cost.classes
            rows.append((network, entry and entry.weights, classes, size, *numbers, *known))
        published = [dataclasses.asdict(entry) | {"name": entry.name, "url": entry.url} for entry in entries]
        data.append({**cost._asdict(), "weights": published})
    header = "network", "weights", "classes", "input", "parameters", "multiply-adds", "top-1 %", "top-5 %", "provenance"
    return Outcome(tables.render(rows, header, "<<><>>>><"), data)
