"""A frozen graph, `.pb`: a GraphDef whose variables were turned into constants, as TensorFlow 1's freeze_graph does."""

import contextlib
import os
import re

from inception_tf.errors import CheckpointError
from inception_tf.slim.containers.base import Checkpoint
from inception_tf.slim.containers.graph_2015 import Graph2015, scope_of
from inception_tf.slim.names import WORDS, scoped

SLIM_WORDS = {*WORDS.values(), "beta", "gamma", "moving_mean", "moving_variance"}
VARIABLE_OPS = ("Variable", "VariableV2", "VarHandleOp")
QUANTIZED_OPS = re.compile(r"(Q|Deq|Req)uanti[zs]|FakeQuant")


class FrozenGraph(Checkpoint):
    """The variables of a frozen graph under their names in a checkpoint: without the scope it was imported in."""

    def __init__(self, path, graph_def, container):
        nodes = {node.name: node for node in graph_def.node}
        _refuse_unfit(path, nodes)
        # Folding leaves constants behind that nothing reads anymore.
        read = {_node_of(name) for node in nodes.values() for name in node.input}
        variables = [node for name, node in nodes.items() if name in read and _is_variable(nodes, node)]
        constants = {node.name: node.attr["value"].tensor for node in variables}
        if _is_folded(nodes, constants):
            raise CheckpointError(
                f"{path} is a frozen graph with its batch norm folded into the convolutions: the variables are gone. "
                "Give the checkpoint it was frozen from, or freeze it without folding (optimize_for_inference)."
            )
        parents = [name.split("/")[:-1] for name in constants]
        import_scope = "/".join(os.path.commonprefix(parents)[:-1])
        self._constants = {n.removeprefix(scoped(import_scope, "")): constant for n, constant in constants.items()}
        version = graph_def.versions.producer
        self.written_by = f"a TensorFlow of GraphDef version {version}" if version else None

        from tensorflow.dtypes import as_dtype

        shapes = {name: tuple(dim.size for dim in c.tensor_shape.dim) for name, c in self._constants.items()}
        dtypes = {name: as_dtype(c.dtype).as_numpy_dtype for name, c in self._constants.items()}
        scope = f", imported under {import_scope}" if import_scope else ""
        super().__init__(path, container + scope, shapes, dtypes)

    def read(self, name):
        from tensorflow import make_ndarray

        try:
            return make_ndarray(self._constants[name])
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{self.path} is damaged: its constant {name} cannot be read: {error}") from error


def try_open(source, path):
    """The frozen graph in the file `path`, or None where it is not called `.pb`."""
    if path.suffix == ".pbtxt" and path.is_file():
        raise CheckpointError(f"{source} is a graph as text. Give the checkpoint, or the graph frozen in binary (.pb).")
    if path.suffix != ".pb" or not path.is_file():
        return None
    from tensorflow.compat.v1 import GraphDef

    graph_def = parse(GraphDef, "node", path, source)
    if scope_of(node.name for node in graph_def.node) is not None:
        return Graph2015(source, path, graph_def, "frozen GraphDef")
    return FrozenGraph(source, graph_def, "frozen GraphDef")


def parse(message, field, file, source):
    """The protocol buffer in a file: of the class `message`, with something in its `field`.

    Raises:
        CheckpointError: there is none. `source` is what the message calls it.
    """
    from google.protobuf.message import DecodeError

    data = file.read_bytes()
    with contextlib.suppress(DecodeError):
        parsed = message.FromString(data)
        if getattr(parsed, field):
            return parsed
    why = "it is empty" if not data else "it is text" if data[:64].isascii() and b"{" in data[:64] else "or damaged"
    raise CheckpointError(f"{source} is no checkpoint: {file.name} is no {message.__name__} in binary, {why}.")


def _refuse_unfit(path, nodes):
    """Raises a `CheckpointError` for a graph that is cut off, not frozen, or quantized."""
    for node in nodes.values():
        absent = [name for name in map(_node_of, node.input) if name not in nodes]
        if absent:
            raise CheckpointError(f"{path} is damaged or incomplete: {node.name} reads {absent[0]}, which is missing.")
    unfrozen = [node.name for node in nodes.values() if node.op in VARIABLE_OPS]
    if unfrozen:
        raise CheckpointError(
            f"{path} is a graph without its weights: {len(unfrozen)} variables are not frozen, {unfrozen[0]} among "
            "them. Give the checkpoint that belongs to it."
        )
    quantized = sorted({node.op for node in nodes.values() if QUANTIZED_OPS.search(node.op)})
    if quantized:
        raise CheckpointError(
            f"{path} is a quantized graph ({', '.join(quantized[:3])}): the original weights are gone. "
            "Give the checkpoint it was frozen from."
        )


def _is_variable(nodes, node):
    """Whether a node was a variable: it is read as TensorFlow 1 reads variables, or called as Slim calls them."""
    if node.op != "Const":
        return False
    reader = nodes.get(f"{node.name}/read")
    is_read = reader is not None and reader.op == "Identity" and reader.input[:1] == [node.name]
    return is_read or node.name.rpartition("/")[2] in SLIM_WORDS


def _is_folded(nodes, constants):
    """Whether batch norm was folded: its variables are gone, but its name is left, or a bias that was no variable."""
    if any("/BatchNorm/" in name for name in constants):
        return False
    biases = [_source(nodes, name) for node in nodes.values() if node.op == "BiasAdd" for name in node.input[1:2]]
    return any("/BatchNorm/" in name for name in nodes) or any(
        bias.op == "Const" and bias.name not in constants for bias in biases
    )


def _source(nodes, name):
    """The node that a tensor comes from, an Identity between them left out."""
    node = nodes[_node_of(name)]
    return nodes[_node_of(node.input[0])] if node.op == "Identity" and node.input else node


def _node_of(tensor):
    """The node's name in an input: `^a/b` and `a/b:1` give `a/b`."""
    return tensor.removeprefix("^").partition(":")[0]
