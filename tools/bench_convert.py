"""What a conversion costs, beside what it cannot do without: rounds in turn, medians, as a Markdown table.

    python tools/bench_convert.py [CHECKPOINT]

Without a checkpoint a full-size Inception-v3 with random weights is saved as one first. Every step is a process of its
own; its first run, imports included, is not counted.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _tools import start

import inception_tf as itf
from inception_tf import tables
from inception_tf.benchmark.rounds import Candidate, run
from inception_tf.quiet import start_keras

# What a row says, and the function below with its arguments.
STEPS = {
    "every tensor read, and `model.save`": ("read_and_write", {}),
    "`keras.applications.InceptionV3(weights=None)`": ("keras_applications", {}),
    "`create_model(network)`": ("create", {}),
    "`create_model(network, weights=checkpoint)`": ("create", {"load": True}),
    '`convert(checkpoint, "model.keras", check=False)`': ("convert", {}),
    "a process: `import tensorflow, keras`": ("process", {"arguments": ["-c", "import tensorflow, keras"]}),
    "a process: `inception-tf --help`": ("process", {"arguments": ["-m", "inception_tf", "--help"]}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--rounds", type=int, default=5, help="how many (5)")
    start(parser, measure)


def measure(args):
    start_keras()
    with tempfile.TemporaryDirectory() as scratch:
        path = args.checkpoint
        if path is None:
            path = str(Path(scratch, "inception_v3.ckpt"))
            itf.save_slim(itf.InceptionV3(aux_logits=True), path, format="v1")
        candidates = [
            Candidate(name, f"{Path(__file__).resolve()}:{function}", {"path": path, "scratch": scratch} | arguments)
            for name, (function, arguments) in STEPS.items()
        ]
        results = run(candidates, args.rounds, seconds=0.01)
    print(
        tables.markdown(
            [(result.name, *spread(1 / speed for speed in result.speeds)) for result in results],
            ("step", "seconds, median", "spread"),
        )
    )
    median, ends = spread(1 / ratio for ratio in results[4].ratios(results[0]))
    print(f"\nThe conversion over reading and writing: {median}, {ends}.")


def spread(numbers):
    numbers = sorted(numbers)
    return f"{statistics.median(numbers):.2f}", f"{numbers[0]:.2f}–{numbers[-1]:.2f}"


def read_and_write(path, scratch):
    import tensorflow as tf

    model = create(path, scratch, load=True)()

    def call():
        reader = tf.train.load_checkpoint(path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
        model.save(Path(scratch, "written.keras"))

    return call


def keras_applications(path, scratch):
    import keras

    return lambda: keras.applications.InceptionV3(weights=None)


def create(path, scratch, load=False):
    found = itf.detect(path)
    options = {} if found.classes or not load else {"include_top": False}
    return lambda: itf.create_model(found.network, weights=path if load else None, **options)


def convert(path, scratch):
    from inception_tf.export import convert as module

    return lambda: module.convert(path, Path(scratch, "converted.keras"), overwrite=True, check=False)


def process(path, scratch, arguments):
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
