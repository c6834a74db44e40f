"""How far fused networks are from the networks they are made of, on the backend that KERAS_BACKEND names.

    KERAS_BACKEND=jax python tests/models/run_fused.py NETWORK…

prints a line each: the network, the largest difference over the largest value, its layers of batch norm before and
after. On another backend than TensorFlow, TensorFlow cannot be imported. The weights and statistics are those of
`deterministic_weights`.
"""

import sys

import keras
import numpy as np
from run_networks import CASES  # blocks TensorFlow on other backends

from inception_tf.models.fused import fuse_for_inference
from inception_tf.slim.golden import deterministic_images, deterministic_weights
from inception_tf.slim.names import model_variables, scoped
from inception_tf.zoo import create_model


def with_weights(network):
    """The network of CASES, with golden weights; it answers with logits, which hide nothing behind a softmax."""
    model = create_model(network, **CASES[network], classifier_activation=None)
    for name, variable in model_variables(model).items():
        variable.assign(deterministic_weights(scoped(model.card.scope, name), variable.shape))
    return model


def batch_norms(model):
    return sum("moving_mean" in variable.path for variable in model.weights)


def compare(network):
    """(the largest difference over the largest value, the original, the fused model)"""
    model = with_weights(network)
    fused = fuse_for_inference(model)
    images = deterministic_images(1, *model.input_shape[1:])
    wanted, got = (keras.ops.convert_to_numpy(m(images, training=False)) for m in (model, fused))
    return float(np.abs(got - wanted).max() / np.abs(wanted).max()), model, fused


if __name__ == "__main__":
    for network in sys.argv[1:]:
        difference, model, fused = compare(network)
        print(network, difference, batch_norms(model), batch_norms(fused), flush=True)
        keras.backend.clear_session()
