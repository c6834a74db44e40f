"""Keras models to `.tflite` files, for LiteRT (TensorFlow Lite) on telephones, small boards and servers."""

import zipfile

from inception_tf.exports.driver import external_converter
from inception_tf.exports.portable import CalibrationBatches, PortableFormat, frozen
from inception_tf.inference.runtimes import CARD, LiteRT

LABELS = "labels.txt"


def to_litert(model, target, **options):
    """Writes a `.tflite` file, from `images` (N×H×W×C, preprocessed) to N×classes probabilities.

    A zip archive behind the network, where TensorFlow Lite keeps a model's associated files, holds `labels.txt`, a
    class name a line, and `inception_tf.json`, the model's card with its preprocessing: `unzip -l` shows them, and
    LiteRT passes over them.

    Args:
        model: a model of this library, in float32, on Keras's TensorFlow backend.
        target: the file to write.
        **options: of `formats.Options`: labels, batch, precision ("float32", "float16" or "int8"), calibrate, held_out,
            full_integer, check, overwrite, fuse, features.

    Returns:
        The `Path` written.

    Raises:
        UsageError: an option out of its range, LiteRT is not installed.
        ImageError: no image of `calibrate` or `held_out` could be read.
        ExportError: the model cannot be converted, or the file gives other outputs than the model.
    """
    return LiteRTFormat().export(model, target, **options)


class LiteRTFormat(PortableFormat):
    """A flatbuffer, and behind it a zip archive of the card and the class names."""

    name = "litert"
    options = (*PortableFormat.options, "full_integer")
    packages = ("ai_edge_litert",)
    runtime = LiteRT

    def convert(self, export):
        import tensorflow as tf

        with external_converter(f"LiteRT's converter cannot convert {export.model.name}"):
            converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen(export)])
            if export.options.precision != "float32":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if export.options.precision == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if export.calibration is not None:
                converter.representative_dataset = lambda: ([images] for images in CalibrationBatches(export))
            if export.options.full_integer:
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.inference_input_type = converter.inference_output_type = tf.int8
            return converter.convert()

    def save(self, export, network, path):
        path.write_bytes(network)

    def add_card(self, export, network, path, card):
        with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
            archive.writestr(CARD, card.to_json())
            if card.labels:
                archive.writestr(LABELS, "".join(f"{name}\n" for name in card.labels))

    def replace_card(self, path, card):
        with zipfile.ZipFile(path) as archive:
            network = min(entry.header_offset for entry in archive.infolist())
        with path.open("r+b") as file:
            file.truncate(network)
        self.add_card(None, None, path, card)
