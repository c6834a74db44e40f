"""Inception-v3 of this library beside all its peers on the processor, in one run: rounds in turn, medians, ratios.

    python tools/bench_peers.py --batch 1,8,32 --out peers [--torch-python PYTHON]

Ours is exported to each engine; the peers are keras.applications.InceptionV3 in every form that it can be run in,
TF-Slim's own graph in a session, and timm's or torchvision's on PyTorch, in the Python that --torch-python names. All
have random weights, 299×299, and compute in float32 unless they say otherwise; images go in and probabilities come out
as NumPy arrays.
"""

import argparse
import tempfile
from pathlib import Path

from inception_tf.benchmark import engines, report
from inception_tf.benchmark.rounds import Contestant, compete
from inception_tf.cli.export import sizes
from inception_tf.inference.engines import open_model
from inception_tf.models.fused import fuse_for_inference
from inception_tf.quiet import kept_off_stderr, start_keras

NETWORK = "inception_v3"
PEERS = Path(__file__).resolve().with_name("_peers.py")
NAMES = {
    "savedmodel": "keras.applications, SavedModel",
    "litert": "keras.applications, LiteRT",
    "onnx": "keras.applications, ONNX Runtime",
    "openvino": "keras.applications, OpenVINO",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=sizes, default=(1, 8, 32))
    parser.add_argument("--only", help="those whose names have one of these parts in them: ours;torch;savedmodel")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--torch-python", help="a Python that has torch, and timm or torchvision")
    parser.add_argument("--variants", action="store_true", help="ours not fused too, and with siblings merged")
    parser.add_argument("--out", help="write OUT.md, OUT.json and OUT.png")
    parser.add_argument("--force", action="store_true")
    args = parser.parse_args()
    if args.out:
        report.check_out(args.out, args.force)
    machine, batches = report.machine(), {}
    start_keras()
    with tempfile.TemporaryDirectory() as scratch:
        files = keras_files(Path(scratch), args.only)
        path = engines.model_file(NETWORK, scratch)
        for batch in args.batch:
            found = list(keras_contestants(files, batch))
            found += ours(path, args.only, batch, scratch)
            found += coarser(path, args.only, batch, scratch)
            if args.variants:
                found += variants(path, args.only, batch, scratch)
            found += [peer("TF-Slim, session", "slim", batch), peer("TF-Slim, frozen", "slim", batch, frozen=True)]
            if args.torch_python:
                for form in ("eager", "channels_last", "compiled"):
                    found.append(peer(f"torch, {form}", "torch", batch, args.torch_python, form=form))
            chosen = [contestant for contestant in found if wanted(contestant.name, args.only)]
            batches[batch] = compete([engines.sgemm(), *chosen], args.rounds, args.seconds)
        done = report.Report(NETWORK, engines.cost([path]), NAMES["savedmodel"], batches, machine)
    print(done.markdown())
    if args.out:
        report.write(done, args.out, args.force)


def ours(path, only, batch, scratch):
    chosen = [engine for engine in engines.ENGINES if wanted(f"ours, {engine}", only)]
    return engines.contestants(path, chosen, batch, scratch, prefix="ours,")


def coarser(path, only, batch, scratch):
    """In bfloat16, where this processor multiplies it."""
    flags = Path("/proc/cpuinfo")
    if wanted("ours, bfloat16, savedmodel", only) and flags.exists() and "_bf16" in flags.read_text():
        yield from engines.contestants(
            path, ["savedmodel"], batch, Path(scratch, "bfloat16"), None, "ours, bfloat16,", "bfloat16"
        )


def variants(path, only, batch, scratch):
    """Not fused, and with sibling 1×1 convolutions merged too."""
    merged = Path(scratch, "merged.keras")
    if not merged.exists():
        fuse_for_inference(open_model(path)).save(merged)
    for engine in engines.EXPORTS:
        for prefix, file in ("ours, unfused,", path), ("ours, siblings merged,", merged):
            if wanted(f"{prefix} {engine}", only):
                yield from engines.contestants(file, [engine], batch, Path(scratch, prefix), False, prefix)


def wanted(name, only):
    return only is None or any(part in name.lower() for part in only.lower().split(";"))


def peer(name, function, batch, python=None, **arguments):
    more = {"python": python} if python else {}
    return Contestant(name, f"{PEERS}:{function}", {"batch": batch, **arguments}, batch, **more)


def keras_files(scratch, only):
    """keras.applications' network in the forms wanted, by its own means or each engine's own."""
    import keras

    def path(form, suffix=""):
        return scratch / f"theirs{suffix}" if wanted(NAMES[form], only) else None

    model, saved = keras.applications.InceptionV3(weights=None), scratch / "theirs"
    files = {"savedmodel": saved}
    with kept_off_stderr():
        model.export(saved, verbose=False)
        if target := path("onnx", ".onnx"):
            model.export(target, format="onnx", verbose=False)
            files["onnx"] = target
        if target := path("litert", ".tflite"):
            import tensorflow as tf

            target.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert())
            files["litert"] = target
        if target := path("openvino", ".xml"):
            import openvino

            openvino.save_model(openvino.convert_model(saved), target, compress_to_fp16=False)
            files["openvino"] = target
    return {form: str(file) for form, file in files.items()}


def keras_contestants(files, batch):
    saved = files["savedmodel"]
    yield peer(NAMES["savedmodel"], "savedmodel", batch, path=saved)
    yield peer("keras.applications, tf.function", "keras_application", batch)
    yield peer("keras.applications, XLA", "keras_application", batch, jit_compile=True)
    yield peer("keras.applications, frozen, static batch", "frozen", batch, path=saved)
    for form in ("litert", "onnx", "openvino"):
        if form in files:
            yield peer(NAMES[form], "exported", batch, path=files[form])


if __name__ == "__main__":
    main()
