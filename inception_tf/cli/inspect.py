"""What is in a checkpoint: its container, its network, its classes, and everything else it carries.

Every tensor is read, so a damaged file does not go unnoticed. With a second checkpoint: what differs, scope by scope.
"""

from inception_tf.cli.outcome import Outcome


def add_arguments(parser):
    parser.add_argument("checkpoint", help="a Slim checkpoint in any container, or a .keras file")
    parser.add_argument("other", nargs="?", help="another one, in whatever container, to compare the weights with")
    parser.add_argument("--variables", metavar="GLOB", nargs="?", const="*", help="list the tensors too, all or some")
    parser.add_argument(
        "--ema",
        choices=("auto", "ignore"),
        default="auto",
        help="compare moving averages where there are some (auto), or the weights themselves",
    )


def run(args):
    import dataclasses

    if args.other:
        from inception_tf.slim.diff import diff, diff_text

        found = diff(args.checkpoint, args.other, args.ema)
        return Outcome(diff_text(found), found)
    from inception_tf.slim.summary import summarize, summary_text

    found = summarize(args.checkpoint, args.variables)
    detection = found["detection"] and dataclasses.asdict(found["detection"])
    return Outcome(summary_text(found), {**found, "detection": detection})
