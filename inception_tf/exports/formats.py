"""The formats that a model is exported to, by name, and the options of an export.

A new format is a file beside this one with its `Format`, its entry in `FORMATS`, and its test.
"""

import dataclasses
import importlib
from pathlib import Path

from inception_tf.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Entry:
    """A format's entry: what can be said of it before anything heavy is imported.

    Attributes:
        implementation: "module:class" in inception_tf/exports/, the class a `Format`.
        summary: what is written.
        proof: what `check` has found when the export returns.
        suffix: what the target's name must end in.
    """

    implementation: str
    summary: str
    proof: str
    suffix: str = ""


FORMATS = {
    "savedmodel": Entry(
        "savedmodel:SavedModel",
        "the next version in the directory TARGET for TensorFlow Serving, with the signatures serving_default, "
        "predict_image_bytes, classify, features and class_maps",
        "loaded back without Keras, every signature gives the same outputs",
    ),
    "keras-applications": Entry(
        "keras_applications:KerasApplications",
        "the file TARGET.weights.h5 for keras.applications.InceptionV3(weights=…) or InceptionResNetV2",
        "loaded into keras.applications, same outputs",
        ".weights.h5",
    ),
    "timm": Entry(
        "timm:Timm",
        "the file TARGET.safetensors, a PyTorch state dict for timm's inception_v3, inception_v4 and "
        "inception_resnet_v2",
        "read back, the same values",
        ".safetensors",
    ),
    "litert": Entry(
        "litert:LiteRTFormat",
        "the file TARGET.tflite for LiteRT (TensorFlow Lite), with the class names and the preprocessing in it",
        "run by LiteRT beside the model",
        ".tflite",
    ),
    "onnx": Entry(
        "onnx:OnnxFormat",
        "the file TARGET.onnx for ONNX Runtime and others, with the class names and the preprocessing in it",
        "run by ONNX Runtime beside the model",
        ".onnx",
    ),
    "openvino": Entry(
        "openvino:OpenVinoFormat",
        "the files TARGET.xml and TARGET.bin for OpenVINO, with the class names and the preprocessing in the former",
        "run by OpenVINO beside the model",
        ".xml",
    ),
    "stablehlo": Entry(
        "stablehlo:StableHloFormat",
        "the files TARGET.stablehlo and TARGET.safetensors for JAX on processors, GPUs and TPUs, with the class names "
        "and the preprocessing in the latter; needs KERAS_BACKEND=jax",
        "run by JAX beside the model",
        ".stablehlo",
    ),
}

SUFFIXES = ", ".join(entry.suffix for entry in FORMATS.values() if entry.suffix)
# Files that are not taken for the name of a SavedModel's directory.
OTHER_FILES = (".keras", ".h5", ".hdf5", ".pb", ".npz", ".ckpt", ".pth", ".pt", ".zip")


@dataclasses.dataclass(frozen=True)
class Options:
    """How a model is exported. Each format takes some of these (its `options`); `validate` checks them.

    Attributes:
        labels: the class names in order, or the path of a labels file. Default: those in the model's card; else
            ImageNet's for 1001 or 1000 classes; else "class 0", "class 1", ….
        batch: savedmodel: the batch sizes to warm up and, for the server, to batch requests to; the last is the
            largest, and any other is answered too. Other formats: how many images at a time. "dynamic" is any number,
            of a savedmodel 1, 8 and 32; not every accelerator takes it.
        precision: "float32"; "float16" or "bfloat16", weights of half the size; "int8", a quarter, weights and feature
            maps quantized to the ranges seen on images of `calibrate`. Inputs and outputs stay float32. Default: of a
            savedmodel as the model computes, else float32.
        calibrate: for int8, what `find_images` takes: a folder of images such as the model will see, not those that it
            is judged on. Up to 200 are taken evenly.
        held_out: images to compare the export and the model on, besides noise.
        full_integer: for int8: inputs and outputs are int8 too, and no operation stays in float32.
        fuse: whether to write the network of `fuse_for_inference`, which is faster. Its variables are fewer and others
            than the model's: whoever reads them by path exports without. Default: yes, unless in int8. A quantizer
            gives a pooling's input and the ReLU after it one range, so where a convolution was moved before the
            pooling, what is below zero would be cut before it is averaged.
        features: whether a classifier gives `features` too, its second output: PreLogits, float32 N×C. A SavedModel has
            a signature of that name in any case.
        xla: whether to have XLA compile the network (not the decoding), once for every batch size. TensorFlow Serving
            then needs --xla_cpu_compilation_enabled, or --xla_gpu_compilation_enabled, or every call fails.
        top: how many classes `predict_image_bytes` and `classify` return, at most.
        max_pixels: the most pixels (height × width) of an encoded image; a larger one cannot be read. A pixel takes up
            to 18 bytes while it is prepared.
        background: "drop" leaves out class 0, "keep" keeps all. Default: dropped from ImageNet's 1001 classes.
        check: whether to read back what was written and compare it with the model.
        overwrite: whether an existing target may be replaced.
    """

    labels: object = None
    batch: object = "dynamic"
    precision: str | None = None
    calibrate: object = None
    held_out: object = None
    full_integer: bool = False
    fuse: bool | None = None
    features: bool = False
    xla: bool = False
    top: int = 5
    max_pixels: int = 2**25
    background: str | None = None
    check: bool = True
    overwrite: bool = False


