"""FID beside pytorch-fid and torch-fidelity: images/s from files to statistics, and distances of 2048 dimensions.

    TORCH_PYTHON=PYTHON python tools/bench_fid.py [--images N] [--device cpu]

All take the same PNGs of 256×256 and the same random weights, as batches of one size. They take turns, and ratios are
to the first, round by round. PYTHON has the two and a SciPy below 1.18, which pytorch-fid needs.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _tools import benchmark_options, start, wanted

from inception_tf.benchmark.harness import Section, benchmark
from inception_tf.benchmark.report import Report
from inception_tf.benchmark.rounds import Candidate
from inception_tf.cli.bench import settings

HERE = Path(__file__).resolve()
PEERS = HERE.parents[1] / "tests/evaluation/run_fid_peers.py"
TOOLS, PRECISIONS = ("pytorch-fid", "torch-fidelity"), ("float32", "bfloat16")
SIDE, DIMENSIONS = 256, 2048


def main():
    parser = benchmark_options(__doc__, peers=True, batch="32", rounds=5, seconds=1.0)
    parser.add_argument("--images", type=int, default=128, metavar="N", help="how many (128)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where the networks run (cpu)")
    start(parser, run)


def run(args):
    options, report = settings(args), Report(f"FID, {args.images} PNGs of {SIDE}×{SIDE}")
    hidden = {"CUDA_VISIBLE_DEVICES": "-1"} if args.device == "cpu" else {}

    def section(setting, work, function, ours, **given):
        rows = [(tool, f"{PEERS}:{function}", args.torch_python, {"tool": tool}) for tool in TOOLS]
        rows += [(f"ours {name}", f"{HERE}:{function}", sys.executable, more) for name, more in ours.items()]
        found = [
            Candidate(name, place, {**given, **more}, work, python, hidden)
            for name, place, python, more in rows
            if wanted(name, args.only)
        ]
        return Section(setting, found)

    with tempfile.TemporaryDirectory() as scratch:
        weights, folder, pair = (Path(scratch, name) for name in ("weights.pth", "images", "pair.npz"))
        subprocess.run([args.torch_python, PEERS, "make", weights], check=True)
        write_images(folder, args.images)
        np.savez(pair, **two_statistics())
        given = {"weights": str(weights), "folder": str(folder)}
        ours = {precision: {"precision": precision} for precision in PRECISIONS}
        sections = [section({"batch": n}, args.images, "statistics", ours, batch=n, **given) for n in args.batch]
        title = {"of": f"distances of {DIMENSIONS} dimensions a minute, in place of images/s"}
        benchmark(report, [*sections, section(title, 60, "distance", {"eigh": {}}, pair=str(pair))], **options)
    print(report.markdown())


def write_images(folder, count):
    from PIL import Image

    random = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        small = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype="uint8"))
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{i:05}.png")


def two_statistics():
    """Means and covariances of twice as many random features as dimensions, their spectrum falling as a network's."""
    random, found = np.random.default_rng(0), {}
    scales = 1 / np.arange(1, DIMENSIONS + 1)
    for i in (1, 2):
        turned = np.linalg.qr(random.normal(size=(DIMENSIONS, DIMENSIONS)))[0]
        features = random.normal(size=(2 * DIMENSIONS, DIMENSIONS)) * scales @ turned
        found |= {f"mu{i}": features.mean(0), f"sigma{i}": np.cov(features, rowvar=False)}
    return found


def statistics(weights, folder, batch, precision):
    from inception_tf.evaluation.features import FeatureExtractor

    extractor = FeatureExtractor(weights, "tensorflow", precision, batch)
    return lambda: extractor.extract(folder, cache=False).statistics.sigma


def distance(pair):
    from inception_tf.evaluation.generative import frechet_distance

    with np.load(pair) as file:
        arrays = [file[name] for name in ("mu1", "sigma1", "mu2", "sigma2")]
    return lambda: frechet_distance(*arrays)


if __name__ == "__main__":
    main()
