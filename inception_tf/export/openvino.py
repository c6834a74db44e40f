"""Keras models to OpenVINO files, for Intel's processors, graphics and neural units."""

import contextlib
import io
import logging
from pathlib import Path

from inception_tf.errors import ExportError, reason
from inception_tf.export import portable
from inception_tf.files import atomic_write, refuse_existing
from inception_tf.inference.runtimes import KEY, OpenVino
from inception_tf.quiet import suppress_stderr


def to_openvino(
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
    """Writes OpenVINO's `.xml` file and its weights beside it, a `.bin` of the same name.

    From `images` (float32 N×H×W×C, preprocessed) to `probabilities` (float32 N×classes). The model's card, with its
    preprocessing and its labels, is in the `.xml` as the runtime information "inception_tf", JSON.

    Args:
        target: the `.xml` file.
        precision: "float32"; "float16", weights of half the size; "int8", a quarter, weights and maps quantized by NNCF
            to the ranges seen on images of `calibrate`. Whether OpenVINO computes in bfloat16 is no matter of the file:
            it does where INFERENCE_PRECISION_HINT says so and the processor can.
        Others as in `to_litert`.

    Returns:
        The `Path` of the `.xml`.

    Raises:
        UsageError: an option out of its range, a package that is not installed, `target` is no `.xml`.
        ImageError: no image of `calibrate` or `held_out` could be read.
        ExportError: the model cannot be converted, or the file answers otherwise than the model.
    """
    target = Path(target)
    weights = target.with_suffix(".bin")
    job = portable.prepare(
        model,
        target,
        ".xml",
        "openvino",
        ("float32", "float16", "int8"),
        ["openvino", "nncf"] if precision == "int8" else ["openvino"],
        labels,
        batch,
        precision,
        calibrate,
        held_out,
        overwrite,
        fuse,
    )
    refuse_existing(weights, overwrite)
    import openvino

    network = _convert(job)
    if precision == "int8":
        network = _quantize(job, network)
    with atomic_write(target, overwrite) as part, atomic_write(weights, overwrite) as weights_part:
        written = part.with_name("network.xml")

        def save(card=None):
            if card:
                network.set_rt_info(card, [KEY])
            try:
                openvino.save_model(network, written, compress_to_fp16=precision == "float16")
            except RuntimeError as error:
                raise ExportError(f"OpenVINO cannot write {target}: {reason(error)}") from error

        save()
        portable.finish(job, written, OpenVino, save, check)
        written.rename(part)
        written.with_suffix(".bin").rename(weights_part)
        # The .bin is replaced before the .xml: no reader may find the old .xml beside the new .bin.
        target.unlink(missing_ok=True)
    return target


def _convert(job):
    """The network as an OpenVINO model in memory."""
    import openvino

    try:
        with suppress_stderr():
            network = openvino.convert_model(portable.frozen(job).graph, input=[(job.batch or -1, *job.image_shape)])
    except Exception as error:  # the converter's own, of many kinds
        raise ExportError(f"OpenVINO cannot convert {job.model.name}: {reason(error)}") from error
    network.inputs[0].set_names({"images"})
    network.outputs[0].set_names({"probabilities" if job.names else "features"})
    return network


def _quantize(job, network):
    """The network in integers."""
    import nncf

    nncf.set_log_level(logging.ERROR)
    images = nncf.Dataset(list(portable.calibration_batches(job)))
    try:
        with contextlib.redirect_stdout(io.StringIO()), suppress_stderr():  # its progress goes to either
            return nncf.quantize(network, images, subset_size=images.get_length())
    except Exception as error:
        raise ExportError(f"NNCF cannot quantize {job.model.name}: {reason(error)}") from error
