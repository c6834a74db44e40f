"""Exported networks on the engines they were exported for: LiteRT, ONNX Runtime, OpenVINO, JAX. Neither TensorFlow nor
Keras is imported here.
"""

import contextlib
import importlib
import json
import os
import threading
import warnings
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from inception_tf.errors import CheckpointError, UsageError, need, reason
from inception_tf.machine import processor
from inception_tf.models.card import Card, read_card
from inception_tf.quiet import suppress_stderr

# Under this name the model's card travels in every form: as a file in a .tflite, as metadata in the others.
CARD = "inception_tf.json"
KEY = "inception_tf"


class Runtime:
    """A network in a file, ready to run, by any number of threads.

    Args:
        threads: how many threads compute; of LiteRT, ONNX Runtime and OpenVINO. Default: one a processor.

    Attributes:
        card: the model's `Card` that the file carries; None where it has none.
        batch: how many images the network takes at a time, None for any number. `__call__` takes any number always.
        computes: what floats are computed in, where that is known.
        compiles: whether another number of images is compiled anew, which takes seconds.
    """

    card = batch = computes = None
    compiles = False

    def __call__(self, images):
        """The network's first output, float32 with N first, of preprocessed images, float32 N×H×W×C."""
        return self.outputs(images)[0]

    def outputs(self, images):
        """All of the network's outputs, a list: of a classifier the probabilities, and features where it has them."""
        images = np.ascontiguousarray(images, np.float32)
        if self.batch is None:
            return self._run(images)
        spare = -len(images) % self.batch
        padded = np.concatenate([images, np.zeros((spare, *images.shape[1:]), np.float32)]) if spare else images
        parts = [self._run(padded[i : i + self.batch]) for i in range(0, len(padded), self.batch)]
        return [np.concatenate(output)[: len(images)] for output in zip(*parts)]

    def _run(self, images):
        raise NotImplementedError


class LiteRT(Runtime):
    """A `.tflite` file, on LiteRT with XNNPACK; on TensorFlow's own interpreter where LiteRT is not installed."""

    def __init__(self, path, threads=None):
        try:
            interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter
        except ImportError:
            try:
                interpreter = importlib.import_module("tensorflow").lite.Interpreter
            except ImportError:
                interpreter = need("ai_edge_litert.interpreter", "litert", "A .tflite file").Interpreter
        with _damaged(path, "LiteRT"), suppress_stderr():
            self._interpreter = interpreter(model_path=str(path), num_threads=threads or _processors())
            (self._input,) = self._interpreter.get_input_details()
            self._outputs = self._interpreter.get_output_details()
            self._interpreter.allocate_tensors()
        self._lock = threading.Lock()
        self._size = int(self._input["shape"][0])
        self.batch = None if self._input["shape_signature"][0] == -1 else self._size
        self.card = read_litert_card(path)

    def _run(self, images):
        with self._lock:
            if len(images) != self._size:
                self._interpreter.resize_tensor_input(self._input["index"], images.shape)
                self._interpreter.allocate_tensors()
                self._size = len(images)
            self._interpreter.set_tensor(self._input["index"], _quantized(images, self._input))
            self._interpreter.invoke()
            return [_dequantized(self._interpreter.get_tensor(one["index"]), one) for one in self._outputs]


class OnnxRuntime(Runtime):
    """An `.onnx` file, on ONNX Runtime."""

    def __init__(self, path, threads=None):
        onnxruntime = need("onnxruntime", "onnx", "An .onnx file")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0  # its own default
        # Work in smaller and smaller pieces, so that no processor waits long for the last one: up to a percent here.
        options.add_session_config_entry("session.dynamic_block_base", "4")
        if "vnni" not in processor():
            # There, sums of products in int8 overflow 16 bits without it; elsewhere it halves the speed.
            options.add_session_config_entry("session.x64quantprecision", "1")
        with _damaged(path, "ONNX Runtime"):
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            (given,) = self._session.get_inputs()
            self.card = Card.from_json(self._session.get_modelmeta().custom_metadata_map.get(KEY))
        self._name = given.name
        self.batch = given.shape[0] if isinstance(given.shape[0], int) else None

    def _run(self, images):
        return self._session.run(None, {self._name: images})


class OpenVino(Runtime):
    """What OpenVINO reads, on the CPU: an `.xml` file with its `.bin`; also `.onnx`, `.tflite` and a SavedModel.

    It computes in bfloat16 what was exported in bfloat16, where the processor has instructions for that; all else in
    float32, though a Xeon's own default is bfloat16.

    Args:
        precision: that of the export. Default: what its card says.

    Attributes:
        computes: "float32" or "bfloat16", what floats are computed in here.
    """

    def __init__(self, path, precision=None, threads=None):
        openvino, path = need("openvino", "openvino", "OpenVINO"), Path(path)
        with _damaged(path, "OpenVINO"), suppress_stderr():
            core = openvino.Core()
            model = core.read_model(path)
            (given,) = model.inputs
            batch = given.partial_shape[0]
            self.card = _openvino_card(model, path)
            precision = precision or (self.card and self.card.export.get("precision"))
            able = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            self.computes = "bfloat16" if precision == "bfloat16" and able else "float32"
            hint = {"INFERENCE_PRECISION_HINT": "bf16" if self.computes == "bfloat16" else "f32"}
            if threads:
                hint["INFERENCE_NUM_THREADS"] = threads
            compiled = core.compile_model(model, "CPU", hint)
            self._outputs = sorted(compiled.outputs, key=lambda output: "probabilities" not in output.names)
        if not given.element_type.is_real():
            raise UsageError(
                f"{path} takes {given.element_type.get_type_name()}, and OpenVINO does not scale images to integers. "
                "LiteRT does: leave --openvino (openvino=True) out."
            )
        if precision == "bfloat16" and not able:
            warnings.warn(
                f"{path} was exported to compute in bfloat16, which this processor has no instructions for: OpenVINO "
                "computes in float32.",
                stacklevel=2,
            )
        self.batch = None if batch.is_dynamic else batch.get_length()
        self._request, self._lock = compiled.create_infer_request(), threading.Lock()

    def _run(self, images):
        with self._lock:
            found = self._request.infer([images])
            return [np.array(found[output]) for output in self._outputs]


