"""Small networks on the backend that KERAS_BACKEND names, with weights and images that depend on names alone.

    KERAS_BACKEND=jax python tests/models/run_networks.py FOLDER NETWORK…

writes FOLDER/NETWORK.npz: end points, and the logits of the network and of the fused one. Where FOLDER has
NETWORK.keras and NETWORK.weights.h5, these are what runs. On another backend than TensorFlow, TensorFlow cannot be
imported.
"""

import os
import sys
from pathlib import Path

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    sys.modules.update(dict.fromkeys(("tensorflow", "tf_keras", "tf_slim")))  # None: import raises ImportError

import keras
import numpy as np

from inception_tf.models.fused import fuse_for_inference
from inception_tf.models.model import end_points
from inception_tf.slim.golden import deterministic_images, deterministic_weights
from inception_tf.slim.names import model_variables, scoped
from inception_tf.zoo import create_model, load_model

# Networks as small as they go, on images with an odd and an even side. Those not listed: as published.
CASES = {
    "inception_v1": {"input_shape": (64, 75, 3)},
    "inception_v2": {"input_shape": (64, 75, 3), "depth_multiplier": 0.1},
    "inception_v3": {"input_shape": (107, 112, 3), "depth_multiplier": 0.1, "aux_logits": True},
    "inception_2015": {"input_shape": (107, 112, 3), "depth_multiplier": 0.1},
    "inception_v4": {"input_shape": (107, 112, 3), "aux_logits": True},
    "inception_resnet_v2": {"input_shape": (107, 112, 3), "aux_logits": True},
    **{
        f"resnet_{version}_{depth}": {"input_shape": (64, 75, 3)}
        for version in ("v1", "v2")
        for depth in (50, 101, 152)
    },
    "nin": {"input_shape": (64, 75, 3)},
}


def with_weights(network, **options):
    """The network of CASES, with golden weights: batch norms and biases count."""
    model = create_model(network, **{**CASES.get(network, {}), **options})
    for name, variable in model_variables(model).items():
        variable.assign(deterministic_weights(scoped(model.card.scope, name), variable.shape))
    return model


def relative(got, wanted):
    """The largest difference over the largest value."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def run(model):
    """The arrays that are written of a network, a dict."""
    tensors = {**end_points(model), "model.logits": model.logits}
    fused = fuse_for_inference(model)
    images = deterministic_images(1, *model.input_shape[1:])
    outputs = keras.Model(model.inputs[0], list(tensors.values())).predict_on_batch(images)
    fused_logits = keras.Model(fused.inputs[0], fused.logits).predict_on_batch(images)
    found = {name.replace("/", "."): np.asarray(output) for name, output in zip(tensors, outputs)}
    return {**found, "fused.logits": np.asarray(fused_logits)}


def from_files(network, folder):
    """The network in a `.keras` file, whose weights are those of the `.weights.h5` file beside it."""
    model = load_model(folder / f"{network}.keras")
    again = create_model(network, weights=folder / f"{network}.weights.h5", **CASES.get(network, {}))
    for own, other in zip(model.weights, again.weights, strict=True):
        assert own.path == other.path and bool(keras.ops.all(own == other))
    return model


if __name__ == "__main__":
    folder, networks = Path(sys.argv[1]), sys.argv[2:]
    for network in networks:
        there = (folder / f"{network}.keras").exists()
        model = from_files(network, folder) if there else with_weights(network)
        np.savez(folder / f"{network}.npz", **run(model))
        keras.backend.clear_session()
    if keras.backend.backend() != "tensorflow":
        assert sys.modules["tensorflow"] is None
