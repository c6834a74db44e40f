"""What is in a checkpoint: its container, its network, its classes, and everything else it carries.

Every tensor is read, so a damaged file is found out. With a second checkpoint: what is different in it, scope by scope.
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
    if args.other:
        from inception_tf.slim.compare import compare

        comparison = compare(args.checkpoint, args.other, args.ema)
        return Outcome(str(comparison), comparison.data())
    from inception_tf.slim.summary import summarize

    summary = summarize(args.checkpoint, args.variables)
    return Outcome(summary.text(), summary.data())
