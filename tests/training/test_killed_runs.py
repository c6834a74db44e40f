"""The command itself, killed at random moments, and stopped by Ctrl-C."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from histories import assert_same_history, read_rows

OPTIONS = "--network lenet --weights none --epochs 6 --optimizer adam --batch-size 2 --no-report --seed 3"
STEPS = 6 * (30 // 2)


def command(pictures, out, *more):
    program = [sys.executable, "-m", "inception_tf", "finetune", "--data", str(pictures), "--out", str(out)]
    return [*program, *OPTIONS.split(), *more]


def start(pictures, out, *more):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        command(pictures, out, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(pictures, out, *more):
    process = start(pictures, out, *more)
    text, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return text


@pytest.fixture(scope="module")
def unbroken(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "run"
    finish(pictures, out)
    assert read_rows(out)[-1]["step"] == STEPS
    return read_rows(out)


@pytest.mark.slow
def test_a_dozen_kills(pictures, unbroken, tmp_path):
    """SIGKILL a dozen times: while it starts, trains, validates, saves. The end is that of an unbroken run."""
    out, moments = tmp_path / "run", random.Random(5)

    def steps():
        if not (out / "state.npz").exists():
            return 0
        with np.load(out / "state.npz") as state:  # whole, whenever it is
            return json.loads(state["meta"].tobytes())["position"]["total"]

    seen = [0]
    for i in range(12):
        process = start(pictures, out, "--save-steps", "1")
        if i % 3 == 1:
            time.sleep(moments.uniform(0, 8))  # as it starts
        else:
            while process.poll() is None and steps() == seen[-1]:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        seen.append(steps())
    assert seen == sorted(seen) and len(set(seen)) > 3
    finish(pictures, out, "--save-steps", "1")
    assert_same_history(read_rows(out), unbroken)
    assert not [path for path in out.iterdir() if path.is_dir() and path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_keeps_the_state(pictures, unbroken, tmp_path, number):
    out = tmp_path / "run"
    process = start(pictures, out)
    while "1/6" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(number)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 130
    assert "Stopped at step " in errors and "Traceback" not in errors
    finish(pictures, out)
    assert_same_history(read_rows(out), unbroken)
