"""A Slim checkpoint to Keras, proven equal to TF-Slim's graph before anything is written.

The target's name decides what is written: a .keras file, a .weights.h5 file, a Slim checkpoint (*.ckpt), or, for any
other name, a SavedModel directory. The source may be a .keras file too: `convert flowers.keras model.ckpt` goes back.
"""

from inception_tf.cli import options
from inception_tf.cli.outcome import Outcome


def add_arguments(parser):
    parser.add_argument("checkpoint", help="a Slim checkpoint in any container, or a .keras file")
    parser.add_argument("target", help="what to write: name.keras, name.weights.h5, name.ckpt, or a directory")
    parser.add_argument("--force", action="store_true", dest="overwrite", help="replace the target when it exists")
    parser.add_argument("--no-verify", action="store_false", dest="check", help="do not compare with TF-Slim's graph")
    parser.add_argument("--labels", metavar="FILE", help="the class names, a line each, to travel in the model")
    parser.add_argument("--size", type=int, help="the side of the images it was trained on (the published one's)")
    parser.add_argument(
        "--background", choices=("keep", "drop"), default="keep", help="class 0 of the checkpoint (keep)"
    )
    parser.add_argument(
        "--recalibrate",
        metavar="DIR",
        help="compute batch norm's moving statistics from the images in a folder, such as where none were saved",
    )
    parser.add_argument(
        "--no-top", action="store_const", const=False, dest="include_top", help="leave the classifier out"
    )
    parser.add_argument(
        "--plain", action="store_true", help="name.keras of Keras's own layers alone, which opens without this package"
    )
    options.add_loading(parser)


def run(args):
    from inception_tf.exports.convert import convert

    names = ("overwrite", "check", "labels", "size", "background", "include_top", "network", "scope", "ema")
    given = {name: getattr(args, name) for name in (*names, "recalibrate", "plain")} | options.batch_norm(args)
    result = convert(args.checkpoint, args.target, **given)
    return Outcome(result.text(), result.data())
