"""The networks and their published checkpoints: size, cost, accuracy, and where they come from.

Parameters are all numbers in the weights; multiply-adds those of one image of the published size; top-1 and top-5 the
published accuracy on ImageNet's validation images, one central crop.
"""

import argparse
import fnmatch

from inception_tf.cli.outcome import Outcome
from inception_tf.errors import UsageError

SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9}


def add_arguments(parser):
    parser.add_argument(
        "pattern", nargs="?", default="*", help="a wildcard on networks or weights, such as 'inception*' or adv (all)"
    )
    parser.add_argument("--weights", metavar="GLOB", default="*", help="only these weights, such as '*adv' (all)")
    parser.add_argument("--max-parameters", metavar="N", type=number, help="such as 25M")
    parser.add_argument("--max-multiply-adds", metavar="N", type=number, help="on one image, such as 5.8G")


def number(text):
    """25M, 5.8G, 1000 as an integer."""
    try:
        return int(float(text.rstrip("kMG")) * SUFFIXES.get(text[-1:], 1))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"a number such as 25M or 5.8G is expected. Received: {text!r}") from None


def listing(pattern="*", weights="*", max_parameters=None, max_multiply_adds=None):
    """The networks with their published weights, as far as they match.

    Args:
        pattern: a wildcard on the network's name, on the weights' ("adv*"), or on both ("adv_inception*").
        weights: a wildcard on the weights' name. A network without published weights matches "*" only.
        max_parameters, max_multiply_adds: the most that a network may have, or None. See `analysis.costs.Cost`.

    Returns:
        A list of (`Cost`, `Published`, or None for a network without published weights), by network.

    Raises:
        UsageError: nothing matches.
    """
    from inception_tf.analysis.costs import cost_of
    from inception_tf.models.registry import list_models
    from inception_tf.slim.catalogue import catalogue

    found = []
    for network in list_models():
        entries = [entry for entry in catalogue() if entry.network == network] or [None]
        for entry in entries:
            names = (network, entry.weights, entry.name) if entry else (network,)
            if fnmatch.filter(names, pattern) and fnmatch.fnmatch(entry.weights if entry else "", weights):
                found.append((network, entry))
    if not found:
        raise UsageError(
            f"No network or weights match {pattern!r} with weights {weights!r}. There are: {', '.join(list_models())}."
        )
    limits = {"parameters": max_parameters, "multiply_adds": max_multiply_adds}
    given = {fact: limit for fact, limit in limits.items() if limit is not None}
    found = [(cost_of(network), entry) for network, entry in found]
    fits = [pair for pair in found if all(getattr(pair[0], fact) <= limit for fact, limit in given.items())]
    if not fits:
        least = [f"{min(getattr(cost, fact) for cost, _ in found):,} {fact.replace('_', '-')}" for fact in limits]
        raise UsageError(f"No network is that small. The smallest have {' and '.join(least)}.")
    return fits


def run(args):
    import dataclasses
    import itertools

    from inception_tf import tables

    rows, data = [], []
    found = listing(args.pattern, args.weights, args.max_parameters, args.max_multiply_adds)
    for cost, group in itertools.groupby(found, key=lambda pair: pair[0]):
        entries = [entry for _, entry in group]
        size = f"{cost.input_size}×{cost.input_size}×{cost.channels}"
        numbers = tables.short(cost.parameters), tables.short(cost.multiply_adds)
        for entry in entries:
            known = (entry.top1, entry.top5, entry.provenance) if entry else (None,) * 3
            classes = entry.classes if entry else cost.classes
            rows.append((cost.network, entry and entry.weights, classes, size, *numbers, *known))
        published = [dataclasses.asdict(e) | {"name": e.name, "url": e.url} for e in entries if e]
        data.append({**dataclasses.asdict(cost), "weights": published})
    header = "network", "weights", "classes", "input", "parameters", "multiply-adds", "top-1 %", "top-5 %", "provenance"
    return Outcome(tables.render(rows, header, "<<><>>>><"), data)
