"""Runs a SavedModel where there is no Keras.

`python -m inception_tf.exports.fresh_process SAVED_MODEL INPUTS OUTPUTS` is that process: TensorFlow's loader alone.
"""

import os
import pickle
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inception_tf.errors import ExportError


def run_fresh(path, inputs):
    """Runs signatures of a SavedModel in a fresh process in which neither Keras can be imported, on the CPU.

    Args:
        path: the SavedModel.
        inputs: a dict from signatures to dicts from input names to arrays.

    Returns:
        A dict from signatures to dicts from output names to arrays; strings are bytes.

    Raises:
        ExportError: it does not load or run, or lacks a signature; says why in a line.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given, results = Path(scratch, "inputs"), Path(scratch, "outputs")
        given.write_bytes(pickle.dumps(inputs))
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path))),
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        command = [sys.executable, "-m", __name__, os.path.abspath(path), given, results]
        done = subprocess.run(command, env=environment, cwd=scratch, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
            raise ExportError(f"The export does not run without Keras: {said[-1][:300]}")
        return pickle.loads(results.read_bytes())


def main(path, given, results):
    """The fresh process."""
    sys.modules.update({"keras": None, "tf_keras": None})  # an import of them now fails
    import tensorflow as tf

    inputs = pickle.loads(Path(given).read_bytes())
    try:
        signatures = tf.saved_model.load(path).signatures
        missing = set(inputs) - set(signatures)
        if missing:
            sys.exit(f"it lacks the signature {', '.join(sorted(missing))}.")

        def run(name):
            outputs = signatures[name](**{key: tf.constant(array) for key, array in inputs[name].items()})
            return {key: output.numpy() for key, output in outputs.items()}

        with ThreadPoolExecutor() as pool:  # TensorFlow optimizes each graph on one core
            outputs = dict(zip(inputs, pool.map(run, inputs)))
    except (tf.errors.OpError, OSError) as error:
        sys.exit(str(error).splitlines()[0])
    Path(results).write_bytes(pickle.dumps(outputs))


if __name__ == "__main__":
    main(*sys.argv[1:])
