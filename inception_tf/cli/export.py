"""MODEL in the form that something else runs: TensorFlow Serving, keras.applications, PyTorch.

What is written is read back and compared with the model before it counts as written. The formats:
"""

import argparse

from inception_tf.cli.outcome import Outcome
from inception_tf.export.formats import FORMATS

__doc__ += "".join(f"\n  {name}: {form.summary}" for name, form in FORMATS.items())


def add_arguments(parser):
    parser.add_argument("model", help="a .keras file, or a Slim checkpoint")
    parser.add_argument("target", help="the file or the directory to write")
    parser.add_argument("--format", choices=FORMATS, default="savedmodel", help="what to write (savedmodel)")
    parser.add_argument("--force", action="store_true", help="replace the file when it exists")
    parser.add_argument("--no-check", action="store_true", help="do not read it back and compare")
    parser.add_argument("--labels", metavar="FILE", help="savedmodel: the class names, a line each (the model's own)")
    parser.add_argument("--top", type=int, help="savedmodel: the classes that predict_image_bytes returns (5)")
    parser.add_argument(
        "--batch", type=sizes, metavar="N,N,…", help="savedmodel: the batch sizes to serve and warm up (1,8,32)"
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
    """1,8,32 as a tuple."""
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"sizes such as 1,8,32 are expected. Received: {text!r}") from None


def run(args):
    import time

    from inception_tf.export.formats import export
    from inception_tf.inference.engines import open_model

    start = time.perf_counter()
    options = {option: getattr(args, option) for option in ("labels", "top", "background", "batch", "max_pixels")}
    options |= {"overwrite": args.force or None, "check": False if args.no_check else None, "xla": args.xla or None}
    path = export(open_model(args.model), args.target, args.format, **options)
    seconds = time.perf_counter() - start
    checked = "not checked" if args.no_check else FORMATS[args.format].proof
    text = f"Written: {path} ({seconds:.1f} s; {checked})."
    data = {"path": str(path), "format": args.format, "seconds": seconds, "checked": not args.no_check}
    if args.xla:
        text += (
            "\nCompiled by XLA: start TensorFlow Serving with --xla_cpu_compilation_enabled, "
            "on a GPU with --xla_gpu_compilation_enabled."
        )
    return Outcome(text, data)
