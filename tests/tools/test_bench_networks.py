"""tools/bench_gpu.py and tools/bench_training.py on the processor, end to end, as small as they go.

TORCH_PYTHON may name a Python that has torch, and timm or torchvision.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # a process and a compilation for every row

needs_torch = pytest.mark.skipif("TORCH_PYTHON" not in os.environ, reason="TORCH_PYTHON names no Python with torch")
TOOLS = Path(__file__).resolve().parents[2] / "tools"
MULTIPLY_ADDS = 42_572_464  # of the small network; test_profile.py holds `profile` to TensorFlow's profiler
TRAINED_HEAD = 2048 * 5 + 5
SMALL = ["--small", "--device", "cpu", "--precisions", "float32"]


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory):
    """A Python without torch: this one, without what is installed."""
    path = tmp_path_factory.mktemp("python") / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def bench(tmp_path):
    """A function that runs a tool; returns the finished process, and what it wrote as JSON."""

    def run(tool, *options, python):
        out = tmp_path / "out.json"
        command = [sys.executable, TOOLS / f"{tool}.py", "--rounds", "2", "--seconds", "0.01", "--json", out, *options]
        done = subprocess.run([*command, "--torch-python", python], capture_output=True, text=True)
        return done, json.loads(out.read_text()) if out.exists() else None

    return run


def check(found, names, stdout):
    """The rows have these names, figures that can be, and a line each in the Markdown."""
    assert [row["name"] for row in found["rows"]] == names
    lines = [[cell.strip() for cell in line.split("|")] for line in stdout.splitlines() if line.startswith("| ")]
    assert [line[2] for line in lines if line[1].isdecimal()] == names
    base = found["rows"][0]["rounds"]
    for row in found["rows"]:
        assert len(row["rounds"]) == 2 and min(row["rounds"]) > 0 and row["first_step_seconds"] > 0
        assert row["took_turns"] and row["ratio"] == pytest.approx(sum(a / b for a, b in zip(row["rounds"], base)) / 2)


def check_shares(found, multiply_adds):
    """Multiply-adds are the network's, and something is reached of the processor's peak and of its copies."""
    for row in found["rows"]:
        assert row["multiply_adds_per_image"] == multiply_adds[row["name"].startswith("torch")]
        assert row["of_matrix_peak"] > 0 and row["of_copy"] > 0


def test_bounds(monkeypatch):
    """By hand: 10 multiply-adds, 6 activations, 4 weights and 3 pixels; batches of 2."""
    monkeypatch.syspath_prepend(TOOLS)
    from bench_gpu import bounds

    costs = {"ours": {"multiply_adds": 10, "activations": 6, "parameters": 4, "pixels": 3}}
    row = {"name": "ours JAX", "precision": "float32", "batch": 2, "mode": "inference", "speed": 5.0}
    peaks = {"matrix": 100.0, "copy": 680.0}
    found = bounds(row, costs, peaks)
    assert found["bytes_per_image"] == 4 * (6 + 6 + 3 + 4 / 2)  # written and read, the image, its share of the weights
    assert (found["matrix_bound"], found["of_matrix_peak"], found["milliseconds"]) == (10, 0.5, 400)
    assert (found["copy_bound"], found["of_copy"]) == (10, 0.5)
    found = bounds(row | {"precision": "bfloat16"}, costs, peaks)
    assert (found["bytes_per_image"], found["of_matrix_peak"]) == (34, 0.5)
    found = bounds(row | {"mode": "training"}, costs, peaks)
    assert (found["bytes_per_image"], found["of_matrix_peak"]) == (4 * (5 * 6 + 3) + 4 * 8 * 4 / 2, 1.5)


def test_inference(bench, no_torch):
    done, found = bench("bench_gpu", *SMALL, "--modes", "inference", "--batches", "1", python=no_torch)
    assert done.returncode == 0, done.stderr
    check(
        found,
        ["ours JAX", "ours JAX fused", "ours TensorFlow XLA", "ours TensorFlow XLA fused"],
        done.stdout,
    )
    check_shares(found, [MULTIPLY_ADDS])
    (line,) = found["left_out"]
    assert line.startswith("torch: ") and "has no torch" in line and "--torch-python" in line
    assert done.stderr.splitlines() == [f"left out: {line}"]


def test_training_step(bench, no_torch):
    options = ["--modes", "training", "--batches", "2", "--only", "ours JAX*"]
    done, found = bench("bench_gpu", *SMALL, *options, python=no_torch)
    assert done.returncode == 0, done.stderr
    check(found, ["ours JAX"], done.stdout)
    check_shares(found, [3 * MULTIPLY_ADDS])
    assert found["left_out"] == []


def test_no_gpu(bench, no_torch):
    done, found = bench("bench_gpu", "--only", "torch*,ours TensorFlow*", python=no_torch)
    if done.returncode == 0:
        pytest.skip("there is a GPU")
    assert found is None and done.stdout == ""
    *_, left_out, error = done.stderr.splitlines()
    assert left_out == "left out: tensorflow: TensorFlow sees no GPU"
    assert "--device cpu" in error


@needs_torch
def test_torch_on_a_gpu_tool(bench):
    options = ["--modes", "training", "--batches", "1", "--only", "torch eager,torch channels_last,ours JAX"]
    done, found = bench("bench_gpu", *SMALL, *options, python=os.environ["TORCH_PYTHON"])
    assert done.returncode == 0, done.stderr
    check(found, ["torch eager", "torch channels_last", "ours JAX"], done.stdout)
    check_shares(found, [3 * MULTIPLY_ADDS, 3 * 525_720_160])


def test_fine_tuning_step(bench, no_torch):
    options = ["--size", "75", "--batches", "2", "--only", "ours,ours on features,torch*"]
    done, found = bench("bench_training", *options, python=no_torch)
    assert done.returncode == 0, done.stderr
    rows = {part: [row for row in found["rows"] if row["part"] == part] for part in ("full", "head")}
    for part, table in zip(rows, done.stdout.split("**head**")):
        extra = ["ours on features"] if part == "head" else []
        check({"rows": rows[part]}, ["keras.applications", "ours", *extra], table)
    assert {row["trained"] for row in rows["full"]} == {21768352 + TRAINED_HEAD}
    assert {row["trained"] for row in rows["head"]} == {TRAINED_HEAD}
    (line,) = found["left_out"]
    assert line.startswith("torch: ") and "has no torch" in line and "--torch-python" in line


@needs_torch
def test_torch_step(bench):
    options = ["--size", "75", "--batches", "2", "--parts", "head", "--only", "torch eager,torch channels_last"]
    done, found = bench("bench_training", *options, python=os.environ["TORCH_PYTHON"])
    assert done.returncode == 0, done.stderr
    check(found, ["keras.applications", "torch eager", "torch channels_last"], done.stdout)
