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
    parser.add_argument("--out", metavar="NAME", help="write NAME.md, NAME.json and NAME.png too")
    parser.add_argument("--force", action="store_true", help="replace these files when they exist")


def run(args):
    import tempfile
    from pathlib import Path

    from inception_tf.benchmark.engines import ENGINES, contestants, cost, model_file, sgemm
    from inception_tf.benchmark.report import Report, check_out, machine, write
    from inception_tf.benchmark.rounds import BenchmarkError, compete
    from inception_tf.errors import UsageError

    if args.batch == "dynamic" or min(args.batch) < 1:
        raise UsageError(f"--batch takes sizes such as 1,8,32. Received: {args.batch}")
    if args.rounds < 1 or not args.seconds > 0:
        raise UsageError("--rounds must be at least 1, and --seconds more than 0.")
    if args.out:
        check_out(args.out, args.force)
    engines = args.engines.split(",") if args.engines else ENGINES
    found, notes, batches, fuse = machine(), [], {}, False if args.no_fuse else None
    with tempfile.TemporaryDirectory() as scratch:
        paths = [model_file(model, scratch) for model in args.models]
        for batch in args.batch:
            several = []
            for path in paths:
                prefix = path.stem if len(paths) > 1 else ""
                several += contestants(path, engines, batch, scratch, fuse, prefix)
            batches[batch] = compete([sgemm(), *several], args.rounds, args.seconds, say=notes.append)
            if len(batches[batch]) < 2:
                raise BenchmarkError("Nothing could be measured. " + "; ".join(notes))
        report = Report(Path(args.models[0]).name, cost(paths), None, batches, found)
    text = "\n".join([report.text(), *dict.fromkeys(notes)])
    if args.out:
        text += f"\n\nWritten: {', '.join(map(str, write(report, args.out, args.force)))}"
    return Outcome(text, {**report.data(), "left_out": notes})
