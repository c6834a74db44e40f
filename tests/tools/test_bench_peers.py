"""tools/bench_peers.py on some of its rows, full size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "bench_peers.py"


@pytest.mark.slow
def test_some_rows(tmp_path):
    out = tmp_path / "peers"
    options = ["--batch", "1", "--rounds", "1", "--seconds", "0.01", "--out", out]
    command = [sys.executable, TOOL, "--only", "*frozen,keras.applications XLA,ours openvino,tf-slim*", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("inception_v3, ") and "left out" not in done.stdout
    (batch,) = json.loads(out.with_suffix(".json").read_text())["batches"]
    rows = {row["engine"]: row for row in batch["engines"]}
    assert list(rows) == [
        "keras.applications SavedModel",
        "keras.applications XLA",
        "keras.applications frozen",
        "ours openvino",
        "TF-Slim session",
        "TF-Slim frozen",
    ]
    assert batch["base"] == "keras.applications SavedModel" and rows[batch["base"]]["ratio"]["median"] == 1
    assert all(row["ratio"]["median"] > 0 and row["peak_memory"] > 95e6 for row in rows.values())  # the weights alone
    assert rows[batch["base"]]["peak_memory"] > rows["ours openvino"]["peak_memory"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "dynamic"], "expected a whole number above 0. Received: dynamic"),
        (["--batch", "0"], "expected a whole number above 0. Received: 0"),
        (["--rounds", "0"], "expected a whole number above 0. Received: 0"),
        (["--seconds", "nan"], "expected a number above 0. Received: nan"),
        (["--torch-python", "/nowhere"], "there is no program /nowhere"),
        (["--out", "taken"], "taken.md exists"),
    ],
)
def test_bad_input(options, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "taken.md").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(TOOL.parent)
    monkeypatch.setattr(sys, "argv", ["bench_peers.py", *options])
    import bench_peers

    with pytest.raises(SystemExit) as stop:
        bench_peers.main()
    assert said in f"{stop.value.code}{capsys.readouterr().err}"
