"""Keras models to ONNX files, for ONNX Runtime and whatever else reads them."""

import contextlib
import logging
from functools import partial
from pathlib import Path

from inception_tf.errors import ExportError, reason
from inception_tf.export import portable
from inception_tf.files import atomic_write
from inception_tf.inference.runtimes import KEY, OnnxRuntime
from inception_tf.quiet import suppress_stderr

# The newest that tf2onnx 1.17 writes.
OPSET = 18


def to_onnx(
    model,
    target,
    labels=None,
    batch="dynamic",
    precision="float32",
    calibrate=None,
    held_out=None,
    check=True,
    overwrite=False,
    fuse=None,
):
    """Writes an `.onnx` file, from `images` (float32 N×H×W×C, preprocessed) to `probabilities` (float32 N×classes).

    The model's card, with its preprocessing and its labels, is in the file's metadata under "inception_tf", JSON.

    Args:
        precision: "float32"; "float16", weights and operations, where inputs and outputs stay float32; "int8", weights
            and maps quantized to the ranges seen on images of `calibrate`, as QuantizeLinear and DequantizeLinear.
        Others as in `to_litert`.

    Returns:
        The `Path` written.

    Raises:
        UsageError: an option out of its range, a package that is not installed.
        ImageError: no image of `calibrate` or `held_out` could be read.
        ExportError: the model cannot be converted, or the file answers otherwise than the model.
    """
    job = portable.prepare(
        model,
        target,
        ".onnx",
        "onnx",
        ("float32", "float16", "int8"),
        ["onnx", "onnxruntime", "tf2onnx"],
        labels,
        batch,
        precision,
        calibrate,
        held_out,
        overwrite,
        fuse,
    )
    import onnx

    with atomic_write(target, overwrite) as part:
        onnx.save(_convert(job), part)
        if precision == "int8":
            _quantize(job, part)
        portable.finish(job, part, OnnxRuntime, partial(_attach, part), check)
    return Path(target)


def _attach(part, card):
    """Puts the card into the file's metadata."""
    import onnx

    network = onnx.load(part)
    onnx.helper.set_model_props(network, {KEY: card})
    onnx.save(network, part)


def _convert(job):
    """The network as an ONNX model in memory."""
    import onnx
    import tf2onnx

    try:
        with _silent():
            graph = portable.frozen(job)
            network, _ = tf2onnx.convert.from_graph_def(
                graph.graph.as_graph_def(),
                input_names=[tensor.name for tensor in graph.inputs],
                output_names=[tensor.name for tensor in graph.outputs],
                opset=OPSET,
            )
            _name(network, "images", "probabilities" if job.names else "features")
            if job.precision == "float16":
                from onnxruntime.transformers.float16 import convert_float_to_float16
                from onnxruntime.transformers.onnx_model import OnnxModel

                network = convert_float_to_float16(network, keep_io_types=True)
                OnnxModel(network).topological_sort()  # the casts are put at the end
            onnx.checker.check_model(network)
            return network
    except Exception as error:  # the converter's own, of many kinds
        raise ExportError(f"tf2onnx cannot convert {job.model.name}: {reason(error)}") from error


def _name(network, given, result):
    """Names the input and the output, which carry those of TensorFlow's tensors, and their batch."""
    ends = {network.graph.input[0].name: given, network.graph.output[0].name: result}
    for value in (*network.graph.input, *network.graph.output):
        value.name = ends[value.name]
        batch = value.type.tensor_type.shape.dim[0]
        if not batch.HasField("dim_value"):
            batch.dim_param = "batch"
    for node in network.graph.node:
        for names in (node.input, node.output):
            names[:] = [ends.get(name, name) for name in names]


def _quantize(job, path):
    """Quantizes a file in place."""
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter(portable.calibration_batches(job))

        def get_next(self):
            images = next(self.batches, None)
            return None if images is None else {"images": images}

    quantized = path.with_name("quantized.onnx")
    try:
        with _silent():
            quantization.quantize_static(path, quantized, Images(), per_channel=True)
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot quantize {job.model.name}: {reason(error)}") from error
    quantized.rename(path)


@contextlib.contextmanager
def _silent():
    """Without the progress that the converters log."""
    logging.disable(logging.WARNING)
    try:
        with suppress_stderr():
            yield
    finally:
        logging.disable(logging.NOTSET)
