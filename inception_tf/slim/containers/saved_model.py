"""A TensorFlow 1 SavedModel: a directory with `saved_model.pb`, and what the Saver writes in `variables/`."""

from inception_tf.errors import CheckpointError
from inception_tf.files import refuse_lfs_pointer
from inception_tf.slim.containers import saver
from inception_tf.slim.containers.graph_def import FrozenGraph, parse


def try_open(source, path):
    """The SavedModel whose directory, or `saved_model.pb`, is `path`; None where it is something else."""
    directory = path.parent if path.name == "saved_model.pb" else path
    file = directory / "saved_model.pb"
    if not file.is_file():
        return None
    for part in (file, *directory.glob("variables/*")):
        refuse_lfs_pointer(part)
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    from inception_tf.slim.translations import VALUE, translated

    graph = parse(SavedModel, "meta_graphs", file, source).meta_graphs[0]
    if not (directory / "variables").is_dir():
        checkpoint = FrozenGraph(source, graph.graph_def, "SavedModel of a frozen graph", file.stat().st_size)
    else:
        checkpoint = saver.try_open(source, directory / "variables" / "variables")
        checkpoint.container = f"SavedModel, variables in {checkpoint.container}"
    checkpoint.written_by = saver.tensorflow_of(graph)
    checkpoint = translated(checkpoint)
    if any(name.endswith(VALUE) for name in checkpoint):
        raise CheckpointError(
            f"{source} is a SavedModel of TensorFlow 2 or Keras: its variables go by objects, not by Slim's names. "
            "Give the .keras file or the Slim checkpoint that it was exported from."
        )
    return checkpoint
