"""A model on every engine that is installed, as contestants."""

import importlib.util
from pathlib import Path

from inception_tf.benchmark.rounds import Contestant
from inception_tf.errors import CheckpointError, InceptionTFError, UsageError
from inception_tf.export.card import read_card
from inception_tf.export.formats import export
from inception_tf.inference.engines import needs_keras, open_model, saved_model_in
from inception_tf.inference.profile_report import profile_of, profile_of_card
from inception_tf.inference.runtimes import export_card
from inception_tf.models.profile import total
from inception_tf.models.registry import create_model
from inception_tf.slim.pretrained import is_path

RUNS = "inception_tf.benchmark.runs"

# By name: the format to export to, the target's suffix, and the package that runs it.
EXPORTS = {
    "savedmodel": ("savedmodel", "", "tensorflow"),
    "savedmodel-xla": ("savedmodel", "", "tensorflow"),
    "litert": ("litert", ".tflite", "ai_edge_litert"),
    "onnx": ("onnx", ".onnx", "onnxruntime"),
    "openvino": ("openvino", ".xml", "openvino"),
}
ENGINES = ("keras", "keras-xla", *EXPORTS)
# Large enough for a BLAS to reach its limit, small enough for a tenth of a second.
SGEMM = 2048


def model_file(model, scratch):
    """The path of a model: `model` is one, or the name of a network, which is saved with random weights."""
    if is_path(model) or Path(model).suffix:
        if not Path(model).exists() and not Path(f"{model}.index").exists():
            raise CheckpointError(f"There is no model at {model}.")
        return Path(model)
    path = Path(scratch, f"{model}.keras")
    create_model(model).save(path)
    return path


def cost(paths):
    """The multiply-adds of one image. None where the models differ in it, or are not this library's."""

    def multiply_adds(path):
        if needs_keras(path):
            return total(profile_of(path).layers, "multiply_adds")
        saved = saved_model_in(path)
        return total(profile_of_card(read_card(saved) if saved else export_card(path)).layers, "multiply_adds")

    try:
        found = {multiply_adds(path) for path in paths}
    except (InceptionTFError, KeyError):
        return None
    return found.pop() if len(found) == 1 else None


def contestants(path, engines, batch, scratch, fuse=None, prefix="", precision=None):
    """A model's contestants for a batch size. It is exported for them, unless `scratch` holds the exports already.

    Args:
        path: what `open_model` takes, or an exported file, which is a contestant itself.
        engines: names of `ENGINES`; those of what is not installed are left out.
        batch: the images at a time.
        scratch: a directory for the exports.
        fuse: whether they are fused; None: where it pays.
        prefix: goes ahead of the names.
        precision: the exports', as `export` takes it.

    Raises:
        UsageError: no such engine.
    """
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown:
        raise UsageError(f"There is no engine {', '.join(unknown)}. There are: {', '.join(ENGINES)}.")
    path, prefix = Path(path), f"{prefix} " if prefix else ""
    if not needs_keras(path):
        return [Contestant(path.name, f"{RUNS}:engine", {"path": str(path), "batch": batch}, batch)]
    model, found = open_model(path), []
    for name in engines:
        if name not in EXPORTS:
            arguments = {"path": str(path), "batch": batch, "jit_compile": name == "keras-xla"}
            found.append(Contestant(prefix + name, f"{RUNS}:keras_model", arguments, batch))
            continue
        form, suffix, package = EXPORTS[name]
        if importlib.util.find_spec(package) is None:
            continue
        target = Path(scratch, f"{path.name}-exports", f"{name}{suffix}")
        if not target.exists():
            options = {"xla": name.endswith("-xla"), "batch": 1} if form == "savedmodel" else {}
            export(model, target, form, check=False, fuse=fuse, precision=precision, **options)
        found.append(Contestant(prefix + name, f"{RUNS}:engine", {"path": str(target), "batch": batch}, batch))
    return found


def sgemm():
    """The contestant that multiplies matrices and does nothing else; its speed is in GFLOP/s."""
    return Contestant("sgemm", f"{RUNS}:multiply", {"size": SGEMM}, 2 * SGEMM**3 / 1e9)
