"""Whether older TensorFlows, and so older TensorFlow Servings, load an export and answer as this one does.

    python tools/old_tensorflow.py serving/digits/1 --versions 2.12.1 2.20.0

Every version of `tensorflow-cpu` is installed into an environment of its own, which is deleted again. There the session
loader, which is Serving's, runs every signature, on seeded images and on files, one of them broken. A Python that has
wheels of them all is needed: 3.11 for 2.12 to 2.20.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

VERSIONS = ["2.12.1", "2.16.2", "2.17.1", "2.18.1", "2.19.1", "2.20.0"]


def answer(export, files, target):
    """Runs every signature and writes the outputs to `target`, JSON. It imports nothing but TensorFlow and NumPy."""
    import numpy as np
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
    import numpy as np

    if set(old) != set(new):
        return np.inf, sorted({*old} ^ {*new})
    words = [key for key, value in new.items() if value and isinstance(value[0], str) and value != old[key]]
    numbers = [(np.array(old[k]), np.array(v)) for k, v in new.items() if not (v and isinstance(v[0], str))]
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in numbers), words


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", help="a version's directory")
    parser.add_argument("--versions", nargs="+", default=VERSIONS, metavar="V", help=f"({' '.join(VERSIONS)})")
    parser.add_argument("--python", default=sys.executable, help="to make the environments with (this one)")
    parser.add_argument("--answer", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.answer:
        return answer(args.export, *args.answer)

    from inception_tf.exports.serving_files import jpegs

    with tempfile.TemporaryDirectory() as scratch:
        files, failed = Path(scratch, "files"), 0
        files.mkdir()
        for i, data in enumerate([*jpegs(), jpegs()[0][:100], b"none"]):
            (files / f"{i}.jpg").write_bytes(data)

        def run(python, target):
            command = [python, __file__, args.export, "--answer", files, target]
            done = subprocess.run(command, capture_output=True, text=True)
            return json.loads(Path(target).read_text()) if done.returncode == 0 else done.stderr.strip()[-500:]

        new = run(sys.executable, Path(scratch, "new.json"))
        print(f"here: TensorFlow {new['version']}, {len(new['answers'])} outputs", flush=True)
        for version in args.versions:
            with tempfile.TemporaryDirectory() as environment:
                subprocess.run([args.python, "-m", "venv", environment], check=True)
                python = Path(environment, "Scripts" if sys.platform == "win32" else "bin", "python")
                pip = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", f"tensorflow-cpu=={version}"]
                installed = subprocess.run(pip, capture_output=True, text=True)
                if installed.returncode:
                    print(f"{version}: does not install: {installed.stderr.strip().splitlines()[-1]:.200}", flush=True)
                    continue
                old = run(python, Path(scratch, f"{version}.json"))
                if isinstance(old, str):
                    failed += 1
                    print(f"{version}: FAILS: {old}", flush=True)
                    continue
                worst, words = differences(old["answers"], new["answers"])
                failed += not (worst < 1e-4 and not words)
                print(f"{old['version']}: largest relative difference {worst:.1e}, other words: {words}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