def validate(format, given):
    """The `Options` of an export, each within what its format takes, and `batch`, `precision` and `fuse` decided.

    Args:
        format: the `Format`.
        given: a dict of options; those that are None count as not given.

    Raises:
        UsageError: an option that the format does not have, or out of its range.
    """
    given = {name: value for name, value in given.items() if value is not None}
    unknown = [name for name in given if name not in format.options]
    if unknown:
        raise UsageError(
            f"The format {format.name} has no option {', '.join(unknown)}. It has: {', '.join(format.options)}."
        )
    options = Options(**given)
    precision = options.precision or format.precision
    if precision not in (format.precision, *format.precisions):
        raise UsageError(
            f"The format {format.name} has no precision {precision!r}. It has: {', '.join(format.precisions)}."
        )
    if (precision == "int8") != (options.calibrate is not None):
        raise UsageError("The precision int8 needs images to calibrate on (--calibrate DIR), and no other does.")
    if options.full_integer and precision != "int8":
        raise UsageError(f"full_integer is for the precision int8. Received: precision={precision!r}")
    if options.background not in (None, "keep", "drop"):
        raise UsageError(f'background must be "keep", "drop" or None. Received: background={options.background!r}')
    for name in ("top", "max_pixels"):
        if getattr(options, name) < 1:
            raise UsageError(f"`{name}` must be at least 1. Received: {getattr(options, name)}")
    fuse = precision != "int8" if options.fuse is None else bool(options.fuse)
    return dataclasses.replace(options, batch=_batch(format, options.batch), precision=precision, fuse=fuse)


def _batch(format, batch):
    """The batch sizes in ascending order, or the only one of a format that takes one: None for any number."""
    if batch == "dynamic":
        return format.batches
    sizes = set(batch) if isinstance(batch, (tuple, list, set, range)) else {batch}
    if not all(isinstance(size, int) and size > 0 for size in sizes) or not 0 < len(sizes) <= format.max_batches:
        allowed = "one number" if format.max_batches == 1 else f"up to {format.max_batches} sizes"
        raise UsageError(
            f'The `batch` of the format {format.name} is {allowed} of at least 1, or "dynamic". Received: {batch}'
        )
    return sizes.pop() if format.max_batches == 1 else tuple(sorted(sizes))


def export(model, target, format=None, **options):
    """Exports a model.

    Args:
        model: a model of this library.
        target: where to.
        format: one of `FORMATS`; None: by the target's suffix, and of a name that has none a SavedModel.
        **options: the `Options` that the format takes; those that are None count as not given.

    Returns:
        The `Path` written; nothing is, unless all of it succeeds.

    Raises:
        UsageError: no such format, an option that it does not have or out of its range, a package that is not
            installed, a model that the format cannot hold, `target` exists.
        ImageError: no image of `calibrate` or `held_out` could be read.
        ExportError: it cannot be converted or written, or gives other outputs than the model.
    """
    return implementation(format or format_of(target)).export(model, target, **options)


def format_of(target):
    """The format of `FORMATS` that a target's name asks for. Raises a `UsageError` for other files' suffixes."""
    name = Path(target).name.lower()
    if found := [format for format, entry in FORMATS.items() if entry.suffix and name.endswith(entry.suffix)]:
        return found[0]
    if name.endswith(OTHER_FILES):
        raise UsageError(f"No format writes {target}. Name a directory, or a file that ends in {SUFFIXES}.")
    return "savedmodel"


def implementation(format):
    """The `Format` of a name of `FORMATS`. Raises a `UsageError` where there is none."""
    if format not in FORMATS:
        raise UsageError(f"There is no format {format!r}. There are: {', '.join(FORMATS)}.")
    module, name = FORMATS[format].implementation.split(":")
    return getattr(importlib.import_module(f"inception_tf.exports.{module}"), name)()
