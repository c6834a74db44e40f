"""What `classify` loses beside its engine: images/s of a directory of photographs, and seconds to a first answer.

    python tools/bench_classify.py MODEL [MODEL …]

MODEL is whatever `inception-tf classify` takes. In turns, the bare engine answers preprocessed images, and `classify`
does the files of the same ones, decoding included, in batches of the same size; the ratio is taken round by round. The
first answer of `classify` is one photograph's, from the start of a process.
"""

import itertools
import tempfile
from pathlib import Path

from _tools import benchmark_parser, start

from inception_tf.benchmark.harness import Section, benchmark
from inception_tf.benchmark.report import Report
from inception_tf.benchmark.rounds import Candidate
from inception_tf.cli.bench import settings
from inception_tf.exports.serving_files import jpegs
from inception_tf.images.files import find_images


def main():
    parser = benchmark_parser(__doc__, batch="16", rounds=5)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--images", nargs="+", help="photographs (64 generated JPEGs)")
    parser.add_argument("--openvino", action="store_true", help="as `classify` takes it")
    start(parser, run)


def run(args):
    options = settings(args)
    with tempfile.TemporaryDirectory() as scratch:
        if not args.images:
            for i, data in enumerate(16 * jpegs()):
                Path(scratch, f"{i:04}.jpg").write_bytes(data)
        paths = [str(path) for path in find_images(args.images or [scratch])]

        def sections():
            for model, batch in itertools.product(args.models, args.batch):
                arguments = {"model": model, "paths": paths, "batch": batch, "openvino": args.openvino}
                functions = {name: f"{Path(__file__).resolve()}:{name}" for name in ("engine", "classify")}
                candidates = [Candidate(name, function, arguments, len(paths)) for name, function in functions.items()]
                yield Section({"model": Path(model).name, "batch": batch}, candidates)

        report = Report(f"{len(paths)} photographs")
        benchmark(report, sections(), **options)
    print(report.markdown())


def engine(model, paths, batch, openvino):
    """The bare engine on the preprocessed photographs."""
    from inception_tf.inference.engines import open_engine

    run = open_engine(model, openvino=openvino)
    images = run.preprocessing(paths, decoder=run.decoder)
    return lambda: [run(images[i : i + batch]) for i in range(0, len(images), batch)]


def classify(model, paths, batch, openvino):
    """`classify` on the files; the first call is of one."""
    from inception_tf.inference import classify, engines

    run, calls = engines.open_engine(model, openvino=openvino), itertools.chain([paths[:1]], itertools.repeat(paths))

    def call():
        _, failures = classify.classify(run, next(calls), batch=batch)
        if failures:
            raise ValueError(f"could not be read: {', '.join(map(str, failures))}")

    return call


if __name__ == "__main__":
    main()
