"""What `classify` loses beside its engine: images/s of a directory of photographs, and seconds to a first answer.

    python tools/bench_classify.py MODEL [MODEL …]

MODEL is whatever `inception-tf classify` takes. In each round the bare engine answers preprocessed images, then
`classify` does the files of the same ones, decoding included, in batches of the same size; the ratio is taken round by
round. The first answer is timed from the start of a process, `inception-tf classify MODEL` of one photograph.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _contest import start, whole

from inception_tf import tables
from inception_tf.images.files import find_images
from inception_tf.inference.classify import classify
from inception_tf.inference.engines import open_engine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--images", nargs="+", help="photographs (default: made up, 500×375 JPEGs)")
    parser.add_argument("--count", type=whole, default=64, help="how many photographs (64)")
    parser.add_argument("--batch", type=whole, default=16, help="images at a time (16)")
    parser.add_argument("--rounds", type=whole, default=5)
    parser.add_argument("--starts", type=whole, default=5, help="how many processes are timed (5)")
    parser.add_argument("--openvino", action="store_true", help="as `classify` takes it")
    start(parser, run)


def run(args):
    before, rows = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as scratch:
        paths = find_images(args.images) if args.images else photographs(Path(scratch), args.count)
        paths = paths[:: max(len(paths) // args.count, 1)][: args.count]
        for model in args.models:
            engine = open_engine(model, openvino=args.openvino)
            bare, classified = throughput(engine, paths, args.batch, args.rounds)
            ratios = [b / a for a, b in zip(bare, classified)]
            options = ["--openvino"] * args.openvino
            starts = [first_answer(model, paths[0], options) for _ in range(args.starts)]
            rows.append(
                (
                    Path(model).name,
                    f"{statistics.median(bare):.1f}",
                    f"{statistics.median(classified):.1f}",
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
                    f"{statistics.median(starts):.2f} ({min(starts):.2f}–{max(starts):.2f})",
                )
            )
            del engine
    header = ("model", "engine, images/s", "classify, images/s", "ratio", "first answer, s")
    print(tables.render(rows, header, "<>>>>"))
    print(
        f"\n{len(paths)} photographs, batches of {args.batch}; medians of {args.rounds} rounds and {args.starts} "
        f"starts (spread). {os.cpu_count()} cores, load {before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end."
    )


def throughput(engine, paths, batch, rounds):
    """Images/s of the bare engine and of `classify`, a list of each; a first round is not counted."""
    images = engine.preprocessing(paths, decoder=engine.decoder)
    batches = [images[i : i + batch] for i in range(0, len(images), batch)]

    def bare():
        for some in batches:
            engine(some)

    def classified():
        _, failures = classify(engine, paths, batch=batch)
        if failures:
            sys.exit(f"could not be read: {', '.join(map(str, failures))}")

    rates = ([], [])
    for _ in range(rounds + 1):
        for run, found in zip((bare, classified), rates):
            begin = time.perf_counter()
            run()
            found.append(len(paths) / (time.perf_counter() - begin))
    return rates[0][1:], rates[1][1:]


def first_answer(model, path, options):
    """Seconds from the start of a process to its end, one photograph classified."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "inception_tf", "classify", model, path, *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def photographs(folder, count, size=(500, 375)):
    """Writes JPEGs of a photograph's detail and weight: smooth colours under grain."""
    from PIL import Image

    random = np.random.default_rng(0)
    paths = []
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float32)
        grain = random.normal(0, 8, (*smooth.shape[:2], 1))
        paths.append(folder / f"{i:04}.jpg")
        Image.fromarray(np.uint8(np.clip(smooth + grain, 0, 255))).save(paths[-1], quality=90)
    return paths


if __name__ == "__main__":
    main()
