"""tools/bench_classify.py on a small network's export."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from inception_tf.export.litert import to_litert
from inception_tf.zoo import create_model

TOOL = Path(__file__).resolve().parents[2] / "tools" / "bench_classify.py"


@pytest.mark.slow
def test_a_network(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    path = to_litert(create_model("lenet", classes=10), tmp_path / "digits.tflite", check=False)
    options = ["--count", "5", "--batch", "2", "--rounds", "1", "--starts", "1"]
    done = subprocess.run([sys.executable, TOOL, path, *options], capture_output=True, text=True, check=True)
    header, _, row, _, last = done.stdout.splitlines()
    name, engine, classified, ratio = row.split()[:4]
    assert header.startswith("model") and name == "digits.tflite"
    # Photographs are decoded on top of what the engine does.
    assert float(engine) > float(classified) > 0 and float(ratio) < 1
    assert re.match("5 photographs, batches of 2; medians of 1 rounds and 1 starts", last)


def test_no_model():
    done = subprocess.run([sys.executable, TOOL, "none.onnx"], capture_output=True, text=True)
    assert done.returncode and "none.onnx" in done.stderr and "Traceback" not in done.stderr
