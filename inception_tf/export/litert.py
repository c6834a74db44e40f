"""Keras models to `.tflite` files, for LiteRT (TensorFlow Lite) on telephones, small boards and servers."""

import warnings
import zipfile
from functools import partial
from pathlib import Path

from inception_tf.errors import ExportError, UsageError, reason
from inception_tf.export import portable
from inception_tf.files import atomic_write
from inception_tf.inference.runtimes import CARD, LiteRT
from inception_tf.quiet import suppress_stderr

LABELS = "labels.txt"


def to_litert(
    model,
    target,
    labels=None,
    batch="dynamic",
    precision="float32",
    calibrate=None,
    held_out=None,
    full_integer=False,
    check=True,
    overwrite=False,
    fuse=None,
):
    """Writes a `.tflite` file, from `images` (N×H×W×C, preprocessed) to N×classes probabilities.

    A zip archive behind the network, where TensorFlow Lite keeps a model's associated files, holds `labels.txt`, a
    class name a line, and `inception_tf.json`, the model's card with its preprocessing: `unzip -l` shows them, and
    LiteRT passes over them.

    Args:
        model: a model of this library, in float32, on Keras's TensorFlow backend.
        target: the file to write.
        labels: the class names, a list or a file. Default: as `export_savedmodel`.
        batch: how many images at a time, or "dynamic": any number. Not every accelerator takes the latter.
        precision: "float32"; "float16", weights of half the size; "int8", a quarter, weights and maps quantized to the
            ranges seen on images of `calibrate`.
        calibrate: for int8, what `find_images` takes: a folder of images such as the model will see, not those that it
            is judged on. Up to 200 are taken evenly.
        held_out: images to compare the export and the model on, besides noise.
        full_integer: for int8: inputs and outputs are int8 too, and no operation stays in float32.
        check: whether to run the file and compare it with the model.
        overwrite: whether an existing `target` may be replaced.
        fuse: whether to write the network of `fuse_for_inference`. Default: yes, unless in int8, which
            would be coarser (`fusion`).

    Returns:
        The `Path` written.

    Raises:
        UsageError: an option out of its range, LiteRT is not installed.
        ImageError: no image of `calibrate` or `held_out` could be read.
        ExportError: the model cannot be converted, or the file answers otherwise than the model.
    """
    job = portable.prepare(
        model,
        target,
        ".tflite",
        "litert",
        ("float32", "float16", "int8"),
        ["ai_edge_litert"],
        labels,
        batch,
        precision,
        calibrate,
        held_out,
        overwrite,
        fuse,
    )
    if full_integer and precision != "int8":
        raise UsageError(f"full_integer is for the precision int8. Received: precision={precision!r}")
    with atomic_write(target, overwrite) as part:
        part.write_bytes(_convert(job, full_integer))
        portable.finish(job, part, LiteRT, partial(_attach, part, job.names), check, full_integer=bool(full_integer))
    return Path(target)


def _attach(part, names, card):
    """Appends the archive of the card and the class names."""
    with zipfile.ZipFile(part, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(CARD, card)
        if names:
            archive.writestr(LABELS, "".join(f"{name}\n" for name in names))


def _convert(job, full_integer):
    """The bytes of the network's flatbuffer."""
    import tensorflow as tf

    try:
        with suppress_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converter = tf.lite.TFLiteConverter.from_concrete_functions([portable.frozen(job)])
            if job.precision != "float32":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if job.precision == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if job.calibration is not None:
                converter.representative_dataset = lambda: ([images] for images in portable.calibration_batches(job))
            if full_integer:
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.inference_input_type = converter.inference_output_type = tf.int8
            return converter.convert()
    except Exception as error:  # the converter's own, of many kinds
        raise ExportError(f"LiteRT's converter cannot convert {job.model.name}: {reason(error)}") from error
