"""Inception-v3 of this library beside all its peers on the processor, in one run: rounds in turn, medians, ratios.

    python tools/bench_peers.py --out peers [--torch-python PYTHON]

Ours is exported to each engine; the peers are keras.applications.InceptionV3 in every form that it can be run in,
TF-Slim's own graph in a session, and timm's or torchvision's on PyTorch, in the Python that --torch-python names. All
have random weights, 299×299, and compute in float32 unless they say otherwise; images go in and probabilities come out
as NumPy arrays. What is frozen was so before, and SavedModels and exports are loaded; Keras's, TF-Slim's and torch's
networks make their own weights, which counts in their first answer.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from _contest import FORMS, TORCH, counts, environment, start, torch_python, turns, wanted

from inception_tf.benchmark import engines, report
from inception_tf.benchmark.contest import contest
from inception_tf.benchmark.rounds import BenchmarkError, Child, Contestant
from inception_tf.models.fused import fuse_for_inference
from inception_tf.quiet import start_keras, suppress_stderr
from inception_tf.zoo import load_model

NETWORK = "inception_v3"
PEERS = Path(__file__).resolve().with_name("_peers.py")
BASE = "keras.applications SavedModel"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=counts, default=[1, 8, 32], help="default: 1,8,32")
    parser.add_argument(
        "--only", default="*", metavar="GLOBS", help='of rows, such as "ours*,torch eager"; the base comes too'
    )
    turns(parser, 7, 2.0)
    torch_python(parser)
    parser.add_argument("--variants", action="store_true", help="ours not fused too, and with siblings merged")
    parser.add_argument("--out", help="write OUT.md, OUT.json and OUT.png, after each batch size")
    parser.add_argument("--force", action="store_true")
    start(parser, run)


def run(args):
    if args.out:
        report.check_out(args.out, args.force)
    before, left_out = report.machine(), []
    os.environ |= environment("cpu")
    start_keras()
    with tempfile.TemporaryDirectory() as scratch:
        field = Field(args.only, Path(scratch), left_out)
        field.keras()
        field.ours(args.variants)
        field.slim()
        field.torch(args.torch_python)
        found = report.Report(NETWORK, engines.cost([field.network]), BASE, before, left_out)
        contest(found, field.contestants, args.batch, memory, args.rounds, args.seconds, args.out, args.force)
    print(found.markdown())


def memory(batch):
    """The bytes that a process takes, about; those of PyTorch and of the smaller engines take less."""
    return 1.4e9 + 20e6 * batch


class Field:
    """Who takes part.

    Attributes:
        contestants: `Contestant`s for any batch size.
        network: the file of our network.
    """

    def __init__(self, only, scratch, left_out):
        self.only, self.scratch, self.left_out = only, scratch, left_out
        self.network, self.contestants = engines.model_file(NETWORK, scratch), []

    def wants(self, name):
        return name == BASE or wanted(name, self.only)

    def add(self, name, function, python=sys.executable, **arguments):
        """A peer, by its function in _peers.py."""
        if self.wants(name):
            self.contestants.append(Contestant(name, f"{PEERS}:{function}", arguments, python=python))

    def runs(self, name, file, function, python=sys.executable, **arguments):
        """Whether a function runs in a process of its own, such as one that makes a file."""
        try:
            Child(Contestant(name, f"{file}:{function}", arguments, python=python)).close()
        except BenchmarkError as error:
            self.left_out.append(str(error))
            return False
        return True

    def keras(self):
        """keras.applications' network, by its own means or each engine's own."""
        import keras

        model, saved = keras.applications.InceptionV3(weights=None), str(self.scratch / "theirs")
        with suppress_stderr():
            model.export(saved, verbose=False)
        self.add(BASE, "savedmodel", path=saved)
        self.add("keras.applications tf.function", "keras_application")
        self.add("keras.applications XLA", "keras_application", jit_compile=True)
        name, target = "keras.applications frozen", f"{saved}.pb"
        if self.wants(name) and self.runs(name, PEERS, "freeze_savedmodel", path=saved, target=target):
            self.add(name, "frozen", path=target)
        for name, suffix, convert in (
            ("LiteRT", ".tflite", _to_litert),
            ("ONNX Runtime", ".onnx", lambda saved, target: model.export(target, format="onnx", verbose=False)),
            ("OpenVINO", ".xml", _to_openvino),
        ):
            name, target = f"keras.applications {name}", saved + suffix
            if self.wants(name):
                try:
                    with suppress_stderr():
                        convert(saved, target)
                except Exception as error:  # another's converter, which may lack something
                    self.left_out.append(f"{name}: {error}")
                else:
                    self.add(name, "exported", path=target)

    def ours(self, variants):
        """On every engine; in bfloat16 where this processor multiplies it."""
        self._ours("ours", engines.ENGINES)
        flags = Path("/proc/cpuinfo")
        if flags.exists() and "_bf16" in flags.read_text():
            self._ours("ours bfloat16", ["savedmodel"], precision="bfloat16")
        if variants:
            merged = self.scratch / "merged.keras"
            fuse_for_inference(load_model(self.network)).save(merged)
            self._ours("ours unfused", engines.EXPORTS, fuse=False)
            self._ours("ours siblings merged", engines.EXPORTS, merged, fuse=False)

    def _ours(self, prefix, names, path=None, **options):
        chosen = [name for name in names if self.wants(f"{prefix} {name}")]
        if chosen:
            scratch = self.scratch / prefix
            self.contestants += engines.contestants(
                path or self.network, chosen, scratch, prefix=prefix, say=self.left_out.append, **options
            )

    def slim(self):
        self.add("TF-Slim session", "slim")
        name, target = "TF-Slim frozen", str(self.scratch / "slim.pb")
        if self.wants(name) and self.runs(name, PEERS, "freeze_slim", target=target):
            self.add(name, "frozen", path=target)

    def torch(self, python):
        names = {f"torch {form}": form for form in FORMS if self.wants(f"torch {form}")}
        if names and self.runs("torch", TORCH, "copy", python, device="cpu", size=1, count=1):
            for name, form in names.items():
                self.add(name, "torch", python, form=form)


def _to_litert(saved, target):
    import tensorflow as tf

    Path(target).write_bytes(tf.lite.TFLiteConverter.from_saved_model(saved).convert())


def _to_openvino(saved, target):
    import openvino

    openvino.save_model(openvino.convert_model(saved), target, compress_to_fp16=False)


if __name__ == "__main__":
    main()
