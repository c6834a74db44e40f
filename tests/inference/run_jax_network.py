"""Fused networks in plain JAX beside themselves in Keras: KERAS_BACKEND=jax python run_jax_network.py NAME…

Prints a line of JSON for each: the largest differences over the largest value, for batches of 1 and 3.
"""

import json
import sys

import jax
import keras
import numpy as np

from inception_tf.inference.jax_network import jax_network
from inception_tf.inference.xla import stateless
from inception_tf.models.fused import fuse_for_inference
from inception_tf.zoo import create_model

# As small as they go, with odd and even sides.
NARROW = {"depth_multiplier": 0.1}
CASES = {
    "inception_v1": [((64, 75), {})],
    "inception_v2": [((64, 75), NARROW)],
    "inception_v3": [((107, 112), NARROW), ((76, 75), {**NARROW, "head_blocks": ["Mixed_5d", "Mixed_6e"]})],
    "inception_v4": [((75, 76), {})],
    "inception_resnet_v2": [((75, 76), {}), ((76, 77), {"align_feature_maps": True, "activation": "relu6"})],
    "resnet_v1_50": [((33, 40), {})],
    "resnet_v2_50": [((33, 40), {})],
    "nin": [((64, 75), {})],
    "lenet": [((28, 28), {})],
    "vgg_a": [((224, 224), {})],
    "alexnet_v2": [((224, 224), {})],
}


def differences(name, sides, options):
    random = np.random.default_rng(0)
    channels = 1 if name == "lenet" else 3
    model = create_model(name, input_shape=(*sides, channels), classifier_activation=None, **options)
    for variable in model.variables:
        if "seed" not in variable.path and len(variable.shape) == 1:  # biases and statistics, which start as constants
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    network = fuse_for_inference(model)
    weights, run = jax_network(network, "OHWI" if sides[0] % 2 else "HWIO")
    same, as_keras = stateless(network)
    assert weights.keys() == same.keys()
    for count in 1, 3:
        images = random.uniform(-1, 1, (count, *sides, channels)).astype("float32")
        wanted = np.asarray(jax.jit(as_keras)(same, images))
        found = np.asarray(jax.jit(run)(weights, images))
        assert found.shape == wanted.shape and found.std() > 0
        yield float(np.abs(found - wanted).max() / np.abs(wanted).max())


for name in sys.argv[1:]:
    for case in CASES[name]:
        print(json.dumps([name, *differences(name, *case)]), flush=True)
        keras.backend.clear_session()
