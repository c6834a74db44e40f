"""The networks and their published checkpoints: size, cost, accuracy, and where they come from.

Parameters are all numbers in the weights; multiply-adds those of one image of the published size; top-1 and top-5 the
published accuracy on ImageNet's validation images, one central crop.
"""

import argparse

from inception_tf.cli.outcome import Outcome

KERAS = False  # answers without importing it

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


def short(number):
    """4.3 k, 23.9 M, 5.71 G."""
    return (
        f"{number / 1e9:.2f} G"
        if number >= 1e9
        else f"{number / 1e6:.1f} M"
        if number >= 1e6
        else f"{number / 1e3:.1f} k"
    )


def run(args):
    import dataclasses
    import itertools

    from inception_tf import tables
    from inception_tf.slim.catalogue import listing

    rows, data = [], []
    found = listing(args.pattern, args.weights, args.max_parameters, args.max_multiply_adds)
    for cost, group in itertools.groupby(found, key=lambda pair: pair[0]):
        entries = [entry for _, entry in group]
        for entry in entries:
            rows.append(
                (
                    cost.network,
                    entry and entry.weights,
                    entry.classes if entry else cost.classes,
                    f"{cost.input_size}×{cost.input_size}×{cost.channels}",
                    short(cost.parameters),
                    short(cost.multiply_adds),
                    entry and entry.top1,
                    entry and entry.top5,
                    entry and entry.provenance,
                )
            )
        published = [dataclasses.asdict(e) | {"name": e.name, "url": e.url} for e in entries if e]
        data.append({**dataclasses.asdict(cost), "weights": published})
    header = (
        "network",
        "weights",
        "classes",
        "input",
        "parameters",
        "multiply-adds",
        "top-1 %",
        "top-5 %",
        "provenance",
    )
    return Outcome(tables.render(rows, header, "<<><>>>><"), data)
