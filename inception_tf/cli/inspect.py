"""What is in a checkpoint: its container, its network, its classes, and everything else it carries.

Every tensor is read, so a damaged file is found out.
"""

from inception_tf.cli.outcome import Outcome


def add_arguments(parser):
    parser.add_argument("checkpoint", help="a Slim checkpoint in any container, or a .keras file")
    parser.add_argument("--variables", metavar="GLOB", nargs="?", const="*", help="list the tensors too, all or some")


def run(args):
    from inception_tf.slim.summary import summarize

    summary = summarize(args.checkpoint, args.variables)
    return Outcome(summary.text(), summary.data())
