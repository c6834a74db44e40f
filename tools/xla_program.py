"""TensorFlow's own XLA program of a SavedModel on a device that JAX sees, where no TensorFlow for it is installed.

    python tools/xla_program.py write SAVEDMODEL DIR    # with TensorFlow: the program, two images, TensorFlow's answers
    python tools/xla_program.py run DIR                 # with JAX alone, on its first device: runs it and compares

`write` takes serving_default as one function, its weights constants in it, in HLO as TensorFlow hands it to XLA
(`experimental_get_compiler_ir(stage="hlo_serialized")`; "optimized_hlo" is of one device), and what TensorFlow answers
without XLA on the processor. `run` has JAX's client compile it, without TF32. Compared: the largest difference over the
largest value of every output.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

LIMIT = 1e-4


def write(saved_model, folder):
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(saved_model)
    network = convert_variables_to_constants_v2(loaded.signatures["serving_default"])
    shape = [side or 299 for side in network.inputs[0].shape[1:]]
    images = tf.constant(np.random.default_rng(0).uniform(-1, 1, (2, *shape)), tf.float32)
    compiled = tf.function(lambda images: network(images), jit_compile=True, autograph=False)
    program = compiled.experimental_get_compiler_ir(images)(stage="hlo_serialized")
    answers = [answer.numpy() for answer in network(images)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.hlo").write_bytes(program)
    np.savez(folder / "images_and_answers.npz", images.numpy(), *answers)
    print(f"{len(program) / 1e6:.1f} MB of HLO, images {images.shape}, {len(answers)} outputs")


def run(folder):
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    import jax
    from jax._src.lib import xla_client  # what compiles HLO has no public name (jax 0.11)

    with np.load(folder / "images_and_answers.npz") as arrays:
        images, *answers = arrays.values()
    device, start = jax.local_devices()[0], time.perf_counter()
    program = xla_client._xla.mlir.hlo_to_stablehlo((folder / "program.hlo").read_bytes())
    options = xla_client.CompileOptions()
    compiled = device.client.compile_and_load(program, xla_client.DeviceList((device,)), options)
    seconds = time.perf_counter() - start
    outputs = compiled.execute_sharded([jax.device_put(images, device)]).disassemble_into_single_device_arrays()
    worst = max(
        float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())
        for (found,), wanted in zip(outputs, answers, strict=True)
    )
    print(f"{device.device_kind}, JAX {jax.__version__}: compiled in {seconds:.1f} s, {len(answers)} outputs, ", end="")
    print(f"largest difference over the largest value {worst:.1e} (limit {LIMIT:g})")
    return worst <= LIMIT


if __name__ == "__main__":
    step, *paths = sys.argv[1:] or ["--help"]
    if (step, len(paths)) not in (("write", 2), ("run", 1)):
        sys.exit(__doc__)
    sys.exit(write(paths[0], Path(paths[1])) if step == "write" else not run(Path(paths[0])))
