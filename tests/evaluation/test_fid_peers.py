"""FID, KID and the Inception score beside torch-fidelity, pytorch-fid and clean-fid, on the same random weights.

    TORCH_PYTHON=PYTHON python -m pytest -s tests/evaluation/test_fid_peers.py

TORCH_PYTHON has the three and a SciPy below 1.18, which pytorch-fid needs. Printed is a row for each tool and mode: the
largest difference of a feature over the largest feature, and the relative differences of what follows; then each one's
statistics read by the other.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from inception_tf import tables
from inception_tf.evaluation.feature_statistics import FeatureStatistics
from inception_tf.evaluation.features import FeatureExtractor
from inception_tf.evaluation.fid import compare

PEERS = Path(__file__).with_name("run_fid_peers.py")
MODES = {
    "torch-fidelity": "tensorflow",
    "pytorch-fid": "pytorch",
    "clean-fid": "clean",
    "clean-fid legacy_tensorflow": "tensorflow",
    "clean-fid legacy_pytorch": "pytorch",
}
KID = {"subsets": 10, "subset_size": 5}  # as in run_fid_peers.py


def measure(a, b, torch_python, out):
    """A list of rows, dicts: the tool, the mode, and the differences by name. `out`: a folder to write to."""
    weights, environment = Path(out, "weights.pth"), {**os.environ, "CUDA_VISIBLE_DEVICES": ""}

    def peers(*arguments):
        command = [torch_python, str(PEERS), *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    peers("make", weights)
    peers("run", weights, a, b, out)
    theirs = json.loads(Path(out, "results.json").read_text())
    rows, ours, extractor = [], {}, FeatureExtractor(weights, batch=4)
    for tool, mode in MODES.items():
        if mode not in ours:
            extractor.resize = mode
            ours[mode] = [extractor.extract(folder, cache=False) for folder in (a, b)]
        peer = [np.load(Path(out, f"{tool} {name}.npy")) for name in "ab"]
        differences = [np.abs(own.values - other).max() / np.abs(other).max() for own, other in zip(ours[mode], peer)]
        rows.append({"tool": tool, "mode": mode, "features": float(max(differences))})
        metrics, facts = ("fid", "kid", "is", "pr") if tool == "torch-fidelity" else ("fid",), theirs[tool]
        result = compare(*ours[mode], metrics, extractor.kernel, *KID.values(), splits=2)
        if tool == "torch-fidelity":
            rows[-1]["kid"] = relative(result.kid[0], facts["kernel_inception_distance_mean_float64"])
            rows[-1]["is"] = relative(result.inception_score[0], facts["inception_score_mean"])
            rows[-1]["precision"] = sum(abs(getattr(result, name) - facts[name]) for name in ("precision", "recall"))
            facts = facts["frechet_inception_distance"]
        rows[-1] |= {"fid": relative(result.fid, facts), "our fid": result.fid}
    pair = [Path(out, f"ours {name}.npz") for name in "ab"]
    for side, path in zip(ours["pytorch"], pair):
        side.statistics.save(path, overwrite=True)
    by_them = float(peers("read", weights, *pair).split()[-1])
    of_theirs = compare(*(FeatureStatistics.load(Path(out, f"pytorch-fid {name}.npz")) for name in "ab")).fid
    for name, value in (("ours, read by pytorch-fid", by_them), ("pytorch-fid's, read by ours", of_theirs)):
        rows.append({"tool": name, "mode": "pytorch", "fid": relative(value, theirs["pytorch-fid"]), "our fid": value})
    return rows


def relative(ours, theirs):
    return abs(ours - theirs) / abs(theirs)


@pytest.mark.slow
def test_the_three_tools(shared, tmp_path):
    python, have = os.environ.get("TORCH_PYTHON"), "import torch_fidelity, pytorch_fid.fid_score, cleanfid.fid"
    if not python or subprocess.run([python, "-c", have], capture_output=True, check=False).returncode:
        pytest.skip("TORCH_PYTHON names no Python with torch-fidelity, pytorch-fid and clean-fid")
    for name in ("roses", "tulips"):
        (tmp_path / name).mkdir()
        for file in sorted((shared / "data/flower_photos" / name).glob("*.jpg"))[:6]:
            (tmp_path / name / file.name).symlink_to(file)
    rows = measure(tmp_path / "roses", tmp_path / "tulips", python, tmp_path)
    names = ("features", "fid", "kid", "is", "precision")
    cells = [(row["tool"], row["mode"], *(f"{row[k]:.1e}" if k in row else "" for k in names)) for row in rows]
    print(tables.render(cells, ("beside", "resize", "features", "FID", "KID", "IS", "P, R")))
    assert [row["tool"] for row in rows[:5]] == list(MODES) and len(rows) == 7
    for row in rows:
        assert row.get("features", 0) < 1e-5, row
        assert all(row.get(name, 0) < 1e-3 for name in names[1:]), row
    by_mode = {row["mode"]: row["our fid"] for row in rows}
    assert len({round(value, 4) for value in by_mode.values()}) == 3  # the resize shows
