"""What a conversion costs, beside what it cannot do without: rounds in turn, medians, as a Markdown table.

    python tools/bench_convert.py [CHECKPOINT]

Without a checkpoint a full-size Inception-v3 with random weights is saved as one first.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _contest import start, whole

from inception_tf import tables
from inception_tf.quiet import start_keras

READ = "`tf.train.load_checkpoint`, every tensor"
WRITE = '`model.save("model.keras")`'
CONVERT = '`convert(checkpoint, "model.keras", check=False)`, imports aside'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--rounds", type=whole, default=5, help="default: 5; one more is not counted")
    start(parser, run)


def run(args):
    start_keras()
    import keras
    import tensorflow as tf

    import inception_tf as itf
    from inception_tf.export import convert as itf_convert

    with tempfile.TemporaryDirectory() as scratch:
        path = args.checkpoint
        if path is None:
            path = str(Path(scratch, "inception_v3.ckpt"))
            itf.save_slim(itf.InceptionV3(aux_logits=True), path, format="v1")
        found = itf.detect(path)
        options = {} if found.classes else {"include_top": False}
        target = Path(scratch, "model.keras")

        def read_all():
            reader = tf.train.load_checkpoint(path)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)

        def build_ours():
            itf.create_model(found.network)

        def build_theirs():
            keras.applications.InceptionV3(weights=None)

        def load():
            return itf.create_model(found.network, weights=path, **options)

        def write():
            model.save(target)

        def convert():
            itf_convert.convert(path, target, overwrite=True, check=False)

        model = load()
        steps = {
            READ: read_all,
            "`keras.applications.InceptionV3(weights=None)`": build_theirs,
            f'`create_model("{found.network}")`': build_ours,
            f'`create_model("{found.network}", weights=checkpoint)`': load,
            WRITE: write,
            CONVERT: convert,
            "a process: `import tensorflow, keras`": lambda: python("-c", "import tensorflow, keras"),
            "a process: `inception-tf --help`": lambda: python("-m", "inception_tf", "--help"),
        }
        seconds = {step: [] for step in steps}
        for _ in range(args.rounds + 1):
            for step, function in steps.items():
                begin = time.perf_counter()
                function()
                seconds[step].append(time.perf_counter() - begin)
    seconds = {step: times[1:] for step, times in seconds.items()}
    rows = [
        (step, f"{statistics.median(times):.2f}", f"{min(times):.2f}–{max(times):.2f}")
        for step, times in seconds.items()
    ]
    print(tables.markdown(rows, ("step", "seconds, median", "spread")))
    ratios = [whole / (read + write) for whole, read, write in zip(*map(seconds.get, (CONVERT, READ, WRITE)))]
    spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
    print(f"\nThe conversion over reading and writing: {statistics.median(ratios):.2f}, {spread}.")


def python(*arguments):
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
