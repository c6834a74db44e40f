"""What the tests of whole runs share: the command, and the rows of their metrics."""

import json
import sys

import pytest

from inception_tf.training.run import measure


def finetune_command(data, out, *options):
    """The command of a run of LeNet from random weights, on CPUs in seconds."""
    words = ["-m", "inception_tf", "finetune", "--data", data, "--out", out, "--network", "lenet", "--weights", "none"]
    return list(map(str, [sys.executable, *words, "--optimizer", "adam", "--no-report", *options]))


def read_rows(out):
    """The metrics in a run's directory, a dict per epoch."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same_history(rows, expected, rel=1e-5):
    """Two runs went the same way, epoch by epoch."""
    for row, other in zip(rows, expected, strict=True):
        assert (row["step"], row["phase"], row["epoch"]) == (other["step"], other["phase"], other["epoch"])
        for key in ("loss", "objective", measure(row), "val_loss", f"val_{measure(row)}", "learning_rate"):
            assert row[key] == pytest.approx(other[key], rel=rel, abs=1e-6), (key, row["step"])
