"""Whether older TensorFlows, and so older TensorFlow Servings, load an export and answer as this one does.

    python tools/old_tensorflow.py serving/digits/1 --versions 2.12.1 2.20.0

Every version of `tensorflow-cpu` is installed into an environment of its own, which is deleted again. There the session
loader, which is Serving's, runs every signature, on seeded images and on files, one of them broken. A Python that has
wheels of them all is needed: 3.11 for 2.12 to 2.20.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

VERSIONS = ["2.12.1", "2.16.2", "2.17.1", "2.18.1", "2.19.1", "2.20.0"]


def answer(export, files, target):
    """Runs every signature and writes the outputs to `target`, JSON. It imports nothing but TensorFlow and NumPy."""
    import tensorflow as tf

    encoded = [path.read_bytes() for path in sorted(Path(files).iterdir())]
    features = [{"image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))} for data in encoded]
    examples = [tf.train.Example(features=tf.train.Features(feature=one)).SerializeToString() for one in features]
    answers = {}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], export).signature_def
        for name, signature in sorted(signatures.items()):
            if not signature.method_name:
                continue
            ((key, info),) = signature.inputs.items()
            shape = [max(dim.size, 64) if dim.size < 1 else dim.size for dim in info.tensor_shape.dim][1:]
            values = {"inputs": examples, "image_bytes": encoded}.get(key)
            if values is None:
                values = np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype("float32")
            outputs = session.run({k: o.name for k, o in signature.outputs.items()}, {info.name: values})
            for k, o in outputs.items():
                answers[f"{name}/{k}"] = [s.decode() for s in o.flat] if o.dtype == object else o.astype(float).tolist()
    Path(target).write_text(json.dumps({"version": tf.__version__, "answers": answers}))


def differences(old, new):
    """The largest difference of numbers, over the largest number; the outputs whose words differ."""
    if set(old) != set(new):
        return np.inf, sorted({*old} ^ {*new})
    texts = [key for key, value in new.items() if value and isinstance(value[0], str)]
    numbers = [(np.array(old[key]), np.array(new[key])) for key in new if key not in texts]
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in numbers), [k for k in texts if old[k] != new[k]]


def run(args):
    from inception_tf.exports.serving_files import jpegs

    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        files, target = Path(scratch, "files"), Path(scratch, "answers.json")
        files.mkdir()
        for i, data in enumerate([*jpegs(), jpegs()[0][:100], b"none"]):
            (files / f"{i}.jpg").write_bytes(data)

        def answers(python):
            subprocess.run([python, __file__, "answer", args.export, files, target], check=True, capture_output=True)
            return json.loads(target.read_text())

        new = answers(sys.executable)
        print(f"here: TensorFlow {new['version']}, {len(new['answers'])} outputs", flush=True)
        for version in args.versions:
            with tempfile.TemporaryDirectory() as environment:
                python = Path(environment, "Scripts" if sys.platform == "win32" else "bin", "python")
                pip = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", f"tensorflow-cpu=={version}"]
                try:
                    subprocess.run([args.python, "-m", "venv", environment], check=True, capture_output=True)
                    subprocess.run(pip, check=True, capture_output=True)
                    worst, words = differences(answers(python)["answers"], new["answers"])
                except subprocess.CalledProcessError as error:
                    worst, words = np.nan, error.stderr.decode().strip()[-500:]
                failed += not (worst < 1e-4 and not words)
                print(f"{version}: largest relative difference {worst:.1e}, other words: {words}", flush=True)
    sys.exit(failed)


def main():
    from _tools import options, start

    parser = options(__doc__)
    parser.add_argument("export", help="a version's directory")
    parser.add_argument("--versions", nargs="+", default=VERSIONS, metavar="V", help=f"({' '.join(VERSIONS)})")
    parser.add_argument("--python", default=sys.executable, help="to make the environments with (this one)")
    start(parser, run)


if __name__ == "__main__":
    answer(*sys.argv[2:]) if sys.argv[1:2] == ["answer"] else main()
