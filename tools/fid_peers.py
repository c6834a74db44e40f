"""FID, KID and the Inception score beside torch-fidelity, pytorch-fid and clean-fid, on the same random weights.

    TORCH_PYTHON=…/python python tools/fid_peers.py A B

A and B are folders of images. TORCH_PYTHON has torch-fidelity, pytorch-fid, clean-fid and a SciPy below 1.18, which
pytorch-fid needs. A row for each tool and mode: the largest difference of a feature over the largest feature, and the
relative differences of what follows; then each one's statistics read by the other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from inception_tf import tables
from inception_tf.evaluation.feature_statistics import FeatureStatistics
from inception_tf.evaluation.features import FeatureExtractor
from inception_tf.evaluation.fid import compare
from inception_tf.quiet import start_keras

PEERS = Path(__file__).resolve().with_name("_fid_torch.py")
MODES = {
    "torch-fidelity": "tensorflow",
    "pytorch-fid": "pytorch",
    "clean-fid": "clean",
    "clean-fid legacy_tensorflow": "tensorflow",
    "clean-fid legacy_pytorch": "pytorch",
}
KID = {"subsets": 10, "subset_size": 5}  # as in _fid_torch.py


def measure(a, b, torch_python, out):
    """A list of rows, dicts: the tool, the mode, and the differences by name. `out`: a folder to write to."""
    weights = Path(out, "weights.pth")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}

    def peers(*arguments):
        run = [torch_python, str(PEERS), *map(str, arguments)]
        done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        return done.stdout

    if not weights.exists():
        peers("make", weights)
    if not Path(out, "results.json").exists():
        peers("run", weights, a, b, out)
    theirs = json.loads(Path(out, "results.json").read_text())
    rows, ours, extractor = [], {}, FeatureExtractor(weights, batch=4)
    for tool, mode in MODES.items():
        if mode not in ours:
            extractor.resize = mode
            ours[mode] = [extractor.extract(folder, cache=False) for folder in (a, b)]
        found, row = ours[mode], {"tool": tool, "mode": mode}
        wanted = [np.load(Path(out, f"{tool} {name}.npy")) for name in "ab"]
        differences = [np.abs(side.values - peer).max() / np.abs(peer).max() for side, peer in zip(found, wanted)]
        row["features"] = float(max(differences))
        metrics = ("fid", "kid", "is", "pr") if tool == "torch-fidelity" else ("fid",)
        result = compare(*found, metrics, extractor.kernel, *KID.values(), splits=2)
        facts = theirs[tool]
        if tool == "torch-fidelity":
            row["fid"] = _relative(result.fid, facts["frechet_inception_distance"])
            row["kid"] = _relative(result.kid[0], facts["kernel_inception_distance_mean_float64"])
            row["is"] = _relative(result.inception_score[0], facts["inception_score_mean"])
            row["precision"] = abs(result.precision - facts["precision"]) + abs(result.recall - facts["recall"])
        else:
            row["fid"] = _relative(result.fid, facts)
        row["our fid"] = result.fid
        rows.append(row)
    pair = [Path(out, f"ours {name}.npz") for name in "ab"]
    for side, path in zip(ours["pytorch"], pair):
        side.statistics.save(path, overwrite=True)
    by_them = float(peers("read", weights, *pair).split()[-1])
    of_theirs = compare(*(FeatureStatistics.load(Path(out, f"pytorch-fid {name}.npz")) for name in "ab")).fid
    for name, value in (("ours, read by pytorch-fid", by_them), ("pytorch-fid's, read by ours", of_theirs)):
        rows.append({"tool": name, "mode": "pytorch", "fid": _relative(value, theirs["pytorch-fid"]), "our fid": value})
    return rows


def _relative(ours, theirs):
    return abs(ours - theirs) / abs(theirs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--torch-python", default=os.environ.get("TORCH_PYTHON"), help="default: TORCH_PYTHON")
    parser.add_argument("--out", help="a folder to keep what they wrote in (a temporary one)")
    args = parser.parse_args()
    if not args.torch_python:
        sys.exit("fid_peers: TORCH_PYTHON or --torch-python names a Python with the three tools.")
    start_keras()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args.a, args.b, args.torch_python, args.out or folder)
    names = ("features", "fid", "kid", "is", "precision")
    cells = [
        (
            row["tool"],
            row["mode"],
            *(f"{row[name]:.1e}" if name in row else "" for name in names),
            f"{row['our fid']:.6g}",
        )
        for row in rows
    ]
    print(tables.render(cells, ("beside", "resize", "features", "FID", "KID", "IS", "P, R", "FID itself"), "<<>>>>>>"))


if __name__ == "__main__":
    main()
