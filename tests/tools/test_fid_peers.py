"""FID beside torch-fidelity, pytorch-fid and clean-fid, which a Python of their own runs: TORCH_PYTHON."""

import os
import subprocess

import fid_peers
import pytest


@pytest.fixture
def torch_python():
    python = os.environ.get("TORCH_PYTHON")
    have = "import torch_fidelity, pytorch_fid.fid_score, cleanfid.fid"
    if not python or subprocess.run([python, "-c", have], capture_output=True, check=False).returncode:
        pytest.skip("TORCH_PYTHON names no Python with torch-fidelity, pytorch-fid and clean-fid")
    return python


@pytest.mark.slow
def test_the_three_tools(torch_python, shared, tmp_path):
    for name in ("roses", "tulips"):
        (tmp_path / name).mkdir()
        for file in sorted((shared / "data/flower_photos" / name).glob("*.jpg"))[:6]:
            (tmp_path / name / file.name).symlink_to(file)
    rows = fid_peers.measure(tmp_path / "roses", tmp_path / "tulips", torch_python, tmp_path)
    assert [row["tool"] for row in rows[:5]] == list(fid_peers.MODES) and len(rows) == 7
    for row in rows:
        assert row.get("features", 0) < 1e-5, row
        assert all(row.get(name, 0) < 1e-3 for name in ("fid", "kid", "is", "precision")), row
    by_mode = {row["mode"]: row["our fid"] for row in rows}
    assert len({round(value, 4) for value in by_mode.values()}) == 3  # the resize shows
