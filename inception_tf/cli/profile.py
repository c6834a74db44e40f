"""What a network costs, by end point, branch and kernel, and what its 1×1 convolutions save.

Parameters, multiply-adds, memory of the activations and receptive fields, counted from the layers; for the Inceptions
beside the naive designs of their blocks. --compare sets networks side by side.
"""

import argparse

from inception_tf.cli.outcome import Outcome


def add_arguments(parser):
    parser.add_argument(
        "model", nargs="?", metavar="NETWORK|MODEL", help="a network's name, a .keras file, or a Slim checkpoint"
    )
    parser.add_argument(
        "--compare", nargs="*", metavar="NETWORK|MODEL", help="side by side with these (AlexNet to ResNet-152)"
    )
    parser.add_argument("--input", type=size, metavar="SIZE", help="of the image: 299, or 224x320 (as published)")
    parser.add_argument("--classes", type=int, help="of a network by name (as published)")
    parser.add_argument("--block", metavar="NAME", help="the arithmetic of this block alone, kernel by kernel")


def size(text):
    """299 or 224x320 as (height, width)."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"a size such as 299 or 224x320 is expected. Received: {text!r}")
    return int(parts[0]), int(parts[-1])


def run(args):
    from inception_tf.analysis import profile_report as report
    from inception_tf.errors import UsageError

    if args.compare is not None:
        if args.block:
            raise UsageError("--block is about one network. Leave --compare out.")
        first = [args.model] if args.model else []
        data = report.compare_networks([*first, *(args.compare or report.COMPARED)], args.input, args.classes)
        return Outcome(report.comparison_text(data), data)
    if not args.model:
        raise UsageError("Which network? Give its name or a model's file, or --compare.")
    found = report.profile_of(args.model, args.input, args.classes)
    if args.block:
        data = report.block_data(found, args.block)
        return Outcome(report.block_text(found.name, data), data)
    data = report.profile_data(found)
    return Outcome(report.profile_text(data), data)
