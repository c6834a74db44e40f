"""Networks on the backend that KERAS_BACKEND names: their end points on weights and images that depend on names alone.

    KERAS_BACKEND=jax python tests/models/run_networks.py FOLDER NETWORK…

writes FOLDER/NETWORK.npz. On another backend than TensorFlow, TensorFlow cannot be imported.
"""

import os
import sys
from pathlib import Path

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    sys.modules.update(dict.fromkeys(("tensorflow", "tf_keras", "tf_slim")))  # None: import raises ImportError

import keras
import numpy as np

from inception_tf.models.model import end_points
from inception_tf.slim.golden import deterministic_images, deterministic_weights
from inception_tf.slim.names import model_variables, scoped
from inception_tf.zoo import create_model

# Every network as small as it goes, on images with an odd and an even side.
CASES = {
    "inception_v1": {"input_shape": (64, 75, 3)},
    "inception_v2": {"input_shape": (64, 75, 3), "depth_multiplier": 0.25},
    "inception_v3": {"input_shape": (107, 112, 3), "depth_multiplier": 0.25, "aux_logits": True},
    "inception_v4": {"input_shape": (107, 112, 3), "aux_logits": True},
    "inception_resnet_v2": {"input_shape": (107, 112, 3), "aux_logits": True},
    **{f"resnet_v1_{depth}": {"input_shape": (64, 75, 3)} for depth in (50, 101, 152)},
    **{f"resnet_v2_{depth}": {"input_shape": (64, 75, 3)} for depth in (50, 101, 152)},
    "vgg_16": {},
    "vgg_19": {},
    "alexnet_v2": {},
    "lenet": {},
    "nin": {"input_shape": (64, 75, 3)},
}


def run(network):
    model = create_model(network, **CASES[network])
    for name, variable in model_variables(model).items():
        variable.assign(deterministic_weights(scoped(model.card.scope, name), variable.shape))
    tensors = end_points(model)
    outputs = keras.Model(model.inputs[0], list(tensors.values())).predict_on_batch(
        deterministic_images(1, *model.input_shape[1:])
    )
    return {name.replace("/", "."): np.asarray(output) for name, output in zip(tensors, outputs)}


if __name__ == "__main__":
    folder, *networks = sys.argv[1:]
    for network in networks:
        np.savez(Path(folder, f"{network}.npz"), **run(network))
        keras.backend.clear_session()
    if keras.backend.backend() != "tensorflow":
        assert sys.modules["tensorflow"] is None
