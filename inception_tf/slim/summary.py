"""What a checkpoint holds, in a few lines."""

import collections
import fnmatch

import numpy as np

from inception_tf import tables
from inception_tf.errors import listed
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.detect import NEAR, nearest, weights_of
from inception_tf.slim.names import EMA, SLOT, bookkeeping, scoped, shape_text


def summarize(checkpoint, variables=None):
    """Reads every tensor of a checkpoint and sums up what it holds.

    Args:
        checkpoint: what `open_checkpoint` takes.
        variables: a glob of the tensors to list, or None.

    Returns:
        A dict:
            path, container, written_by: what was opened, and what is recorded of the TensorFlow that wrote it.
            step: the training step, or None.
            bytes: of all tensors.
            dtypes: how many tensors there are of each dtype.
            detection: the `Detection`, fitting or not, or None.
            parameters: the numbers in the network's weights.
            averages: how many weights have a moving average.
            optimizers: the optimizers whose slots are there.
            bookkeeping: how many tensors there are for each purpose other than being a weight.
            outside: the tensors outside the network's scope that could be weights, such as another's head.
            notes: what was done to read it, and what of it is not loaded, texts.
            not_finite: the tensors that hold NaN or infinite values.
            tensors: a dict of the tensors listed to (dtype, shape).

    Raises:
        CheckpointError: no checkpoint, or a damaged one.
    """
    checkpoint = open_checkpoint(checkpoint)
    size, not_finite = 0, []
    for name, value in checkpoint.items():
        value = np.asarray(value)
        size += value.nbytes
        if value.dtype.kind in "fV" and not np.isfinite(value.astype("float32")).all():
            not_finite.append(name)
    dtypes = {name: np.dtype(dtype).name for name, dtype in checkpoint.dtypes.items()}
    slots = sorted({match[1] for name in checkpoint if (match := SLOT.search(name))})
    if "beta1_power" in {name.rpartition("/")[2] for name in checkpoint} and "Adam" not in slots:
        slots.append("Adam")
    purposes = filter(None, (bookkeeping(name, checkpoint) for name in checkpoint))
    tensors = fnmatch.filter(checkpoint, variables) if variables else []
    detection = nearest(checkpoint)
    prefix = scoped(detection.scope, "") if detection and detection.match >= NEAR else ""
    return {
        "path": str(checkpoint.path),
        "container": checkpoint.container,
        "written_by": checkpoint.written_by,
        "step": checkpoint.step,
        "bytes": size,
        "dtypes": dict(collections.Counter(dtypes[name] for name in checkpoint).most_common()),
        "detection": detection,
        "parameters": sum(int(np.prod(shape)) for shape in weights_of(checkpoint).values()),
        "averages": sum(name.endswith(EMA) for name in checkpoint),
        "optimizers": slots,
        "bookkeeping": dict(collections.Counter(purposes).most_common()),
        "outside": {name: shape for name, shape in weights_of(checkpoint).items() if not name.startswith(prefix)},
        "notes": checkpoint.notes,
        "not_finite": not_finite,
        "tensors": {name: (dtypes[name], checkpoint.shapes[name]) for name in tensors},
    }


def summary_text(found):
    """What `summarize` returned, as lines of two columns, and a table of the tensors listed."""
    rows = [
        ("checkpoint", found["path"]),
        ("container", found["container"]),
        ("written by", found["written_by"] or "not recorded"),
        ("tensors", f"{_counts(found['dtypes'])}; {found['bytes'] / 1e6:.1f} MB"),
        ("step", found["step"] if found["step"] is not None else "not recorded"),
        *_network(found["detection"]),
        ("parameters", f"{found['parameters']:,}"),
        ("moving averages", f"of {found['averages']} weights" if found["averages"] else "none"),
        ("optimizer", ", ".join(found["optimizers"]) or "none"),
    ]
    if found["bookkeeping"]:
        rows.append(("besides weights", _counts(found["bookkeeping"])))
    if found["outside"]:
        outside = listed((f"{name} {shape_text(shape)}" for name, shape in found["outside"].items()), 8)
        rows.append(("outside the scope", outside))
    rows += [("note", note) for note in found["notes"]]
    if found["not_finite"]:
        rows.append(("WARNING", f"NaN or infinite values in {listed(found['not_finite'], 3)}"))
    tensors = [(name, dtype, shape_text(shape)) for name, (dtype, shape) in found["tensors"].items()]
    listing = "\n\n" + tables.render(tensors, ("tensor", "dtype", "shape")) if tensors else ""
    return tables.render(rows, align="<<") + listing


def _network(found):
    if found is None or found.match < NEAR:
        return [("network", "none known here")]
    if found.match < 1:
        return [("network", f"none fits. Nearest: {found}"), *(("", difference) for difference in found.differences)]
    but = "" if found.statistics else ". Batch norm's moving statistics were not saved: convert --recalibrate"
    sure = f"{found.network}, sure: every variable of its backbone is there with its shape, and no other{but}"
    return [
        ("network", sure),
        ("scope", found.scope or "none"),
        ("classes", found.classes or "no classifier"),
        ("options", ", ".join(f"{name}={value}" for name, value in found.options.items()) or "as published"),
    ]


def _counts(numbers):
    return ", ".join(f"{number} {name}" for name, number in numbers.items())
