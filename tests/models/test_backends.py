"""Keras's JAX and torch backends beside its TensorFlow one: a process each, TensorFlow blocked in the former two.

Where this Python has no torch, TIMM_PYTHON may name one that has torch, Keras, NumPy and h5py.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from run_networks import CASES

from inception_tf.models.registry import list_models

HERE = Path(__file__).parent
DEEP = [name for name in CASES if name != "lenet"]


def python_with(backend):
    if importlib.util.find_spec(backend):
        return sys.executable
    if backend == "torch" and "TIMM_PYTHON" in os.environ:
        return os.environ["TIMM_PYTHON"]
    pytest.skip(f"{backend} is not installed")


def run(python, backend, networks, folder):
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(HERE.parents[1])}
    folder.mkdir()
    command = [python, HERE / "run_networks.py", folder, *networks]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return {network: dict(np.load(folder / f"{network}.npz")) for network in networks}


def differences(backend, networks, folder):
    """Every end point's largest difference from TensorFlow's, relative to TensorFlow's largest value."""
    python = python_with(backend)
    ours = run(python, backend, networks, folder / backend)
    tensorflow = run(sys.executable, "tensorflow", networks, folder / "tensorflow")
    assert {network: list(outputs) for network, outputs in ours.items()} == {
        network: list(outputs) for network, outputs in tensorflow.items()
    }
    return {
        f"{network}/{name}": np.abs(ours[network][name] - wanted).max() / np.abs(wanted).max()
        for network, outputs in tensorflow.items()
        for name, wanted in outputs.items()
    }


def test_every_network_has_a_case():
    assert sorted(CASES) == list_models()


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_lenet(backend, tmp_path):
    assert max(differences(backend, ["lenet"], tmp_path).values()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("network", DEEP)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_deep_networks(backend, network, tmp_path):
    over = {name: value for name, value in differences(backend, [network], tmp_path).items() if not value < 1e-4}
    assert not over
