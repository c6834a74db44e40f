"""The benchmarks in tools/ on the processor, end to end, as small as they go.

TORCH_PYTHON may name a Python that has torch and timm.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inception_tf.exports.litert import to_litert
from inception_tf.zoo import create_model

TOOLS = Path(__file__).resolve().parents[2] / "tools"
QUICK = ["--rounds", "2", "--seconds", "0.01"]
SMALL = [*QUICK, "--small", "--device", "cpu"]
TRAINED_HEAD = 2048 * 5 + 5
BACKBONE = 21768352  # the trainable parameters of Inception-v3 without its head


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory):
    """A Python without torch: this one, without what is installed."""
    path = tmp_path_factory.mktemp("python") / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def bench(tmp_path):
    """A function that runs a tool; returns the JSON that it wrote."""

    def run(tool, *options):
        out = tmp_path / "out"
        command = [sys.executable, TOOLS / f"{tool}.py", *options, "--out", out]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == out.with_suffix(".md").read_text().strip()
        return json.loads(out.with_suffix(".json").read_text())

    return run


def names(section):
    return [row["engine"] for row in section["engines"]]


@pytest.mark.slow
def test_inference(bench, no_torch):
    found = bench("bench_gpu", *SMALL, "--modes", "inference", "--batch", "1", "--torch-python", no_torch)
    (section,) = found["batches"]
    assert names(section) == ["ours JAX fused", "ours JAX", "ours TensorFlow XLA", "ours TensorFlow XLA fused"]
    assert (section["mode"], section["precision"], section["batch"]) == ("inference", "float32", 1)
    assert section["matmul_gflops"] > 0
    for row in section["engines"]:
        assert row["in_turns"] and len(row["rounds"]) == 2 and min(row["rounds"]) > 0 and row["ratio"]
    (line,) = found["left_out"]
    assert line.startswith("torch: ") and "has no torch" in line and "--torch-python" in line
    assert {"jax", "tensorflow", "keras"} <= found["machine"]["packages"].keys()


@pytest.mark.slow
def test_training_steps(bench, no_torch):
    options = ["--modes", "full", "head", "--batch", "2", "--torch-python", no_torch]
    found = bench("bench_gpu", *SMALL, *options, "--only", "keras.applications,ours,ours on features")
    full, head = found["batches"]
    assert names(full) == ["keras.applications", "ours"]
    assert names(head) == ["keras.applications", "ours", "ours on features"]
    assert {row["trained"] for row in full["engines"]} == {BACKBONE + TRAINED_HEAD}
    assert {row["trained"] for row in head["engines"]} == {TRAINED_HEAD}
    assert found["left_out"] == []


@pytest.mark.slow
@pytest.mark.skipif("TORCH_PYTHON" not in os.environ, reason="TORCH_PYTHON names no Python with torch")
def test_torch(bench):
    options = ["--modes", "inference", "full", "--batch", "1", "--only", "torch eager,torch channels_last,ours JAX"]
    found = bench("bench_gpu", *SMALL, *options)
    assert [names(section) for section in found["batches"]] == [
        ["ours JAX", "torch channels_last", "torch eager"],
        ["ours JAX", "torch channels_last", "torch eager"],
    ]
    assert found["left_out"] == [] and "timm" in found["machine"]["packages"]


@pytest.mark.slow
def test_peers(bench):
    found = bench("bench_peers", *QUICK, "--batch", "1", "--only", "*frozen,*XLA,*LiteRT,ours openvino,tf-slim*")
    (section,) = found["batches"]
    assert section["base"] == "keras.applications SavedModel" and found["left_out"] == []
    rows = {row["engine"]: row for row in section["engines"]}
    assert list(rows) == [
        "keras.applications SavedModel",
        "keras.applications XLA",
        "keras.applications frozen",
        "keras.applications LiteRT",
        "ours keras-xla",
        "ours savedmodel-xla",
        "ours litert",
        "ours openvino",
        "TF-Slim session",
        "TF-Slim frozen",
    ]
    assert rows[section["base"]]["ratio"]["median"] == 1
    assert all(row["ratio"]["median"] > 0 and row["peak_memory"] > 95e6 for row in rows.values())  # the weights alone
    assert rows[section["base"]]["peak_memory"] > rows["ours openvino"]["peak_memory"]


@pytest.mark.slow
def test_classify(bench, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    path = to_litert(create_model("lenet", classes=10), tmp_path / "digits.tflite", check=False)
    (section,) = bench("bench_classify", path, *QUICK, "--batch", "2")["batches"]
    assert (section["model"], section["base"], names(section)) == (
        "digits.tflite",
        "engine",
        ["engine", "classify", "decoding"],
    )


@pytest.mark.parametrize(
    ("tool", "options", "said"),
    [
        ("bench_peers", ["--out", "taken"], "taken.md exists"),
        ("bench_classify", ["none.onnx"], "none.onnx"),
        ("bench_gpu", ["--only", "none"], "Nothing of Keras in --only"),
        ("bench_gpu", ["--only", "torch*", "--device", "cpu", "--torch-python", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_input(tool, options, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "taken.md").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{tool}.py", *options])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(tool).main()
    assert said in f"{stop.value.code}{capsys.readouterr().err}"
