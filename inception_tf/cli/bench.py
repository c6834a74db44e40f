"""How fast a model runs here: Keras, XLA, SavedModel, LiteRT, ONNX Runtime, OpenVINO, beside one another.

Each engine is a process of its own; they take turns, and a turn during which others used the machine is taken again.
Medians, ratios round by round to the first engine with their spread, the share of what a matrix product reaches in the
same run, peak memory, and the time from a process's start to its first answer.
"""

from inception_tf.cli.export import sizes
from inception_tf.cli.outcome import Outcome


def add_arguments(parser):
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a .keras file or a Slim checkpoint, exported to each engine first, for any batch; a network's name, for "
        "random weights; or files exported already",
    )
    parser.add_argument("--batch", type=sizes, metavar="N,N,…", default=(1, 8), help="images at a time (1,8)")
    parser.add_argument("--engines", metavar="NAME,…", help="of those installed only these (see above; keras-xla, …)")
    parser.add_argument("--no-fuse", action="store_true", help="export without fusing first")
    parser.add_argument("--rounds", type=int, default=7, help="how many (7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a turn is (2)")
    parser.add_argument("--out", metavar="NAME", help="write NAME.md, .json and .png too, after each batch size")
    parser.add_argument("--force", action="store_true", help="replace these files when they exist")


def run(args):
    import math
    import tempfile
    from pathlib import Path

    from inception_tf.benchmark.contest import contest
    from inception_tf.benchmark.engines import ENGINES, bytes_of, contestants, cost, model_file, titles
    from inception_tf.benchmark.report import Report, check_out, machine, paths_of
    from inception_tf.benchmark.rounds import BenchmarkError
    from inception_tf.errors import UsageError

    if args.batch == "dynamic" or min(args.batch) < 1:
        raise UsageError(f"--batch takes sizes such as 1,8,32. Received: {args.batch}")
    if args.rounds < 1 or not 0 < args.seconds < math.inf:
        raise UsageError("--rounds must be at least 1, and --seconds more than 0.")
    if args.out:
        check_out(args.out, args.force)
    engines = args.engines.split(",") if args.engines else ENGINES
    before, found, left_out, fuse = machine(), [], [], False if args.no_fuse else None
    with tempfile.TemporaryDirectory() as scratch:
        paths = [model_file(model, scratch) for model in args.models]
        for number, (path, title) in enumerate(zip(paths, titles(args.models))):
            prefix = title if len(paths) > 1 else ""
            found += contestants(path, engines, Path(scratch, str(number)), fuse, prefix, say=left_out.append)
        if not found:
            raise BenchmarkError("\n".join(["Nothing could be measured.", *left_out]))
        largest = max(map(bytes_of, paths))

        def size(batch):
            return 1e9 + 3 * largest + 25e6 * batch

        report = Report(Path(args.models[0]).name, cost(paths), found[0].name, before, left_out)
        contest(report, found, args.batch, size, args.rounds, args.seconds, args.out, args.force)
    text = report.text()
    if args.out:
        text += f"\n\nWritten: {', '.join(map(str, paths_of(args.out)))}"
    return Outcome(text, report.data())
