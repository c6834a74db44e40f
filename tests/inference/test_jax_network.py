"""Fused networks in plain JAX: what Keras computes of them, on a backend, so in a process, of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        "inception_v3",
        "inception_v1 inception_v2",
        "inception_v4 inception_resnet_v2",
        "resnet_v1_50 resnet_v2_50 nin",
    ],
)
def test_it_computes_what_keras_does(names):
    pytest.importorskip("jax", reason="JAX is not installed")
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, Path(__file__).with_name("run_jax_network.py"), *names.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {name for name, *_ in lines} == set(names.split())
    assert max(difference for _, *found in lines for difference in found) <= 1e-5, lines
