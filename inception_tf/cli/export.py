"""MODEL in the form that something else runs: TensorFlow Serving, LiteRT, ONNX Runtime, OpenVINO, PyTorch.

What is written is read back and compared with the model before it counts as written. With --fastest every engine and
precision that is installed is tried on this machine, and the fastest within --max-change is written. The formats:
"""

import argparse
import dataclasses

from inception_tf.cli.outcome import Outcome
from inception_tf.exports.formats import FORMATS, Options

__doc__ += "".join(f"\n  {name}: {entry.summary}" for name, entry in FORMATS.items())

PRECISIONS = ("float32", "float16", "bfloat16", "int8")


def add_arguments(parser):
    parser.add_argument("model", help="a .keras file, a run's directory, or a Slim checkpoint")
    parser.add_argument("target", help="the file or the directory to write; with --fastest a name without a suffix")
    parser.add_argument("--format", choices=FORMATS, help="what to write (by TARGET's suffix; savedmodel without one)")

    # An option that is not given is None, and its name is that of `Options`.
    def add(option, help, **arguments):
        parser.add_argument(option, help=help, **arguments)

    def flag(option, help, dest=None, const=True):
        add(option, help, action="store_const", const=const, **({"dest": dest} if dest else {}))

    flag("--force", "replace the file when it exists", dest="overwrite")
    flag("--no-check", "do not read it back and compare", dest="check", const=False)
    add("--labels", "the class names, a line each (the model's own)", metavar="FILE")
    add("--top", "savedmodel: the classes that predict_image_bytes returns (5)", type=int)
    batch = "savedmodel: the batch sizes to serve and warm up (1,8,32); litert, onnx, openvino, stablehlo: N, the "
    add("--batch", batch + "images at a time, or dynamic, any number (dynamic)", type=sizes, metavar="N,N,…")
    precision = "of the weights; savedmodel: the first three (as the model computes), openvino: all (float32), litert, "
    precision += "onnx: all but bfloat16 (float32), stablehlo: float32, bfloat16 (float32)"
    add("--precision", precision, choices=PRECISIONS)
    add("--calibrate", "int8: images such as the model will see, files or directories", nargs="+", metavar="IMAGE")
    add("--held-out", "litert, onnx, openvino, stablehlo: images to compare the classes on", nargs="+", metavar="IMAGE")
    flag("--full-integer", "litert, int8: inputs and outputs of int8 too, and no float inside")
    fuse = "fold batch norm into the convolutions, and pool behind 1×1 convolutions (yes; for int8: no)"
    add("--fuse", fuse, action=argparse.BooleanOptionalAction)
    flag("--features", "litert, onnx, openvino, stablehlo: give PreLogits too, as a second output")
    flag("--xla", "savedmodel: have XLA compile the network")
    largest = f"savedmodel: the largest image file to decode ({Options.max_pixels:,})"
    add("--max-pixels", largest, type=int, metavar="N")
    background = "keras-applications, timm: class 0 (dropped from ImageNet's 1001 classes)"
    add("--background", background, choices=("keep", "drop"))
    fastest = parser.add_argument_group("fastest")

    def add_fastest(option, help, **arguments):
        fastest.add_argument(option, help=help, **arguments)

    add_fastest(
        "--fastest", "choose engine and precision by measurement; --batch N is measured (8)", action="store_true"
    )
    data = "photographs to compare the answers on, and to calibrate int8 with, of folders by class for accuracy"
    add_fastest("--data", data + " (noise, and no int8)", metavar="DIR")
    change = "the most accuracy that may be lost; of best classes changed without class folders, of a score on noise"
    add_fastest("--max-change", change + " (0.5%%)", type=fraction, metavar="P%")
    add_fastest("--rounds", "of the benchmark (5)", type=int)
    add_fastest("--seconds", "how long a turn is (2)", type=float)


def sizes(text):
    """1,8,32 as a tuple; "dynamic" as it is."""
    if text == "dynamic":
        return text
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"sizes such as 1,8,32 or dynamic are expected. Received: {text!r}") from None


def fraction(text):
    """0.5% or 0.005 as a number."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a percentage such as 0.5% is expected. Received: {text!r}") from None


# Those of --fastest alone, and the others that it takes.
FASTEST, SHARED = ("data", "max_change", "rounds", "seconds"), ("batch", "labels", "calibrate", "overwrite")


def run_fastest(args):
    from inception_tf.benchmark.fastest import export_fastest
    from inception_tf.errors import UsageError
    from inception_tf.zoo import load_trained

    others = {"format", *(field.name for field in dataclasses.fields(Options))} - {*SHARED}
    if given := sorted(name for name in others if getattr(args, name) is not None):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"--fastest decides by measurement, and does not go with {names}.")
    options = {name: getattr(args, name) for name in (*FASTEST, *SHARED) if getattr(args, name) is not None}
    if "batch" in options:
        if options["batch"] == "dynamic" or len(options["batch"]) > 1:
            raise UsageError(f"--fastest measures one batch size. Received: --batch {options['batch']}")
        (options["batch"],) = options["batch"]
    found = export_fastest(load_trained(args.model), args.target, **options)
    return Outcome(f"{found.text()}\nWritten: {found.path}.", found.data())


def run(args):
    import time

    from inception_tf.errors import UsageError
    from inception_tf.exports.formats import export, format_of
    from inception_tf.inference.runtimes import export_card
    from inception_tf.zoo import load_trained

    if args.fastest:
        return run_fastest(args)
    if given := [name for name in FASTEST if getattr(args, name) is not None]:
        raise UsageError(f"--{given[0].replace('_', '-')} goes with --fastest.")
    form = args.format or format_of(args.target)
    start = time.perf_counter()
    options = {field.name: getattr(args, field.name) for field in dataclasses.fields(Options)}
    path = export(load_trained(args.model), args.target, form, **options)
    seconds, checked = time.perf_counter() - start, args.check is not False
    text = f"Written: {path} ({seconds:.1f} s; {FORMATS[form].proof if checked else 'not checked'})."
    data = {"path": str(path), "format": form, "seconds": seconds, "checked": checked}
    card = export_card(path)
    if card is not None and card.export.get("verification"):
        from inception_tf.exports.portable import verdict

        data["verification"] = card.export["verification"]
        text += f"\n{verdict(data['verification'])}"
    if args.xla:
        text += (
            "\nCompiled by XLA: start TensorFlow Serving with --xla_cpu_compilation_enabled, "
            "on a GPU with --xla_gpu_compilation_enabled."
        )
    return Outcome(text, data)
