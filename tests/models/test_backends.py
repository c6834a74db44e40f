"""Keras's other backends beside its TensorFlow one: a process for each, TensorFlow blocked.

Where this Python has no torch, TIMM_PYTHON may name one that has torch, Keras, NumPy and h5py.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from run_networks import relative, run, with_weights
from test_networks import DEEPER

from inception_tf.models.registry import networks

HERE = Path(__file__).parent
DEEP = sorted(set(networks()) - {"lenet", *DEEPER})


def python_with(backend):
    module = "jax" if backend == "numpy" else backend  # which convolves for Keras's NumPy backend
    if importlib.util.find_spec(module):
        return sys.executable
    if backend == "torch" and "TIMM_PYTHON" in os.environ:
        return os.environ["TIMM_PYTHON"]
    pytest.skip(f"{module} is not installed")


def compare(backend, networks, folder, files=()):
    """Every end point is TensorFlow's but for rounding, and the fused network answers as its own does.

    Args:
        files: those of `networks` that the other backend loads from files that TensorFlow's wrote.
    """
    command = [python_with(backend), HERE / "run_networks.py", folder, *networks]
    for network in files:
        model = with_weights(network)
        model.save(folder / f"{network}.keras")
        model.save_weights(folder / f"{network}.weights.h5")
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for network in networks:
        ours, tensorflow = dict(np.load(folder / f"{network}.npz")), run(with_weights(network))
        assert list(ours) == list(tensorflow)
        far = {name: relative(ours[name], wanted) for name, wanted in tensorflow.items()}
        assert not {name: difference for name, difference in far.items() if not difference < 1e-4}, network
        for found in (ours, tensorflow):
            assert relative(found["fused.logits"], found["model.logits"]) < 1e-5, network
        keras.backend.clear_session()


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy"])
def test_lenet(backend, tmp_path):
    compare(backend, ["lenet"], tmp_path, files=["lenet"])


@pytest.mark.slow
@pytest.mark.parametrize("backend, networks", [("jax", DEEP), ("torch", DEEP), ("numpy", ["inception_v3"])])
def test_deep_networks(backend, networks, tmp_path):
    compare(backend, networks, tmp_path, files=["inception_v3"])
