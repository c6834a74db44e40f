"""Memory of `classify --out` over the number of images: a process a size, small JPEGs; and the picture of it.

python tools/scale_memory.py digits.onnx --sizes 1000 10000 100000 --out docs/pictures/scale_memory.png
"""

import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from _tools import options, start
from PIL import Image

from inception_tf import figures, tables
from inception_tf.images.streams import image_tables
from inception_tf.inference.jobs import Parts, run_job
from inception_tf.inference.table import TablePredictor


def main():
    parser = options(__doc__)
    parser.add_argument("model", help="an .onnx")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000], help="how many images")
    parser.add_argument("--out", required=True, help="the picture")
    start(parser, run)


def run(args):
    figures.check(args.out, overwrite=True)
    figure, spawn = figures.figure(7, 4), multiprocessing.get_context("spawn")
    axes = figure.subplots()
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor(1, spawn) as processes:
            make(Path(scratch, "photos"), size)
            curve, seconds = processes.submit(answer, args.model, scratch).result()
        images, memory = zip(*curve)
        axes.plot(images, memory, marker="." if len(images) < 9 else None, label=f"{size:,} images")
        row = f"{size:,}", f"{max(memory):.0f}", f"{memory[-1]:.0f}", f"{seconds:.0f}"
        print(tables.render([row], ("images", "most MB", "MB at the end", "seconds")), flush=True)
    axes.set(xscale="log", xlabel="images answered", ylabel="resident memory, MB", ylim=(0, None))
    axes.legend()
    figures.save(figure, args.out, overwrite=True)


def make(folder, count):
    """A folder of JPEGs of 8×8 noise; every 1,000 are links to one file, so that the disk holds few."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        if number % 1000 == 0:
            first = folder / f"{number:07d}.jpg"
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(first)
        else:
            os.link(first, folder / f"{number:07d}.jpg")


def answer(model, folder):
    """Answers `photos` in a folder: a list of (images so far, MB), one of every table, and seconds."""
    curve, done = [], 0

    def watched():
        nonlocal done
        for table in image_tables(Path(folder, "photos")):
            yield table
            done += len(table)
            pages = int(Path("/proc/self/statm").read_text().split()[1])  # Linux alone has this file
            curve.append((done, pages * os.sysconf("SC_PAGE_SIZE") / 1e6))

    predictor = TablePredictor(model, threads=1)
    return curve, run_job(watched(), predictor, Parts(Path(folder, "out"), predictor.settings)).seconds


if __name__ == "__main__":
    main()
