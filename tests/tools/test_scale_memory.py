"""The tool that measures memory over the number of images."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "scale_memory.py"


@pytest.mark.slow
def test_it_draws(tmp_path):
    for package in ("pyarrow", "fsspec", "matplotlib", "tf2onnx", "onnxruntime"):
        pytest.importorskip(package)
    import inception_tf as itf

    model = itf.export(itf.create_model("lenet", classes=3), tmp_path / "digits.onnx", "onnx")
    command = [sys.executable, TOOL, model, "--sizes", "3", "600", "--out", tmp_path / "memory.png"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert [line.split()[0] for line in done.stdout.splitlines() if line[:1].isdigit()] == ["3", "600"]
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
