"""Inception-v3 of this library beside all its peers on the processor, in one run: rounds in turn, medians, ratios.

    python tools/bench_peers.py --out peers [--torch-python PYTHON] [--calibrate PHOTOGRAPHS]

Ours is exported to each engine; the peers are keras.applications.InceptionV3 in every form that it can be run in,
TF-Slim's own graph in a session, and timm's on PyTorch, in the Python that --torch-python names. All have random
weights, 299×299, and compute in float32 unless they say otherwise: in bfloat16 where the processor multiplies it, in
int8 where there are photographs to calibrate on; images go in and probabilities come out as NumPy
arrays. SavedModels and exports are loaded; Keras's, TF-Slim's and torch's networks make their own weights, and frozen
ones freeze them, which counts in their first answer and their memory.
"""

import os
import sys
import tempfile
from pathlib import Path

from _tools import FORMS, HERE, benchmark_options, candidate, start, usable, wanted

from inception_tf.benchmark import engines
from inception_tf.benchmark.harness import benchmark
from inception_tf.benchmark.report import Report
from inception_tf.benchmark.rounds import Candidate
from inception_tf.cli.bench import settings
from inception_tf.exports.driver import external_converter
from inception_tf.images.files import find_images
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.machine import processor
from inception_tf.models.fused import fuse_for_inference
from inception_tf.quiet import start_keras, suppress_stderr
from inception_tf.zoo import load_model

NETWORK = "inception_v3"
BASE = "keras.applications SavedModel"
# By name: what Keras exports to, and the file's suffix.
EXPORTS = {"LiteRT": ("litert", ".tflite"), "ONNX Runtime": ("onnx", ".onnx"), "OpenVINO": ("openvino", ".xml")}


def main():
    parser = benchmark_options(__doc__, peers=True, batch="1,8,32")
    parser.add_argument("--calibrate", nargs="+", default=[], metavar="IMAGE", help="files or directories, for int8")
    parser.add_argument("--variants", action="store_true", help="ours not fused too, and with siblings merged")
    parser.set_defaults(device="cpu")
    start(parser, run)


def run(args):
    options, report = settings(args), Report(NETWORK)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    start_keras()
    with tempfile.TemporaryDirectory() as scratch:
        report.multiply_adds, parameters = engines.costs(NETWORK)
        found = [*keras_applications(args, Path(scratch), report), *ours(args, Path(scratch), report)]
        found += [peer("TF-Slim session", "slim"), peer("TF-Slim frozen", "slim", frozen=True)]
        forms = [form for form in FORMS if wanted(f"torch {form}", args.only)]
        if forms and usable(args, ["torch"], report):
            common = {"precision": "float32", "size": 299, "classes": 1000}
            found += [candidate(args, f"torch {form}", "torch", "inference", form=form, **common) for form in forms]
        found = [row for row in found if row.name == BASE or wanted(row.name, args.only)]
        benchmark(report, engines.sections(found, args.batch, report.multiply_adds, parameters), **options)
    print(report.markdown())


def peer(name, function, **arguments):
    """A candidate by its function in _peers.py."""
    return Candidate(name, f"{HERE / '_peers.py'}:{function}", arguments, python=sys.executable)


def keras_applications(args, scratch, report):
    """keras.applications' network by its own means, and on each engine that Keras exports to."""
    import keras

    model, saved = keras.applications.InceptionV3(weights=None), str(scratch / "theirs")
    with suppress_stderr():
        model.export(saved, verbose=False)
    yield peer(BASE, "savedmodel", path=saved)
    yield peer("keras.applications tf.function", "keras_application")
    yield peer("keras.applications XLA", "keras_application", jit_compile=True)
    yield peer("keras.applications frozen", "savedmodel", path=saved, frozen=True)
    if wanted(f"{BASE} mixed_bfloat16", args.only) and "bf16" in processor():
        keras.config.set_dtype_policy("mixed_bfloat16")
        with suppress_stderr():
            keras.applications.InceptionV3(weights=None).export(f"{saved}-bfloat16", verbose=False)
        keras.config.set_dtype_policy("float32")
        yield peer(f"{BASE} mixed_bfloat16", "savedmodel", path=f"{saved}-bfloat16")
    images = Preprocessing()(find_images(args.calibrate))[:, None] if args.calibrate else None
    for engine, (form, suffix) in EXPORTS.items():
        name = f"keras.applications {engine}"
        rows = [wanted(f"{name}{end}", args.only) for end in ("", " by default", " int8")]
        if not any(rows):
            continue
        try:
            with suppress_stderr():
                model.export(saved + suffix, format=form, verbose=False)
            yield peer(name, "exported", path=saved + suffix)
            if engine == "OpenVINO":
                yield peer(f"{name} by default", "openvino_by_default", path=saved + suffix)
            if args.calibrate and rows[-1]:
                with external_converter(f"{name} int8"):
                    quantize(engine, saved, images)
                yield peer(f"{name} int8", "exported", path=f"{saved}-int8{suffix}")
        except Exception as error:  # another's converter, which may lack something
            report.left_out.append(f"{name}: {error}")


def quantize(engine, saved, images):
    """keras.applications' export in int8, by the quantizer of each engine, as its documentation has it."""
    if engine == "OpenVINO":
        import nncf
        import openvino

        network = openvino.Core().read_model(f"{saved}.xml")
        openvino.save_model(nncf.quantize(network, nncf.Dataset(images), subset_size=len(images)), f"{saved}-int8.xml")
    elif engine == "ONNX Runtime":
        import onnxruntime
        from onnxruntime import quantization

        (given,) = onnxruntime.InferenceSession(f"{saved}.onnx").get_inputs()
        batches = iter(images)

        class Images(quantization.CalibrationDataReader):
            def get_next(self):
                return next(({given.name: batch} for batch in batches), None)

        quantization.quantize_static(f"{saved}.onnx", f"{saved}-int8.onnx", Images(), per_channel=True)
    else:
        import tensorflow as tf

        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([batch] for batch in images)
        Path(f"{saved}-int8.tflite").write_bytes(converter.convert())


def ours(args, scratch, report):
    """On every engine, in every precision that there is here; int8 with `--calibrate`."""
    rows = [("ours", NETWORK, engines.ENGINES, {})]
    if "bf16" in processor():
        rows.append(("ours bfloat16", NETWORK, ["savedmodel", "openvino"], {"precision": "bfloat16"}))
    if args.calibrate:
        options = {"precision": "int8", "calibrate": args.calibrate}
        rows.append(("ours int8", NETWORK, ["litert", "onnx", "openvino"], options))
    if args.variants:
        merged = scratch / "merged.keras"
        fuse_for_inference(load_model(NETWORK)).save(merged)
        rows.append(("ours unfused", NETWORK, engines.EXPORTS, {"fuse": False}))
        rows.append(("ours siblings merged", merged, engines.EXPORTS, {"fuse": False}))
    for prefix, path, names, options in rows:
        chosen = [name for name in names if wanted(f"{prefix} {name}", args.only)]
        if chosen:
            options |= {"prefix": prefix, "log": report.left_out.append}
            yield from engines.candidates(path, chosen, scratch / prefix, **options)


if __name__ == "__main__":
    main()
