"""A model on every engine that is installed, as candidates of a benchmark."""

import dataclasses
import importlib.util
from pathlib import Path

from inception_tf.analysis.profile import total
from inception_tf.analysis.profile_report import profile_of, profile_of_card
from inception_tf.benchmark.harness import Section
from inception_tf.benchmark.rounds import Candidate, fitting
from inception_tf.errors import CheckpointError, InceptionTFError, UsageError
from inception_tf.export.formats import export
from inception_tf.inference.engines import needs_keras, open_model, saved_model_in
from inception_tf.inference.runtimes import export_card
from inception_tf.models.card import read_card
from inception_tf.models.registry import create_model
from inception_tf.zoo import is_path

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


def bytes_of(path):
    """What a model's files take."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}*")
    return sum(file.stat().st_size for file in files if file.is_file())


def multiply_adds(paths):
    """Those of one image. None where the models differ in it, or are not this library's."""

    def count(path):
        if needs_keras(path):
            return total(profile_of(path).layers, "multiply_adds")
        saved = saved_model_in(path)
        return total(profile_of_card(read_card(saved) if saved else export_card(path)).layers, "multiply_adds")

    try:
        found = {count(path) for path in paths}
    except (InceptionTFError, KeyError):
        return None
    return found.pop() if len(found) == 1 else None


def candidates(path, engines, scratch, fuse=None, prefix="", precision=None, log=print):
    """A model's candidates, for any batch size: see `sections`. It is exported for them.

    Args:
        path: what `open_model` takes, or an exported file, which is a candidate itself.
        engines: names of `ENGINES`.
        scratch: a directory for the exports, of this model alone.
        fuse: whether they are fused; None: where it pays.
        prefix: goes ahead of the names; of an exported file it is the name.
        precision: the exports', as `export` takes it.
        log: takes "name: reason" of each engine that is left out: it is not installed, or cannot have this model.

    Raises:
        UsageError: no such engine.
    """
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown:
        raise UsageError(f"There is no engine {', '.join(unknown)}. There are: {', '.join(ENGINES)}.")
    path = Path(path)
    if not needs_keras(path):
        return [Candidate(prefix or path.name, f"{RUNS}:engine", {"path": str(path)})]
    model, found = open_model(path), []
    for engine in engines:
        name = f"{prefix} {engine}".lstrip()
        if engine not in EXPORTS:
            arguments = {"path": str(path), "jit_compile": engine == "keras-xla"}
            found.append(Candidate(name, f"{RUNS}:keras_model", arguments))
            continue
        form, suffix, package = EXPORTS[engine]
        target = Path(scratch, f"{engine}{suffix}")
        options = {"xla": engine.endswith("-xla"), "batch": 1} if form == "savedmodel" else {}
        try:
            if importlib.util.find_spec(package) is None:
                raise UsageError(f"{package} is not installed")
            export(model, target, form, check=False, fuse=fuse, precision=precision, **options)
        except InceptionTFError as error:
            log(f"{name}: {error}")
            continue
        found.append(Candidate(name, f"{RUNS}:engine", {"path": str(target)}))
    return found


def sections(candidates, batches, multiply_adds, size, image_size=25e6):
    """A `Section` for each batch size, beside the product of two matrices, whose speed is in GFLOP/s.

    Args:
        candidates: as `candidates` gives them; their functions take a `batch` too.
        batches: the sizes.
        multiply_adds: those of one image, or None.
        size, image_size: the bytes that a process takes, and those for each image of a batch.
    """
    sgemm = Candidate("sgemm", f"{RUNS}:multiply", {"size": SGEMM}, 2 * SGEMM**3 / 1e9)
    gflop = 2 * multiply_adds / 1e9 if multiply_adds else None
    for batch in batches * bool(candidates):
        found = [
            dataclasses.replace(candidate, arguments=candidate.arguments | {"batch": batch}, work=batch)
            for candidate in candidates
        ]
        yield Section({"batch": batch}, found, sgemm, gflop, fitting(size + image_size * batch))
