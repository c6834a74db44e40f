"""Keras's JAX and torch backends beside its TensorFlow one: a process for each of the former two, TensorFlow blocked.

Where this Python has no torch, TIMM_PYTHON may name one that has torch, Keras, NumPy and h5py.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import run_networks

from inception_tf.models.registry import list_models

HERE = Path(__file__).parent
DEEP = [name for name in run_networks.CASES if name != "lenet"]


def python_with(backend):
    if importlib.util.find_spec(backend):
        return sys.executable
    if backend == "torch" and "TIMM_PYTHON" in os.environ:
        return os.environ["TIMM_PYTHON"]
    pytest.skip(f"{backend} is not installed")


def run(backend, networks, folder):
    """The networks' end points on another backend, in a process of its own."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(HERE.parents[1])}
    command = [python_with(backend), HERE / "run_networks.py", folder, *networks]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return {network: dict(np.load(folder / f"{network}.npz")) for network in networks}


def differences(backend, networks, folder):
    """Every end point's largest difference from TensorFlow's, relative to TensorFlow's largest value."""
    for network, ours in run(backend, networks, folder).items():
        tensorflow = run_networks.run(network)
        assert list(ours) == list(tensorflow)
        for name, wanted in tensorflow.items():
            yield f"{network}/{name}", np.abs(ours[name] - wanted).max() / np.abs(wanted).max()


def test_every_network_has_a_case():
    assert sorted(run_networks.CASES) == list_models()


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_lenet(backend, tmp_path):
    assert max(difference for _, difference in differences(backend, ["lenet"], tmp_path)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_deep_networks(backend, tmp_path):
    assert not [pair for pair in differences(backend, DEEP, tmp_path) if not pair[1] < 1e-4]
