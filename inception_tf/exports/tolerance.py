"""How far the outputs of an export may be from its model's."""

import numpy as np

from inception_tf.errors import ExportError

# The largest difference allowed, over the largest value of the output. TensorFlow fuses layers where Keras runs them
# one by one, and sixteen bits are rounded less often then. Beside a float32 model bfloat16, whose mantissa has three
# bits less than float16's, may differ by eight times as much.
TOLERANCES = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 8e-2}


def tolerance_of(model, precision=None):
    """The tolerance for an export of `model` that computes in `precision`: as the model does where that is None."""
    rounded = {layer.compute_dtype for layer in model.layers} - {"float32"}
    if rounded and precision in (None, *rounded):
        return TOLERANCES["float16"]
    return max(TOLERANCES[dtype] for dtype in (*rounded, precision or "float32"))


def relative_difference(got, wanted):
    """The largest difference over the largest value wanted."""
    return float(np.abs(got - wanted).max() / max(np.abs(wanted).max(), np.finfo("float32").tiny))


def advice(precision):
    """What to do where an export of `precision` differs too much, to go behind what moved; empty for float32."""
    if precision == "int8":
        return (
            " Calibrate on more photographs, of the kind that the model will see (up to 200 are taken), keep the "
            "network unfused, or export in 16 bits or in float32."
        )
    if precision in ("float16", "bfloat16"):
        finer = " in float16, which is finer, or" if precision == "bfloat16" else ""
        return (
            f" {precision} rounds too coarsely for these weights, as for a classifier that was not trained: export"
            f"{finer} in float32. Or write it unchecked (--no-check, check=False), and evaluate it on photographs."
        )
    return ""


def checked_difference(what, got, wanted, tolerance, precision=None):
    """The `relative_difference` of what an export gives and what its model gives.

    Args:
        precision: the export's, for the `advice`.

    Raises:
        ExportError: it is larger than `tolerance`; other shapes or types; values that are not finite.
    """
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        shapes = f"{got.dtype} {got.shape}, where the Keras model gives {wanted.dtype} {wanted.shape}"
        raise ExportError(f"The export's {what} is {shapes}.")
    for whose, values in ("Keras model's own", wanted), ("export's", got):
        if not np.isfinite(values).all():
            raise ExportError(f"The {whose} {what} holds NaN or infinity: are the model's weights broken?")
    difference = relative_difference(got, wanted)
    if not difference <= tolerance:
        raise ExportError(
            f"The export's {what} differs from the Keras model's by {difference:.1e} of its maximum "
            f"(limit {tolerance:g}).{advice(precision)}"
        )
    return difference
