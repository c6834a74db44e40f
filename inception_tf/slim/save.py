"""A Keras model's weights as a Slim checkpoint, which TF-Slim itself restores."""

from pathlib import Path

import numpy as np

from inception_tf.errors import InceptionTFError, UsageError, raising
from inception_tf.files import atomic_write, refuse_existing
from inception_tf.models.fused import refuse_fused
from inception_tf.slim.names import model_variables, scoped


def save_slim(model, path, format="v2", scope=None, overwrite=False):
    """Writes a model's variables under Slim's names, for `tf.compat.v1.train.Saver` to restore.

    Args:
        model: a model of this library.
        path: the prefix of a V2 checkpoint (`path.index` and `path.data-00000-of-00001` are written), or the V1 file.
        format: "v2" or "v1".
        scope: the variable scope to write. Default: the model's own.
        overwrite: whether an existing checkpoint may be replaced.

    Returns:
        The `Path` written, a prefix where it is a V2 checkpoint.

    Raises:
        UsageError: unknown format, the path exists, no scope is known, or the model is fused.
        InceptionTFError: the operating system refused to write.
    """
    import tensorflow as tf

    if format not in ("v1", "v2"):
        raise UsageError(f'format must be "v2" or "v1". Received: format={format!r}')
    path = Path(path)
    refuse_fused(model, "A Slim checkpoint")
    if getattr(model, "card", None) and model.card.options.get("head_blocks"):
        raise UsageError(
            f"{model.name} classifies by several blocks (head_blocks), which Slim's networks do not. Fine-tuned by "
            "--recipe slim from other weights it can be saved."
        )
    if scope is None:
        if getattr(model, "card", None) is None:
            raise UsageError(f"{model.name} is no model of this library: give the variable scope to write, scope=.")
        scope = model.card.scope
    variables = {scoped(scope, name): variable for name, variable in sorted(model_variables(model).items())}
    names = list(variables)
    tensors = [tf.constant(np.asarray(variable), tf.float32) for variable in variables.values()]
    index, data = v2_files(path)
    for file in (path, index, data):
        refuse_existing(file, overwrite)
    disk = raising(InceptionTFError, f"Cannot write {path}", tf.errors.OpError)
    if format == "v1":
        with atomic_write(path, overwrite) as part, disk:
            tf.raw_ops.Save(filename=str(part), tensor_names=names, data=tensors)
        # A V2 checkpoint of the same name would be read in its place.
        index.unlink(missing_ok=True)
        data.unlink(missing_ok=True)
        return path
    # The index is renamed last: a reader finds the checkpoint by it.
    with atomic_write(index, overwrite) as index_part, atomic_write(data, True) as data_part, disk:
        prefix = index_part.with_suffix("")
        tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
        prefix.with_name(prefix.name + ".data-00000-of-00001").rename(data_part)
    return path


def v2_files(path):
    """The paths of the index and of the data that `save_slim` writes for the prefix `path`."""
    return tuple(path.with_name(path.name + suffix) for suffix in (".index", ".data-00000-of-00001"))
