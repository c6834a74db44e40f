"""A TensorFlow 1 SavedModel: a directory with `saved_model.pb`, and what the Saver writes in `variables/`."""

from inception_tf.errors import CheckpointError
from inception_tf.slim.containers import saver
from inception_tf.slim.containers.graph_def import FrozenGraph, parse


def open_here(given, place):
    """The SavedModel whose directory, or `saved_model.pb`, is `place`; None where it is something else."""
    directory = place.parent if place.name == "saved_model.pb" else place
    file = directory / "saved_model.pb"
    if not file.is_file():
        return None
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    graph = parse(SavedModel, "meta_graphs", file, given).meta_graphs[0]
    if not (directory / "variables").is_dir():
        checkpoint = FrozenGraph(given, graph.graph_def, "SavedModel of a frozen graph")
    else:
        checkpoint = saver.open_here(given, directory / "variables" / "variables")
        checkpoint.container = f"SavedModel, variables in {checkpoint.container}"
    if any(name.endswith("/.ATTRIBUTES/VARIABLE_VALUE") for name in checkpoint):
        raise CheckpointError(
            f"{given} is a SavedModel of TensorFlow 2 or Keras: its variables go by objects, not by Slim's names. "
            "Give the .keras file or the Slim checkpoint that it was exported from."
        )
    checkpoint.written_by = saver.tensorflow_of(graph)
    return checkpoint
