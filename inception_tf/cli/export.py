"""MODEL in the form that something else runs: TensorFlow Serving, LiteRT, ONNX Runtime, OpenVINO, PyTorch.

What is written is read back and compared with the model before it counts as written. The formats:
"""

import argparse

from inception_tf.cli.outcome import Outcome
from inception_tf.export.formats import FORMATS

__doc__ += "".join(f"\n  {name}: {form.summary}" for name, form in FORMATS.items())


def add_arguments(parser):
    parser.add_argument("model", help="a .keras file, a run's directory, or a Slim checkpoint")
    parser.add_argument("target", help="the file or the directory to write")
    parser.add_argument("--format", choices=FORMATS, default="savedmodel", help="what to write (savedmodel)")
    parser.add_argument("--force", action="store_true", help="replace the file when it exists")
    parser.add_argument("--no-check", action="store_true", help="do not read it back and compare")
    parser.add_argument("--labels", metavar="FILE", help="the class names, a line each (the model's own)")
    parser.add_argument("--top", type=int, help="savedmodel: the classes that predict_image_bytes returns (5)")
    parser.add_argument(
        "--batch",
        type=sizes,
        metavar="N,N,…",
        help="savedmodel: the batch sizes to serve and warm up (1,8,32); litert, onnx, openvino: N, the images at a "
        "time, or dynamic, any number (dynamic)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "bfloat16", "int8"),
        help="of the weights; savedmodel: the first three (as the model computes), litert, onnx, openvino: all but "
        "bfloat16 (float32)",
    )
    parser.add_argument(
        "--calibrate", nargs="+", metavar="IMAGE", help="int8: images such as the model will see, files or directories"
    )
    parser.add_argument(
        "--held-out", nargs="+", metavar="IMAGE", help="litert, onnx, openvino: images to compare the classes on"
    )
    parser.add_argument(
        "--full-integer", action="store_true", help="litert, int8: inputs and outputs of int8 too, and no float inside"
    )
    parser.add_argument(
        "--fuse",
        action=argparse.BooleanOptionalAction,
        help="fold batch norm into the convolutions, and pool behind 1×1 convolutions (yes; for int8: no)",
    )
    parser.add_argument("--xla", action="store_true", help="savedmodel: have XLA compile the network")
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help=f"savedmodel: the largest image file to decode ({2**25:,})"
    )
    parser.add_argument(
        "--background",
        choices=("keep", "drop"),
        help="keras-applications, timm: class 0 (dropped from ImageNet's 1001 classes)",
    )


def sizes(text):
    """1,8,32 as a tuple; "dynamic" as it is."""
    if text == "dynamic":
        return text
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"sizes such as 1,8,32 or dynamic are expected. Received: {text!r}") from None


def run(args):
    import time

    from inception_tf.export.formats import export
    from inception_tf.inference.runtimes import export_card
    from inception_tf.zoo import load_model

    start = time.perf_counter()
    valued = ("labels", "top", "background", "batch", "max_pixels", "precision", "calibrate", "held_out", "fuse")
    options = {option: getattr(args, option) for option in valued}
    options |= {"overwrite": args.force or None, "check": False if args.no_check else None, "xla": args.xla or None}
    options["full_integer"] = args.full_integer or None
    path = export(load_model(args.model), args.target, args.format, **options)
    seconds = time.perf_counter() - start
    checked = "not checked" if args.no_check else FORMATS[args.format].proof
    text = f"Written: {path} ({seconds:.1f} s; {checked})."
    data = {"path": str(path), "format": args.format, "seconds": seconds, "checked": not args.no_check}
    found = export_card(path).get("export", {}).get("verification")
    if found:
        from inception_tf.export.portable import verdict

        text += f"\n{verdict(found)}"
        data["verification"] = found
    if args.xla:
        text += (
            "\nCompiled by XLA: start TensorFlow Serving with --xla_cpu_compilation_enabled, "
            "on a GPU with --xla_gpu_compilation_enabled."
        )
    return Outcome(text, data)
