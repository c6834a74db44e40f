"""What a conversion costs, beside what it cannot do without: rounds in turn, medians, as a Markdown table.

    python tools/bench_convert.py [CHECKPOINT]

Without a checkpoint a full-size Inception-v3 with random weights is saved as one first.
"""

import functools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _tools import options, start

import inception_tf as itf
from inception_tf import tables
from inception_tf.exports.convert import convert
from inception_tf.quiet import start_keras

READ, WRITE = "`tf.train.load_checkpoint`, every tensor", '`model.save("model.keras")`'
CONVERT = '`convert(checkpoint, "model.keras", check=False)`, imports aside'


def main():
    parser = options(__doc__)
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--rounds", type=int, default=5, help="how many (5); one more is not counted")
    start(parser, run)


def run(args):
    start_keras()
    import keras
    import tensorflow as tf

    def read():
        reader = tf.train.load_checkpoint(path)
        return [reader.get_tensor(name) for name in reader.get_variable_to_shape_map()]

    def process(*arguments):
        return functools.partial(subprocess.run, [sys.executable, *arguments], check=True, capture_output=True)

    with tempfile.TemporaryDirectory() as scratch:
        path, target = args.checkpoint or str(Path(scratch, "inception_v3.ckpt")), Path(scratch, "model.keras")
        if not args.checkpoint:
            itf.save_slim(itf.InceptionV3(aux_logits=True), path, format="v1")
        found = itf.detect(path)
        top = {} if found.classes else {"include_top": False}
        load = functools.partial(itf.create_model, found.network, weights=path, **top)
        steps = {
            READ: read,
            "`keras.applications.InceptionV3(weights=None)`": lambda: keras.applications.InceptionV3(weights=None),
            f'`create_model("{found.network}")`': lambda: itf.create_model(found.network),
            f'`create_model("{found.network}", weights=checkpoint)`': load,
            WRITE: functools.partial(load().save, target),
            CONVERT: lambda: convert(path, target, overwrite=True, check=False),
            "a process: `import tensorflow, keras`": process("-c", "import tensorflow, keras"),
            "a process: `inception-tf --help`": process("-m", "inception_tf", "--help"),
        }
        seconds = {step: [] for step in steps}
        for _ in range(args.rounds + 1):
            for step, function in steps.items():
                begin = time.perf_counter()
                function()
                seconds[step].append(time.perf_counter() - begin)
    print(tables.markdown([(step, *spread(times[1:])) for step, times in seconds.items()], ("step", "s", "spread")))
    ratios = [all / (read + write) for all, read, write in zip(*(seconds[step][1:] for step in (CONVERT, READ, WRITE)))]
    print(f"\nThe conversion over reading and writing: {', '.join(spread(ratios))}.")


def spread(numbers):
    return f"{statistics.median(numbers):.2f}", f"{min(numbers):.2f}–{max(numbers):.2f}"


if __name__ == "__main__":
    main()
