"""Every end point of Inception-v3 on a GPU beside the processor's float32, by precision: float32, TF32, bfloat16.

    KERAS_BACKEND=jax python tools/parity_gpu.py [--small] [--out FILE.md]

Both run in one process, by XLA from JAX, on the same two images of noise, with random weights. The difference is the
largest over the largest value of the end point. On a machine without a GPU the processor stands beside itself.
"""

from pathlib import Path

import jax
import keras
import numpy as np
from _tools import options, start

from inception_tf import tables
from inception_tf.exports.tolerance import relative_difference
from inception_tf.models.model import end_points, feature_extractor, with_dtype
from inception_tf.zoo import create_model

PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}


def main():
    parser = options(__doc__)
    parser.add_argument("--small", action="store_true", help="a narrow network on images of 107×107")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there too, as Markdown")
    start(parser, run)


def run(args):
    side, narrow = (107, {"depth_multiplier": 0.1}) if args.small else (299, {})
    device, processor = jax.devices()[0], jax.devices("cpu")[0]
    keras.utils.set_random_seed(0)
    model = create_model("inception_v3", input_shape=(side, side, 3), **narrow)
    images = np.random.default_rng(0).uniform(-1, 1, (2, side, side, 3)).astype("float32")
    expected, columns = answers(model, images, processor, "highest"), {}
    for name, precision in PRECISIONS.items():
        network = with_dtype(model, "bfloat16") if name == "bfloat16" else model
        columns[name] = answers(network, images, device, precision)
    rows = [
        (point, *(f"{relative_difference(found[point], expected[point]):.1e}" for found in columns.values()))
        for point in end_points(model)
    ]
    text = f"{device.device_kind} beside the processor's float32, JAX {jax.__version__}\n\n"
    text += tables.markdown(rows, ("end point", *columns))
    print(text)
    if args.out:
        args.out.write_text(text + "\n", "utf-8")


def answers(model, images, device, precision):
    """Every end point by name, float32 arrays."""
    network = feature_extractor(model, list(end_points(model)))
    parts = network.trainable_variables, network.non_trainable_variables
    state = jax.device_put([[variable.value for variable in part] for part in parts], device)
    with jax.default_matmul_precision(precision):
        run = jax.jit(lambda *state: network.stateless_call(*state, images, training=False)[0])
        outputs = run(*state)
    return {point: np.asarray(output, "float32") for point, output in outputs.items()}


if __name__ == "__main__":
    main()
