"""tools/bench_peers.py on two of its rows, full size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "bench_peers.py"


@pytest.mark.slow
def test_two_rows(tmp_path):
    out = tmp_path / "peers"
    options = ["--batch", "1", "--rounds", "1", "--seconds", "0.01", "--out", out]
    command = [sys.executable, TOOL, "--only", "applications, savedmodel;ours, openvino", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("inception_v3, ") and "left out" not in done.stdout
    (batch,) = json.loads(out.with_suffix(".json").read_text())["batches"]
    theirs, ours = batch["engines"]
    assert (theirs["engine"], ours["engine"]) == ("keras.applications, SavedModel", "ours, openvino")
    assert theirs["ratio"]["median"] == 1 and ours["ratio"]["median"] > 0
    assert theirs["peak_memory"] > ours["peak_memory"] > 95e6  # the weights alone
