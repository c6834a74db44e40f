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


def checked_difference(what, got, wanted, tolerance):
    """The `relative_difference` of what an export gives and what its model gives.

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
            f"(limit {tolerance:g})."
        )
    return difference
