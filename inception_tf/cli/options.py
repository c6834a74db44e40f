"""Options that several commands take."""


def add_loading(parser):
    """How a Slim checkpoint is loaded."""
    parser.add_argument("--network", help="the network, when detection is not to decide")
    parser.add_argument("--scope", help="the variable scope in the checkpoint, when detection is not to decide")
    parser.add_argument(
        "--ema", choices=("auto", "require", "ignore"), default="auto", help="moving averages of the weights (auto)"
    )
    parser.add_argument("--batch-norm-epsilon", type=float, metavar="E", help="that of the training (Slim's own)")
    parser.add_argument("--batch-norm-decay", type=float, metavar="D", help="that of the training (Slim's own)")


def batch_norm(args):
    """What `add_loading` says of batch norm, as options of a network."""
    given = {name: getattr(args, name) for name in ("batch_norm_epsilon", "batch_norm_decay")}
    return {name: value for name, value in given.items() if value is not None}


def add_precision(parser):
    """What a Keras model computes in."""
    kinds = ("float32", "bfloat16")
    parser.add_argument("--precision", choices=kinds, help="have XLA compute a Keras model in it (as the model is)")


def add_job(parser):
    """Where the answers of any number of images go; for `run_job`."""
    parser.add_argument("--format", choices=("parquet", "jsonl"), default="parquet", help="of the parts (parquet)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of ONNX Runtime, OpenVINO or LiteRT (one a processor)"
    )


def run_job(args, **options):
    """Answers args.images and writes the answers to args.out, part by part: an `Outcome`.

    Args:
        **options: of the `TablePredictor`.
    """
    from inception_tf.cli.outcome import Outcome
    from inception_tf.images.streams import image_tables
    from inception_tf.inference.jobs import Parts, check_arrow, run_job
    from inception_tf.inference.table import TablePredictor

    check_arrow(args.out)
    predictor = TablePredictor(args.model, batch=args.batch, threads=args.threads, exif_rotation=args.exif, **options)
    parts = Parts(args.out, predictor.settings, args.format)
    summary = run_job(image_tables(args.images), predictor, parts)
    text = f"{summary}\nWritten: {args.out}"
    return Outcome(text, {"out": args.out, **summary.to_json()}, 1 if summary.failed else 0)


# What `open_engine` takes.
MODEL = (
    "a .keras file, a run's directory, a SavedModel directory, a .tflite, .onnx, .stablehlo or OpenVINO .xml file, a "
    "Slim checkpoint, or the name of published weights, such as imagenet"
)


def model_needs_keras(args):
    """Whether the model that a command was given is one of Keras; a command's `KERAS`."""
    from inception_tf.inference.engines import needs_keras

    return needs_keras(args.model)
