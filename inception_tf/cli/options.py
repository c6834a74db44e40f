"""Options that several commands take."""

import contextlib

from inception_tf.errors import UsageError


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


def add_decoding(parser):
    """How photographs are decoded."""
    parser.add_argument("--exif", action="store_true", help="turn photographs as their EXIF orientation says")
    fast = "decode large JPEGs to a half, a quarter or an eighth, where that suffices; answers change a little"
    parser.add_argument("--fast-decode", action="store_true", help=fast)


def add_ray(parser):
    """Whether workers of a Ray cluster compute, and which."""
    parser.add_argument("--ray", metavar="ADDRESS", help="compute on Ray: local, auto, or a cluster's HOST:PORT")
    parser.add_argument("--ray-workers", type=int, metavar="N", help="how many (as many as the cluster holds)")
    parser.add_argument("--ray-cpus", type=float, metavar="N", help="CPUs, and threads, of each (1)")
    parser.add_argument("--ray-gpus", type=float, metavar="N", help="GPUs of each (0)")


def ray_pool(args):
    """A context: the `RayPool` that `add_ray` speaks of, or None."""
    given = check_ray(args)
    if not args.ray:
        return contextlib.nullcontext()
    from inception_tf.inference.ray import RayPool

    return RayPool(args.ray, **given)


def check_ray(args):
    """What was given beside --ray, a dict; refused without it."""
    given = {name: getattr(args, f"ray_{name}") for name in ("workers", "cpus", "gpus")}
    given = {name: value for name, value in given.items() if value is not None}
    if not args.ray and given:
        raise UsageError(f"--ray-{next(iter(given))} goes with --ray.")
    return given


def add_job(parser):
    """Where the answers of any number of images go; for `run_job`."""
    parser.add_argument("--format", choices=("parquet", "jsonl"), help="of the parts (parquet)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of ONNX Runtime, OpenVINO or LiteRT (one a processor)"
    )
    add_ray(parser)


def table_predictor(args, **options):
    """The `TablePredictor` of a job's command, with these options."""
    from inception_tf.errors import need
    from inception_tf.inference.table import TablePredictor

    need("pyarrow", "data", f"Writing {getattr(args, 'answers', args.out)}")
    threads = max(1, int(args.ray_cpus or 1)) if args.ray and args.threads is None else args.threads
    return TablePredictor(args.model, batch=args.batch, threads=threads, exif_rotation=args.exif, **options)


def run_job(args, **options):
    """Answers args.images and writes the answers to args.out, part by part: an `Outcome`.

    Args:
        **options: of the `TablePredictor`.
    """
    from inception_tf.cli.outcome import Outcome
    from inception_tf.images.streams import image_tables
    from inception_tf.inference.jobs import Parts

    predictor = table_predictor(args, **options)
    parts = Parts(args.out, predictor.settings, args.format or "parquet")
    summary, text, data = run_tables(args, predictor, parts, lambda rows: image_tables(args.images, rows))
    return Outcome(text, data, 1 if summary.failed else 0)


def run_tables(args, predictor, parts, tables, label="Classifying"):
    """Answers `tables(rows)`, here or on Ray: the job's `Summary`, and what a command says of it, as text and JSON."""
    from inception_tf.inference.jobs import run_job

    with ray_pool(args) as pool:
        # Small pieces, so that workers end together, and little is done again where one dies.
        summary = run_job(tables(max(64 if pool else 128, 4 * args.batch)), predictor, parts, label, pool)
    text, data = f"{summary}\nWritten: {parts.out}", {"out": parts.out, **summary.to_json()}
    if pool:
        text += f"\nThe workers computed for {pool.cpu_seconds:,.1f} CPU seconds; {pool.lost} of them died."
        data["ray"] = {"cpu_seconds": pool.cpu_seconds, "workers_lost": pool.lost}
    return summary, text, data


# What `open_engine` takes.
MODEL = (
    "a .keras file, a run's directory, a SavedModel directory, a .tflite, .onnx, .stablehlo or OpenVINO .xml file, a "
    "Slim checkpoint, or the name of published weights, such as imagenet"
)


def model_needs_keras(args):
    """Whether a command was given a model, and that is one of Keras; a command's `KERAS`."""
    from inception_tf.inference.engines import needs_keras

    return bool(args.model) and needs_keras(args.model)
