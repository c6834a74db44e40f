"""Is the Keras model equal to the original TF-Slim graph? A row for every end point; exit code 1 when one is not.

Both run on the checkpoint's weights and the same images, in this process.
"""

from inception_tf.cli import options
from inception_tf.cli.outcome import Outcome


def add_arguments(parser):
    parser.add_argument("checkpoint", help="a Slim checkpoint in any container")
    parser.add_argument("--model", metavar="FILE", help="verify this .keras file of it, instead of a fresh conversion")
    parser.add_argument("--images", metavar="PATH", nargs="+", help="photographs to compare on (default: seeded noise)")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="the relative difference allowed (1e-5)")
    options.add_loading(parser)


def run(args):
    import dataclasses

    from inception_tf.images.files import find_images
    from inception_tf.images.preprocessing import Preprocessing
    from inception_tf.models.model import check_model
    from inception_tf.models.registry import find_network
    from inception_tf.slim.checkpoint import open_checkpoint
    from inception_tf.slim.detect import detect
    from inception_tf.slim.verify import verify
    from inception_tf.zoo import load_model

    checkpoint, images = open_checkpoint(args.checkpoint), None
    model = check_model(load_model(args.model)) if args.model else None
    detection = detect(checkpoint, args.network or (model and model.card.network), args.scope)
    if args.images:
        info = find_network(detection.network)
        published = {"kind": info.preprocessing, "size": info.input_size}
        images = Preprocessing.from_config(model.card.preprocessing if model else published)(find_images(args.images))
    given = options.batch_norm(args)
    report = verify(checkpoint, model, images, args.tolerance, args.ema, detection=detection, **given)
    data = {**dataclasses.asdict(report), "passed": report.passed, "worst": report.worst}
    return Outcome(str(report), data, 0 if report else 1)
