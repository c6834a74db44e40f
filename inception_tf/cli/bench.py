"""How fast a model runs here: Keras, XLA, SavedModel, LiteRT, ONNX Runtime, OpenVINO, beside one another.

Each engine is a process of its own; they take turns, and a turn during which others used the machine is repeated.
Medians, ratios round by round to the first engine with their spread, the fraction of what a matrix product reaches in
the same run, peak memory, and the time from a process's start to its first answer.
"""

from inception_tf.cli.export import PRECISIONS, sizes
from inception_tf.cli.options import add_precision
from inception_tf.cli.outcome import Outcome


def add_arguments(parser):
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a .keras file or a Slim checkpoint, exported to each engine first, for any batch; a network's name, for "
        "random weights; or files exported already",
    )
    parser.add_argument(
        "--engines", metavar="NAME,…", help="only these of those installed, such as keras,keras-xla,savedmodel (all)"
    )
    add_precision(parser)
    precisions = "a row for each, such as float32,bfloat16, of every engine that has it, in place of --precision"
    parser.add_argument("--precisions", metavar="P,…", help=precisions)
    calibrate = "int8: images such as the model will see, files or directories"
    parser.add_argument("--calibrate", nargs="+", metavar="IMAGE", help=calibrate)
    parser.add_argument("--no-fuse", action="store_true", help="export without fusing first")
    add_benchmark_arguments(parser)


def add_benchmark_arguments(parser, batch="1,8", rounds=7, seconds=2.0):
    """The options of every benchmark; `settings` reads them."""
    parser.add_argument(
        "--batch", type=sizes, metavar="N,N,…", default=sizes(batch), help=f"images at a time ({batch})"
    )
    parser.add_argument("--rounds", type=int, default=rounds, help=f"how many ({rounds})")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"how long a turn is ({seconds:g})")
    parser.add_argument("--out", metavar="NAME", help="write NAME.md, .json and .png too, after each batch size")
    parser.add_argument("--force", action="store_true", help="replace these files when they exist")


def settings(args):
    """What `benchmark` takes, out of the options of `add_benchmark_arguments`."""
    import math

    from inception_tf.benchmark.report import check_out
    from inception_tf.errors import UsageError

    if args.batch == "dynamic" or min(args.batch) < 1:
        raise UsageError(f"--batch takes sizes such as 1,8,32. Received: {args.batch}")
    if args.rounds < 1 or not 0 < args.seconds < math.inf:
        raise UsageError("--rounds must be at least 1, and --seconds more than 0.")
    if args.out:
        check_out(args.out, args.force)
    return {"rounds": args.rounds, "seconds": args.seconds, "out": args.out, "overwrite": args.force}


def run(args):
    import itertools
    import tempfile
    from pathlib import Path

    from inception_tf.benchmark import engines
    from inception_tf.benchmark.harness import benchmark
    from inception_tf.benchmark.report import Report, paths_of
    from inception_tf.errors import UsageError

    if len(set(args.models)) < len(args.models):
        raise UsageError(f"A model is named twice: {', '.join(args.models)}")
    if args.precisions and args.precision:
        raise UsageError("--precisions has a row a precision, in place of --precision.")
    if (args.precisions or args.precision) and not all(map(engines.needs_keras, args.models)):
        raise UsageError("--precision and --precisions are of models of Keras. An export has its own.")
    precisions = args.precisions.split(",") if args.precisions else [args.precision]
    if args.precisions and (len(set(precisions)) < len(precisions) or not {*precisions} <= {*PRECISIONS}):
        raise UsageError(f"--precisions takes each of {', '.join(PRECISIONS)} once. Received: {args.precisions}")
    options, report = settings(args), Report(Path(args.models[0]).name)
    names, fuse = args.engines.split(",") if args.engines else engines.ENGINES, False if args.no_fuse else None
    with tempfile.TemporaryDirectory() as scratch:
        if args.precisions and "keras" in names:
            names = [name for name in names if name != "keras"]
            report.left_out.append("keras: it computes as the model is, and has no row a precision; keras-xla has")
        found = []
        for model, precision in itertools.product(args.models, precisions):
            folder = Path(scratch, str(len(list(Path(scratch).iterdir()))))
            several = [(model, len(args.models)), (precision, len(precisions))]
            prefix = " ".join(name for name, count in several if count > 1)
            options_of_exports = {"fuse": fuse, "prefix": prefix, "precision": precision, "calibrate": args.calibrate}
            found += engines.candidates(model, names, folder, **options_of_exports, log=report.left_out.append)
        counts, parameters = zip(*map(engines.costs, args.models))
        report.multiply_adds = counts[0] if len(set(counts)) == 1 else None
        benchmark(report, engines.sections(found, args.batch, report.multiply_adds, max(parameters)), **options)
    text = report.text()
    if args.out:
        text += f"\n\nWritten: {', '.join(map(str, paths_of(args.out)))}"
    return Outcome(text, report.data())
