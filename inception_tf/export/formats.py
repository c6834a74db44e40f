"""The forms that a model is exported to, by name. A new one is one file beside this one, and one line here."""

import dataclasses
import importlib
import inspect

from inception_tf.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Format:
    """A form to export to.

    Attributes:
        writer: "module:function" in inception_tf/export/: a function (model, target, **options), with `check` among the
            options, that writes whole or not at all and returns the path written.
        summary: what is written.
        proof: what `check` has found when the writer returns.
    """

    writer: str
    summary: str
    proof: str


FORMATS = {
    "savedmodel": Format(
        "savedmodel:export_savedmodel",
        "the next version in the directory TARGET for TensorFlow Serving, with the signatures serving_default, "
        "predict_image_bytes, classify, features and class_maps",
        "loaded back without Keras, every signature gives the same outputs",
    ),
    "keras-applications": Format(
        "keras_applications:to_keras_applications",
        "the file TARGET.weights.h5 for keras.applications.InceptionV3(weights=…) or InceptionResNetV2",
        "loaded into keras.applications, same outputs",
    ),
    "timm": Format(
        "timm:to_timm",
        "the file TARGET.safetensors, a PyTorch state dict for timm's inception_v3, inception_v4 and "
        "inception_resnet_v2",
        "read back, the same values",
    ),
    "litert": Format(
        "litert:to_litert",
        "the file TARGET.tflite for LiteRT (TensorFlow Lite), with the class names and the preprocessing in it",
        "run by LiteRT beside the model",
    ),
    "onnx": Format(
        "onnx:to_onnx",
        "the file TARGET.onnx for ONNX Runtime and others, with the class names and the preprocessing in it",
        "run by ONNX Runtime beside the model",
    ),
    "openvino": Format(
        "openvino:to_openvino",
        "the files TARGET.xml and TARGET.bin for OpenVINO, with the class names and the preprocessing in the former",
        "run by OpenVINO beside the model",
    ),
}


def export(model, target, format="savedmodel", **options):
    """Exports a model.

    Args:
        model: a model of this library.
        target: where to.
        format: one of `FORMATS`.
        **options: as the format's writer takes them; those that are None count as not given.

    Returns:
        The `Path` written.

    Raises:
        UsageError: no such format, or an option that it does not have.
        ExportError: the export does not answer as the model does.
    """
    if format not in FORMATS:
        raise UsageError(f"There is no format {format!r}. There are: {', '.join(FORMATS)}.")
    module, function = FORMATS[format].writer.split(":")
    writer = getattr(importlib.import_module(f"inception_tf.export.{module}"), function)
    given = {option: value for option, value in options.items() if value is not None}
    known = list(inspect.signature(writer).parameters)[2:]
    unknown = [option for option in given if option not in known]
    if unknown:
        raise UsageError(f"The format {format} has no option {', '.join(unknown)}. It has: {', '.join(known)}.")
    return writer(model, target, **given)
