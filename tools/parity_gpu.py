"""Every end point of Inception-v3 on a GPU beside the processor's float32, by precision: float32, TF32, bfloat16.

    KERAS_BACKEND=jax python tools/parity_gpu.py [--small] [--out FILE.md]
    KERAS_BACKEND=jax python tools/parity_gpu.py --program SAVEDMODEL

Both run in one process, by XLA from JAX, on the same two images of noise, with random weights. The difference is the
largest over the largest value of the end point. On a machine without a GPU the processor stands beside itself.

--program: TensorFlow's own XLA program of a SavedModel there, where no TensorFlow for the GPU is installed, beside
TensorFlow without XLA on the processor: serving_default as one function, its weights constants in it, in HLO as
TensorFlow hands it to XLA ("optimized_hlo" is of one device), compiled by JAX's client.
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
    parser.add_argument("--program", metavar="SAVEDMODEL", help="compare TensorFlow's XLA program of it instead")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there too, as Markdown")
    start(parser, run)


def run(args):
    side, narrow = (107, {"depth_multiplier": 0.1}) if args.small else (299, {})
    device, processor = jax.devices()[0], jax.devices("cpu")[0]
    if args.program:
        rows, columns = program(args.program, device), ["TensorFlow's program, float32"]
    else:
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


def program(saved_model, device):
    """Rows of the outputs and their differences."""
    import tensorflow as tf
    from jax._src.lib import xla_client  # what compiles HLO has no public name (jax 0.11)
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(saved_model)
    network = convert_variables_to_constants_v2(loaded.signatures["serving_default"])
    shape = [side or 299 for side in network.inputs[0].shape[1:]]
    images = np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype("float32")
    compiled = tf.function(lambda images: network(images), jit_compile=True, autograph=False)
    hlo = compiled.experimental_get_compiler_ir(tf.constant(images))(stage="hlo_serialized")
    devices, module = xla_client.DeviceList((device,)), xla_client._xla.mlir.hlo_to_stablehlo(hlo)
    executable = device.client.compile_and_load(module, xla_client.CompileOptions(), devices)
    outputs = executable.execute_sharded([jax.device_put(images, device)]).disassemble_into_single_device_arrays()
    pairs = zip(network.outputs, outputs, network(tf.constant(images)), strict=True)
    return [(out.name, f"{relative_difference(np.asarray(a), b.numpy()):.1e}") for out, (a,), b in pairs]


if __name__ == "__main__":
    main()
