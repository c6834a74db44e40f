"""A model on every engine that is installed, as candidates of a benchmark."""

import dataclasses
import importlib.util
from pathlib import Path

from inception_tf.analysis.profile import total
from inception_tf.analysis.profile_report import profile_of, profile_of_card
from inception_tf.benchmark.harness import Section
from inception_tf.benchmark.rounds import Candidate, fitting
from inception_tf.errors import CheckpointError, InceptionTFError, UsageError
from inception_tf.exports.formats import export
from inception_tf.inference.engines import needs_keras
from inception_tf.inference.runtimes import export_card
from inception_tf.models.card import read_card
from inception_tf.zoo import exported_saved_model, load_model

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


def costs(model):
    """A model's (multiply-adds of one image, parameters); (None, 25 million) where they are not known."""
    try:
        if needs_keras(model):
            layers = profile_of(model).layers
        else:
            saved = exported_saved_model(model)
            layers = profile_of_card(read_card(saved) if saved else export_card(model)).layers
    except (InceptionTFError, AttributeError):  # no card: an export of another library
        return None, 25_000_000
    return total(layers, "multiply_adds"), total(layers, "parameters")


def candidates(model, engines, scratch, fuse=None, prefix="", precision=None, calibrate=None, log=print):
    """A model's candidates, for any batch size: see `sections`. It is exported for them.

    Args:
        model: what `load_model` takes, or an exported file, which is a candidate itself.
        engines: names of `ENGINES`.
        scratch: a directory for the exports, of this model alone.
        fuse: whether they are fused; None: where it pays.
        prefix: goes ahead of the names; of an exported file it is the name.
        precision: the exports', as `export` takes it.
        calibrate: what int8 is calibrated on, as `export` takes it.
        log: takes "name: reason" of each engine that is left out: it is not installed, or cannot have this model.

    Raises:
        UsageError: no such engine.
        CheckpointError: no such file.
    """
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown:
        raise UsageError(f"There is no engine {', '.join(unknown)}. There are: {', '.join(ENGINES)}.")
    if not needs_keras(model):
        if not Path(model).exists():
            raise CheckpointError(f"There is no model at {model}.")
        return [Candidate(prefix or Path(model).name, f"{RUNS}:engine", {"path": str(model)})]
    loaded, file, found = load_model(model), Path(scratch, "model.keras"), []
    file.parent.mkdir(exist_ok=True)
    loaded.save(file)
    for engine in engines:
        name = f"{prefix} {engine}".lstrip()
        if engine not in EXPORTS:
            xla = engine == "keras-xla"
            if precision == "int8":
                log(f"{name}: it has no int8")
                continue
            arguments = {"path": str(file), "xla": xla, "precision": precision if xla else None}
            found.append(Candidate(name, f"{RUNS}:keras_model", arguments))
            continue
        form, suffix, package = EXPORTS[engine]
        target = Path(scratch, f"{engine}{suffix}")
        options = {"xla": engine.endswith("-xla"), "batch": 1} if form == "savedmodel" else {}
        options |= {"calibrate": calibrate} if precision == "int8" and form != "savedmodel" else {}
        try:
            if importlib.util.find_spec(package) is None:
                raise UsageError(f"{package} is not installed")
            export(loaded, target, form, check=False, fuse=fuse, precision=precision, **options)
        except InceptionTFError as error:
            log(f"{name}: {error}")
            continue
        found.append(Candidate(name, f"{RUNS}:engine", {"path": str(target)}))
    return found


def sections(candidates, batches, multiply_adds, parameters):
    """A `Section` for each batch size, beside the product of two matrices.

    Args:
        candidates: as `candidates` returns them; their functions take a `batch` too.
        batches: the sizes.
        multiply_adds: those of one image, or None.
        parameters: those of the largest model: what a process takes is estimated by them.
    """
    sgemm = Candidate("sgemm", f"{RUNS}:multiply", {"size": SGEMM}, 2 * SGEMM**3 / 1e9)
    for batch in batches:
        found = [
            dataclasses.replace(candidate, arguments=candidate.arguments | {"batch": batch}, work=batch)
            for candidate in candidates
        ]
        size = 1e9 + 3 * 4 * parameters + 25e6 * batch
        yield Section({"batch": batch}, found, sgemm, multiply_adds and 2 * multiply_adds / 1e9, fitting(size))
