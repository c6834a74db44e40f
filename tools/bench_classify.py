"""What `classify` loses beside its engine: images/s of a directory of photographs, and seconds to a first answer.

    python tools/bench_classify.py MODEL [MODEL …]

MODEL is whatever `inception-tf classify` takes. In turns, the bare engine answers preprocessed images, `classify` does
the files of the same ones, decoding included, in batches of the same size, and they are decoded and preprocessed alone;
the ratio is taken round by round. Of an engine that computes on all processors E images/s and files decoded at D, no
more than 1 / (1/E + 1/D) can be had. The first answer of `classify` is one photograph's, from the start of a process.
"""

import itertools
import tempfile
from pathlib import Path

from _tools import benchmark_options, start

from inception_tf.benchmark.harness import Section, benchmark
from inception_tf.benchmark.report import Report
from inception_tf.benchmark.rounds import Candidate
from inception_tf.cli.bench import settings
from inception_tf.exports.serving_files import jpegs
from inception_tf.images.files import find_images


def main():
    parser = benchmark_options(__doc__, batch="16", rounds=5)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--images", nargs="+", help="photographs (64 generated JPEGs)")
    start(parser, run)


def run(args):
    options = settings(args)
    with tempfile.TemporaryDirectory() as scratch:
        for i, data in enumerate(16 * jpegs()):
            Path(scratch, f"{i:04}.jpg").write_bytes(data)
        paths = [str(path) for path in find_images(args.images or [scratch])]
        report, here = Report(f"{len(paths)} photographs"), Path(__file__).resolve()

        def section(model, batch):
            given = {"model": model, "paths": paths, "batch": batch}
            rows = [Candidate(name, f"{here}:{name}", given, len(paths)) for name in ("engine", "classify", "decoding")]
            return Section({"model": Path(model).name, "batch": batch}, rows)

        benchmark(report, itertools.starmap(section, itertools.product(args.models, args.batch)), **options)
    print(report.markdown())


def engine(model, paths, batch):
    """The bare engine on the preprocessed photographs."""
    from inception_tf.inference.engines import open_engine

    run = open_engine(model)
    images = run.preprocessing(paths, decoder=run.decoder)
    return lambda: [run(images[i : i + batch]) for i in range(0, len(images), batch)]


def classify(model, paths, batch):
    """`classify` on the files; the first call is of one."""
    from inception_tf.inference import classify, engines

    run, calls = engines.open_engine(model), itertools.chain([paths[:1]], itertools.repeat(paths))

    def call():
        _, failures = classify.classify(run, next(calls), batch=batch)
        if failures:
            raise ValueError(f"could not be read: {', '.join(map(str, failures))}")

    return call


def decoding(model, paths, batch):
    """The files read, decoded and preprocessed, in as many threads as `classify` does it."""
    from inception_tf.images.decoding import read_image
    from inception_tf.inference import classify, engines

    run = engines.open_engine(model)

    def prepare(path):
        return run.preprocessing(read_image(path, decoder=run.decoder))

    return lambda: list(classify.prepared(prepare, paths, batch))


if __name__ == "__main__":
    main()
