"""A model on every engine that is installed, as contestants."""

import dataclasses
import importlib.util
from pathlib import Path

from inception_tf.analysis.profile import total
from inception_tf.analysis.profile_report import profile_of, profile_of_card
from inception_tf.benchmark.rounds import Contestant
from inception_tf.errors import CheckpointError, InceptionTFError, UsageError
from inception_tf.export.formats import export
from inception_tf.inference.engines import needs_keras
from inception_tf.inference.runtimes import export_card
from inception_tf.models.card import read_card
from inception_tf.zoo import create_model, exported_saved_model, load_model, resolve

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
    if resolve(model).kind != "network" or Path(model).suffix:
        if not Path(model).exists() and not Path(f"{model}.index").exists():
            raise CheckpointError(f"There is no model at {model}.")
        return Path(model)
    path = Path(scratch, f"{model}.keras")
    create_model(model).save(path)
    return path


def titles(models):
    """As much of the ends of models' paths as tells them apart.

    Raises:
        UsageError: one is there twice.
    """
    parts = [Path(model).parts for model in models]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(some[-length:]) for some in parts]
        if len(set(names)) == len(names):
            return names
    raise UsageError(f"A model is named twice: {', '.join(map(str, models))}")


def bytes_of(path):
    """What a model's files take."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}*")
    return sum(file.stat().st_size for file in files if file.is_file())


def cost(paths):
    """The multiply-adds of one image. None where the models differ in it, or are not this library's."""

    def multiply_adds(path):
        if needs_keras(path):
            return total(profile_of(path).layers, "multiply_adds")
        saved = exported_saved_model(path)
        return total(profile_of_card(read_card(saved) if saved else export_card(path)).layers, "multiply_adds")

    try:
        found = {multiply_adds(path) for path in paths}
    except (InceptionTFError, KeyError):
        return None
    return found.pop() if len(found) == 1 else None


def contestants(path, engines, scratch, fuse=None, prefix="", precision=None, say=print):
    """A model's contestants, for any batch size: see `of_batch`. It is exported for them.

    Args:
        path: what `load_model` takes, or an exported file, which is a contestant itself.
        engines: names of `ENGINES`.
        scratch: a directory for the exports, of this model alone.
        fuse: whether they are fused; None: where it pays.
        prefix: goes ahead of the names; of an exported file it is the name.
        precision: the exports', as `export` takes it.
        say: takes "name: reason" of each engine that is left out: it is not installed, or cannot have this model.

    Raises:
        UsageError: no such engine.
    """
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown:
        raise UsageError(f"There is no engine {', '.join(unknown)}. There are: {', '.join(ENGINES)}.")
    path = Path(path)
    if not needs_keras(path):
        return [Contestant(prefix or path.name, f"{RUNS}:engine", {"path": str(path)})]
    model, found = load_model(path), []
    for engine in engines:
        name = f"{prefix} {engine}".lstrip()
        if engine not in EXPORTS:
            arguments = {"path": str(path), "jit_compile": engine == "keras-xla"}
            found.append(Contestant(name, f"{RUNS}:keras_model", arguments))
            continue
        form, suffix, package = EXPORTS[engine]
        target = Path(scratch, f"{engine}{suffix}")
        options = {"xla": engine.endswith("-xla"), "batch": 1} if form == "savedmodel" else {}
        try:
            if importlib.util.find_spec(package) is None:
                raise UsageError(f"{package} is not installed")
            export(model, target, form, check=False, fuse=fuse, precision=precision, **options)
        except InceptionTFError as error:
            say(f"{name}: {error}")
            continue
        found.append(Contestant(name, f"{RUNS}:engine", {"path": str(target)}))
    return found


def of_batch(contestant, batch):
    """A contestant for a batch size."""
    return dataclasses.replace(contestant, arguments={**contestant.arguments, "batch": batch}, work=batch)


def sgemm():
    """The contestant that multiplies matrices and does nothing else; its speed is in GFLOP/s."""
    return Contestant("sgemm", f"{RUNS}:multiply", {"size": SGEMM}, 2 * SGEMM**3 / 1e9)
