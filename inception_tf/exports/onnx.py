"""Keras models to ONNX files, for ONNX Runtime and whatever else reads them."""

import collections
import os
import tempfile
from pathlib import Path

from inception_tf.exports.driver import external_converter
from inception_tf.exports.portable import CalibrationBatches, PortableFormat, frozen, kept_in_float, output_names
from inception_tf.inference.runtimes import KEY, OnnxRuntime

# The newest that tf2onnx 1.17 writes.
OPSET = 18


def to_onnx(model, target, **options):
    """Writes an `.onnx` file, from `images` (float32 N×H×W×C, preprocessed) to `probabilities` (float32 N×classes).

    The model's card, with its preprocessing and its labels, is in the file's metadata under "inception_tf", JSON.

    Args:
        model: a model of this library, in float32, on Keras's TensorFlow backend.
        target: the file to write.
        **options: as `to_litert`, but for full_integer. Of precision "float16", weights and operations are, while
            inputs and outputs stay float32; "int8" is written as QuantizeLinear and DequantizeLinear around all
            but the first two convolutions and the classifier. A program that runs it on a processor without VNNI sets
            ONNX Runtime's session.x64quantprecision to 1, as this library does, or sums of products overflow.

    Returns:
        The `Path` written.

    Raises:
        UsageError, ImageError, ExportError: as `to_litert`.
    """
    return OnnxFormat().export(model, target, **options)


class OnnxFormat(PortableFormat):
    """An ONNX model, its card in the metadata."""

    name = "onnx"
    packages = ("onnx", "onnxruntime", "tf2onnx")
    runtime = OnnxRuntime

    def convert(self, export):
        import onnx
        import tf2onnx

        # Else it copies the whole graph ahead of every optimization: of Inception-v3 to over 7 GB.
        os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
        with external_converter(f"tf2onnx cannot convert {export.model.name}"):
            function = frozen(export)
            given, results = function.inputs[0].name, [output.name for output in function.outputs]
            network, _ = tf2onnx.convert.from_graph_def(
                function.graph.as_graph_def(),
                input_names=[given],
                output_names=results,
                tensors_to_rename={given: "images", **dict(zip(results, output_names(export)))},
                opset=OPSET,
            )
            for value in (*network.graph.input, *network.graph.output):
                batch = value.type.tensor_type.shape.dim[0]
                if not batch.HasField("dim_value"):
                    batch.dim_param = "batch"
            if export.options.precision == "float16":
                from onnxruntime.transformers.float16 import convert_float_to_float16
                from onnxruntime.transformers.onnx_model import OnnxModel

                network = convert_float_to_float16(network, keep_io_types=True)
                OnnxModel(network).topological_sort()  # the casts are put at the end
            onnx.checker.check_model(network)
        return _quantized(export, network) if export.options.precision == "int8" else network

    def save(self, export, network, path):
        import onnx

        onnx.save(network, path)

    def add_card(self, export, network, path, card):
        import onnx

        onnx.helper.set_model_props(network, {KEY: card.to_json()})
        onnx.save(network, path)

    def replace_card(self, path, card):
        import onnx

        self.add_card(None, onnx.load(path), path, card)


def _quantized(export, network):
    """The network in integers, but for what `kept_in_float` names and all that is behind the classifier.

    Feature maps are unsigned: of signed ones ONNX Runtime 1.32 runs 42 of the 94 convolutions of Inception-v3 in float.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    failure = f"ONNX Runtime cannot quantize {export.model.name}"
    with tempfile.TemporaryDirectory() as scratch, external_converter(failure):
        given = Path(scratch, "given.onnx")
        onnx.save(network, given)
        ranges = _ranges(export, given, scratch)
        network = load_model_with_shape_infer(given)
        _share_ranges(network.graph, ranges)
        unsigned, signed = quantization.QuantType.QUInt8, quantization.QuantType.QInt8
        operations = list({*QDQRegistry, *QLinearOpsRegistry})
        quantizer = quantization.QDQQuantizer(
            network, True, False, signed, unsigned, ranges, [], _float_nodes(export, network.graph), operations, {}
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        return quantizer.model.model


def _ranges(export, path, scratch):
    """The range of each feature map: the mean of the batches' least and largest values, as NNCF takes it too.

    A batch is one image, but of a network of a fixed batch size.
    """
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter(CalibrationBatches(export))

        def get_next(self):
            images = next(self.batches, None)
            return None if images is None else {"images": images}

    augmented, options = str(Path(scratch, "augmented.onnx")), {"moving_average": True}
    calibrator = quantization.create_calibrator(path, augmented_model_path=augmented, extra_options=options)
    calibrator.collect_data(Images())
    return calibrator.compute_data()


def _share_ranges(graph, ranges):
    """Gives what is concatenated, and nothing else, the range of the whole: else it would be rounded twice."""
    makers = {output: node.op_type for node in graph.node for output in node.output}
    takers = collections.Counter(given for node in graph.node for given in node.input)
    for node in reversed(graph.node):
        for given in node.input if node.op_type == "Concat" else ():
            if takers[given] == 1 and makers.get(given) in ("Relu", "Concat"):
                ranges[given] = ranges[node.output[0]]


def _float_nodes(export, graph):
    """The names of the nodes that stay in float."""
    products = [node.name for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    # Two, since no biases are corrected here, as NNCF does it.
    kept, behind = kept_in_float(export, products, first=2), set()
    for node in graph.node:
        if behind.intersection(node.input):
            kept.append(node.name)
        if (export.names and node.name == products[-1]) or behind.intersection(node.input):
            behind.update(node.output)
    return kept
