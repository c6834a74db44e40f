"""Keras models to OpenVINO files, for Intel's processors, graphics and neural units."""

from xml.etree import ElementTree

from inception_tf.errors import ExportError, raising
from inception_tf.exports.driver import external_converter, image_shape
from inception_tf.exports.portable import CalibrationBatches, PortableFormat, frozen, kept_in_float, output_names
from inception_tf.inference.runtimes import KEY, OpenVino

PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")


def to_openvino(model, target, **options):
    """Writes OpenVINO's `.xml` file and its weights beside it, a `.bin` of the same name.

    From `images` (float32 N×H×W×C, preprocessed) to `probabilities` (float32 N×classes). The model's card, with its
    preprocessing and its labels, is in the `.xml` as the runtime information "inception_tf", JSON.

    Args:
        model: a model of this library, in float32, on Keras's TensorFlow backend.
        target: the `.xml` file.
        **options: as `to_litert`, but for full_integer. NNCF quantizes for "int8". Of "bfloat16" the weights are
            written in float16, which is finer, and computed with in bfloat16 where the processor has instructions for
            it: this library sets OpenVINO's INFERENCE_PRECISION_HINT as the card says, another program sets it itself.
            Where the processor has none, the check runs in float32, and the card's "computed_in" says so.

    Returns:
        The `Path` of the `.xml`.

    Raises:
        UsageError, ImageError, ExportError: as `to_litert`.
    """
    return OpenVinoFormat().export(model, target, **options)


class OpenVinoFormat(PortableFormat):
    """An `.xml` file with its `.bin`, its card in the runtime information."""

    name, weights_suffix = "openvino", ".bin"
    packages, int8_packages = ("openvino",), ("nncf",)
    precisions = ("float32", "float16", "bfloat16", "int8")
    runtime = OpenVino

    def run(self, export, path):
        return OpenVino(path, export.options.precision)

    def convert(self, export):
        import openvino

        with external_converter(f"OpenVINO cannot convert {export.model.name}"):
            shape = (export.options.batch or -1, *image_shape(export.model))
            network = openvino.convert_model(frozen(export).graph, input=[shape])
        network.inputs[0].set_names({"images"})
        for output, name in zip(network.outputs, output_names(export)):
            output.set_names({name})
        if export.options.precision != "int8":
            return network
        import nncf

        images = nncf.Dataset(CalibrationBatches(export))
        products = [op for op in network.get_ordered_ops() if op.get_type_name() in PRODUCTS]
        kept = nncf.IgnoredScope(kept_in_float(export, [op.get_friendly_name() for op in products]))
        with external_converter(f"NNCF cannot quantize {export.model.name}"):
            return nncf.quantize(network, images, subset_size=images.get_length(), ignored_scope=kept)

    def save(self, export, network, path):
        import openvino

        with raising(ExportError, f"OpenVINO cannot write {export.target}", RuntimeError):
            openvino.save_model(network, path, compress_to_fp16=export.options.precision in ("float16", "bfloat16"))

    def add_card(self, export, network, path, card):
        network.set_rt_info(card.to_json(), [KEY])
        self.save(export, network, path)

    def replace_card(self, path, card):
        tree = ElementTree.parse(path)
        tree.find(f"rt_info/{KEY}").set("value", card.to_json())
        tree.write(path)