class StableHlo(Runtime):
    """A `.stablehlo` file with its `.safetensors`, on JAX: on its first device, whatever that is."""

    compiles = True

    def __init__(self, path, threads=None):
        # jax.export reads and writes with flatbuffers, which JAX does not install.
        names = ("flatbuffers", "jax", "jax.export")
        _, jax, export = (need(name, "stablehlo", "A .stablehlo file") for name in names)
        with _damaged(path, "JAX"):
            exported = export.deserialize(bytearray(Path(path).read_bytes()))
            self._weights, self.card = read_safetensors(path)
            self._weights = jax.device_put(self._weights)
            self._call = jax.jit(exported.call)
            batch = exported.in_avals[-1].shape[0]
        self.batch = batch if isinstance(batch, int) else None

    def _run(self, images):
        found = self._call(self._weights, images)
        return [np.asarray(output) for output in (found if isinstance(found, list) else [found])]


RUNTIMES = {".tflite": LiteRT, ".onnx": OnnxRuntime, ".xml": OpenVino, ".stablehlo": StableHlo}


def runtime_for(path):
    """The one of `RUNTIMES` for a file, by its suffix in either case; None where there is none."""
    return RUNTIMES.get(Path(path).suffix.lower())


def export_card(path):
    """The `Card` in a file of one of `RUNTIMES`, None for others. The network in it is not compiled to run."""
    readers = {".tflite": read_litert_card, ".onnx": _read_onnx_card, ".xml": _read_openvino_card}
    readers |= {".stablehlo": _read_stablehlo_card}
    read = readers.get(Path(path).suffix.lower())
    return read(path) if read else None


def _read_onnx_card(path):
    onnx = need("onnx", "onnx", "The card of an .onnx file")
    with _damaged(path, "onnx"):
        network = onnx.load(path, load_external_data=False)
    return Card.from_json(next((prop.value for prop in network.metadata_props if prop.key == KEY), None))


def _read_openvino_card(path):
    with _damaged(path, "OpenVINO"):
        found = ElementTree.parse(path).find(f"rt_info/{KEY}")
    return Card.from_json(found is not None and found.get("value"))


def read_safetensors(path, values=True):
    """The arrays in the `.safetensors` beside a file, a dict by names, and the `Card` in it, None where there is none.

    Its format is eight bytes, the length of a header in JSON, and the values behind it.
    """
    with Path(path).with_suffix(".safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        card = Card.from_json(header.pop("__metadata__", {}).get(KEY))
        data = file.read() if values else b""
    arrays = {}
    for name, fact in header.items() if values else ():
        if fact["dtype"] == "BF16":
            from ml_dtypes import bfloat16 as dtype  # which comes with JAX
        else:
            dtype = {"F32": np.float32, "F16": np.float16}[fact["dtype"]]
        start, end = fact["data_offsets"]
        arrays[name] = np.frombuffer(data[start:end], dtype).reshape(fact["shape"])
    return arrays, card


def _read_stablehlo_card(path):
    with _damaged(path, "JAX"):
        return read_safetensors(path, values=False)[1]


def read_litert_card(path):
    """The `Card` in a `.tflite` file, None where there is none: a zip archive behind the network."""
    try:
        with zipfile.ZipFile(path) as archive:
            return Card.from_json(archive.read(CARD))
    except (zipfile.BadZipFile, KeyError, OSError):
        return None


def _openvino_card(model, path):
    for place in ([KEY], ["framework", KEY]):  # its own files, and an .onnx's metadata
        if model.has_rt_info(place):
            return Card.from_json(model.get_rt_info(place).astype(str))
    if path.suffix.lower() == ".tflite":
        return read_litert_card(path)
    if path.is_dir():
        return read_card(path)
    return None


def _quantized(images, details):
    if details["dtype"] == np.float32:
        return images
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    return np.clip(np.rint(images / scale) + zero, limits.min, limits.max).astype(details["dtype"])


def _dequantized(outputs, details):
    if details["dtype"] == np.float32:
        return outputs
    scale, zero = details["quantization"]
    return (outputs.astype(np.float32) - zero) * np.float32(scale)


def _processors():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _damaged(path, engine):
    """Turns whatever an engine raises while it opens a file into a `CheckpointError` of a line."""
    if not os.path.exists(path):
        raise CheckpointError(f"There is no model at {path}.")
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # of many kinds
        raise CheckpointError(f"{path} cannot be run by {engine}: {reason(error)}") from error
