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
    parser.add_argument("--naive", action="store_true", help="the naive designs alone")
    parser.add_argument("--block", metavar="NAME", help="the arithmetic of this block alone, kernel by kernel")
    parser.add_argument("--plot", metavar="FILE.png", help="write a bar chart too")
    parser.add_argument("--force", action="store_true", help="replace the picture when it exists")


def size(text):
    """299 or 224x320 as (height, width)."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"a size such as 299 or 224x320 is expected. Received: {text!r}")
    return int(parts[0]), int(parts[-1])


def run(args):
    from inception_tf import figures
    from inception_tf.analysis import profile_report as report
    from inception_tf.errors import UsageError

    if args.plot:
        figures.check(args.plot, args.force)
    if args.compare is not None:
        if args.naive or args.block:
            raise UsageError("--naive and --block are about one network. Leave --compare out.")
        first = [args.model] if args.model else []
        data = report.compare_networks([*first, *(args.compare or report.COMPARED)], args.input, args.classes)
        text = report.comparison_text(data)
    else:
        if not args.model:
            raise UsageError("Which network? Give its name or a model's file, or --compare.")
        found = report.profile_of(args.model, args.input, args.classes)
        if args.block:
            data = report.block_data(found, args.block)
            text = report.block_text(found.name, data)
        elif args.naive:
            data = report.naive_data(found)
            text = report.naive_text(data)
        else:
            data = report.profile_data(found)
            text = report.profile_text(data)
    if args.plot:
        compared = args.compare is not None
        figure = report.comparison_figure(data) if compared else report.profile_figure(report.profile_data(found))
        figures.save(figure, args.plot, args.force)
        text += f"\n\nWritten: {args.plot}"
    return Outcome(text, data)
