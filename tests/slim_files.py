"""Writes and reads checkpoints with TensorFlow and TF-Slim alone, for the tests."""

import contextlib
import itertools
from pathlib import Path

import numpy as np
import pytest

from inception_tf.slim.checkpoint import Checkpoint
from inception_tf.slim.golden import deterministic_weights

# Every name and block of the network, a hundredth of its weights.
SMALL = {"inception_v3": {"depth_multiplier": 0.1}}


def slow(*values):
    """Parameters of a test that only the long run of the tests takes."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Names(Checkpoint):
    """A checkpoint of names and shapes alone: detection reads no tensor."""

    def __init__(self, shapes):
        super().__init__("model.ckpt", "none", shapes, {})


def build_slim(network="inception_v3", scope=None, size=None, channels=None, **options):
    """TF-Slim's graph in the default graph; returns its variables. Arguments as `slim_graph` takes them."""
    import tensorflow.compat.v1 as tf

    from inception_tf.models.registry import find_network
    from inception_tf.slim import reference

    info = find_network(network)
    size = size or info.input_size
    height, width = size if isinstance(size, tuple) else (size, size)
    options = {"classes": 5, "aux_logits": False, **SMALL.get(network, {}), **options}
    images = tf.placeholder(tf.float32, (1, height, width, channels or info.channels))
    reference.build(network, images, options, info.scope if scope is None else scope)
    return tf.global_variables()


@contextlib.contextmanager
def tf1_session(devices=1):
    """A TensorFlow 1 graph and session, as a context. Of several devices, each gets the next variable."""
    import tensorflow.compat.v1 as tf

    placed = itertools.cycle(f"/cpu:{i}" for i in range(devices))
    config = tf.ConfigProto(device_count={"CPU": devices})
    graph = tf.Graph()
    device = graph.device(lambda op: next(placed) if "Variable" in op.type else "/cpu:0")
    with graph.as_default(), tf.Session(config=config) as session, device:
        yield session


def train_and_save(session, variables, folder, formats):
    """A step of TensorFlow 1's RMSProp with slots and moving averages, then its Saver in some formats.

    Returns:
        Paths by format ("v1", "v2", "sharded_v1", "sharded_v2"), each in a folder with a `checkpoint` file; weights and
        shadows, dicts from the weights' names to arrays; the names of all other tensors.
    """
    import tensorflow.compat.v1 as tf

    step = tf.train.get_or_create_global_step()
    loss = tf.add_n([tf.nn.l2_loss(v) for v in tf.trainable_variables()])
    train = tf.train.RMSPropOptimizer(0.01, momentum=0.9).minimize(loss, global_step=step)
    average = tf.train.ExponentialMovingAverage(0.9999)
    average.apply(variables)
    weights = {v.op.name: deterministic_weights(v.op.name, v.shape) for v in variables}
    shadows = {v.op.name: deterministic_weights(f"shadow/{v.op.name}", v.shape) for v in variables}
    values = {v.initial_value: weights[v.op.name] for v in variables}
    values |= {average.average(v).initial_value: shadows[v.op.name] for v in variables}
    session.run([v.initializer for v in tf.global_variables()], values)
    session.run(train)
    session.run([v.initializer for v in variables], values)
    step.load(20000, session)
    paths = {}
    for format in formats:
        paths[format] = folder / format / "model.ckpt-20000"
        paths[format].parent.mkdir()
        version = {"v1": tf.train.SaverDef.V1, "v2": tf.train.SaverDef.V2}[format[-2:]]
        saver = tf.train.Saver(sharded=format.startswith("sharded"), write_version=version)
        saver.save(session, str(folder / format / "model.ckpt"), 20000, write_meta_graph=False)
    return paths, weights, shadows, {v.op.name for v in tf.global_variables()} - set(weights)


def read_tensors(path):
    """All tensors of a checkpoint by TensorFlow's own reader, a dict from names to arrays."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def holds(checkpoint, tensors):
    """Asserts that an open checkpoint has exactly these tensors, with their shapes and dtypes; True."""
    assert list(checkpoint) == sorted(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(checkpoint[name], value)
        assert (checkpoint.shapes[name], checkpoint.dtypes[name]) == (np.shape(value), value.dtype)
        assert checkpoint[name].dtype == value.dtype
    return True


def write_frozen(path, tensors, scope="import"):
    """Writes tensors as a frozen graph under an import scope; returns the path."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        for name, value in tensors.items():
            tf.identity(tf.constant(value, name=f"{scope}/{name}"), name=f"{scope}/{name}/read")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def write_tensors(path, tensors, format="v2", shards=1):
    """Writes a dict from names to arrays with the operations that TensorFlow's Saver runs; returns the path."""
    import tensorflow as tf

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    names, values = list(tensors), [tf.constant(np.asarray(value)) for value in tensors.values()]
    if format == "v1":
        tf.raw_ops.Save(filename=str(path), tensor_names=names, data=values)
        return path
    parts = [f"{path}_part{i}" for i in range(shards)]
    for i, part in enumerate(parts):
        own = names[i::shards]
        tf.raw_ops.SaveV2(prefix=part, tensor_names=own, shape_and_slices=[""] * len(own), tensors=values[i::shards])
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(path), delete_old_dirs=False)
    return path
