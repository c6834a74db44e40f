"""Memory of `classify --out` over the number of images: a process a size, small JPEGs; and the picture of it.

python tools/scale_memory.py digits.onnx --sizes 1000 10000 100000 --out docs/pictures/scale_memory.png
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from inception_tf import figures, tables
from inception_tf.images.streams import image_tables
from inception_tf.inference.jobs import Parts, run_job
from inception_tf.inference.table import TablePredictor


def resident():
    """The process's resident memory in MB. Linux alone has this file."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def child(model, photos, out, embed):
    """Answers a folder; prints (images so far, MB) of every table, and the summary."""
    curve, done = [], 0

    def watched():
        nonlocal done
        for table in image_tables(photos):
            yield table
            done += len(table)
            curve.append((done, resident()))

    predictor = TablePredictor(model, embed=embed, threads=1)
    summary = run_job(watched(), predictor, Parts(out, predictor.settings))
    print(json.dumps({"curve": curve, "seconds": summary.seconds, "failed": summary.failed}))


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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an .onnx")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000], help="how many images")
    parser.add_argument("--embed", action="store_true", help="the features too")
    parser.add_argument("--out", required=True, help="the picture")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.model, *args.child, args.embed)
    figures.check(args.out, overwrite=True)
    figure = figures.figure(7, 4)
    axes, rows = figure.subplots(), []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            make(Path(scratch, "photos"), size)
            places = [os.path.join(scratch, name) for name in ("photos", "out")]
            command = [sys.executable, __file__, args.model, "--out", args.out, "--child", *places]
            done = subprocess.run(command + ["--embed"] * args.embed, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        images, memory = zip(*found["curve"])
        axes.plot(images, memory, marker="." if len(images) < 9 else None, label=f"{size:,} images")
        rows.append((f"{size:,}", f"{max(memory):.0f}", f"{memory[-1]:.0f}", f"{found['seconds']:.0f}"))
        print(tables.render(rows[-1:], ("images", "most MB", "MB at the end", "seconds")), flush=True)
    axes.set(xscale="log", xlabel="images answered", ylabel="resident memory, MB", ylim=(0, None))
    axes.legend()
    figures.save(figure, args.out, overwrite=True)
    return None


if __name__ == "__main__":
    main()
