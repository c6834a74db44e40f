"""A frozen graph, `.pb`: a GraphDef whose variables were turned into constants, as TensorFlow 1's freeze_graph does."""

import contextlib
import math
import os
import re

import numpy as np

from inception_tf.errors import CheckpointError, listed, raising
from inception_tf.models.registry import networks
from inception_tf.slim.containers.base import Checkpoint
from inception_tf.slim.containers.graph import (
    BATCH_NORM,
    CONVOLUTIONS,
    DENSE,
    PASSING,
    Graph,
    labels_beside,
    node_of,
    splat,
)
from inception_tf.slim.containers.graph_2015 import Graph2015, scope_of
from inception_tf.slim.names import WORDS, scoped, shape_text, specification

SLIM_WORDS = {*WORDS.values(), "beta", "gamma", "moving_mean", "moving_variance"}
VARIABLE_OPS = ("Variable", "VariableV2", "VarHandleOp")
CALLS = ("PartitionedCall", "StatefulPartitionedCall")
QUANTIZED_OPS = re.compile(r"(Q|Deq|Req)uanti[zs]|FakeQuant")
# What a constant is called that was a variable's reading before constants were folded.
READING = re.compile(r"(/read|/ReadVariableOp(_\d+)?)(/resource)?$")
# What TensorFlow 2 calls what a function captures.
NUMBERED = re.compile(r"(.*/)?(\d+|unknown(_\d+)?)")
# What a batch norm's inputs are.
BATCH_NORM_WORDS = {1: "gamma", 2: "beta", 3: "moving_mean", 4: "moving_variance"}
PART = re.compile(r"/part_(\d+)$")
# A constant of so few numbers is a mean RGB and the like.
SMALL = 4
# How much larger than its file a graph's constants may be: one number can stand for a whole tensor.
SPARE = 1 << 26


class FrozenGraph(Checkpoint):
    """The variables of a frozen graph under their names in a checkpoint: without the scope it was imported in.

    Every other constant that could be weights is among them under its own name, and named in `notes`. The one dense
    head on a network known here is that network's classifier, under the classifier's names.

    Attributes:
        graph: the `Graph`.
        head: the `Head` that became the classifier, or None.
    """

    def __init__(self, path, graph_def, container, size):
        self.path, self.graph = path, Graph(graph_def)
        _refuse_unfit(path, self.graph.nodes)
        heads = self.graph.heads()
        of_heads = {name for head in heads for name in (head.kernel, head.bias) if name}
        # Folding leaves constants behind that nothing reads anymore.
        constants = [n for n in self.graph.nodes.values() if n.op == "Const" and self.graph.consumers[n.name]]
        names = {n.name: name for n in constants if n.name not in of_heads and (name := _variable(self.graph, n))}
        if _is_folded(self.graph, names, of_heads):
            raise CheckpointError(
                f"{path} is a frozen graph with its batch norm folded into the convolutions: the variables are gone. "
                "Give the checkpoint it was frozen from, or freeze it without folding (optimize_for_inference)."
            )
        slim = [name for name in names.values() if _word(name) in SLIM_WORDS] or list(names.values())
        import_scope = "/".join(os.path.commonprefix([name.split("/")[:-1] for name in slim])[:-1])
        others = [n.name for n in constants if n.name not in names and (n.name in of_heads or _like_weights(n))]
        # A tensor's constants in order: several where it was partitioned.
        self._parts = {}
        for node, name in sorted({**names, **dict(zip(others, others))}.items(), key=lambda item: _part(item[1])):
            name = PART.sub("", name).removeprefix(scoped(import_scope, ""))
            self._parts.setdefault(name, []).append(node)
        shapes, dtypes = {}, {}
        for name, parts in self._parts.items():
            shapes[name], dtypes[name] = self._facts(name, parts)
        if sum(math.prod(s) * np.dtype(dtypes[name]).itemsize for name, s in shapes.items()) > 2 * size + SPARE:
            raise CheckpointError(f"{path} is damaged: its constants are larger than the file.")
        if len(heads) == 1:
            self._adopt(heads[0], scoped(import_scope, ""), shapes, dtypes)
        if left := [name for name in (n.removeprefix(scoped(import_scope, "")) for n in others) if name in shapes]:
            several = f"{len(heads)} dense heads, " if len(heads) > 1 else ""
            text = listed((f"{name} {shape_text(shapes[name])}" for name in left), 8)
            self.notes = (*self.notes, f"not loaded, {several}no part of a network known here: {text}")
        version = graph_def.versions.producer
        self.written_by = f"a TensorFlow of GraphDef version {version}" if version else None
        scope = f", imported under {import_scope}" if import_scope else ""
        super().__init__(path, container + scope, shapes, dtypes)

    def _facts(self, name, parts):
        """The shape and the dtype of the tensor that some constants make up."""
        from tensorflow.dtypes import as_dtype

        values = [self.graph.tensor(part) for part in parts]
        shape, *more = (tuple(dim.size for dim in value.tensor_shape.dim) for value in values)
        if more:
            axis = self.graph.joined_along(parts[0])
            shape = (*shape[:axis], sum(size[axis] for size in (shape, *more)), *shape[axis + 1 :])
        with self._errors(name):
            if any(side < 0 for side in shape):
                raise ValueError(f"it is of the shape {shape}")
            return shape, as_dtype(values[0].dtype).as_numpy_dtype

    def _adopt(self, head, prefix, shapes, dtypes):
        """Makes a dense head the classifier of the network that it stands on."""
        parts = {part for name in shapes for part in name.split("/")[:-1]}
        info = next((info for info in networks().values() if info.scope in parts), None)
        if info is None:
            return
        last = self.graph.last_map(self.graph.nodes[head.features])
        if not any(re.fullmatch(rf"{info.scope}(_\d+)?", part) for part in last.name.split("/")[:-1]):
            return  # something of the graph's own comes between
        first = next(name for name in shapes if info.scope in name.split("/")[:-1])
        scope = "/".join(first.split("/")[: first.split("/").index(info.scope) + 1])
        published = specification(info.name)
        own = {scoped(scope, name): shape for name, shape in published.items() if name.split("/")[0] == info.heads[0]}
        if len(own) != 2 or any(name in shapes for name in own):
            return
        (kernel, bias), rank = sorted(own, key=lambda name: -len(own[name])), max(map(len, own.values()))
        found = head.kernel.removeprefix(prefix)
        inputs, classes = shapes.pop(found)
        dtypes[kernel] = dtypes[bias] = dtypes[found]
        shapes[kernel], shapes[bias] = (*(1,) * (rank - 2), inputs, classes), (classes,)
        self._parts[kernel], self._parts[bias] = [head.kernel], [head.bias] if head.bias else []
        shapes.pop(head.bias and head.bias.removeprefix(prefix), None)
        self.head, self.options = head, {"classifier_activation": head.activation}
        self._ends = {info.heads[0]: head.logits, **dict.fromkeys(("PreLogits", "global_pool"), head.features)}
        self._ends |= dict.fromkeys(("Predictions", "predictions"), head.scores)
        self.notes = (f"classifier: {found} {shape_text((inputs, classes))}, loaded as {kernel}",)
        if entry := self.graph.input():
            self._read_input(*entry)
        self.labels, notes = labels_beside(self.path, classes)
        self.notes += notes

    def _read_input(self, node, scaling):
        """What the graph says of its images: their size, and the range that it scales itself."""
        scale, offset = scaling
        sides = [dim.size for dim in node.attr["shape"].shape.dim][1:]
        if len(sides) == 3 and all(side > 0 for side in sides):
            self.options["input_shape"] = tuple(sides)
        if (scale, offset) != (1, 0):
            # A TF-Hub module's images are of [0, 1]; retrain.py and label_image.py resize them whole.
            self.preprocessing = {"central_fraction": 1.0}
            low, high = (-1 - offset) / scale, (1 - offset) / scale
            self.notes += (f"images: whole, without a central crop; the graph scales [{low:g}, {high:g}] to [-1, 1]",)

    def read(self, name):
        from tensorflow import make_ndarray

        with self._errors(name):
            parts = [make_ndarray(self.graph.tensor(part)) for part in self._parts[name]]
            if not parts:  # a head without a bias
                return np.zeros(self.shapes[name], self.dtypes[name])
            whole = np.concatenate(parts, self.graph.joined_along(self._parts[name][0])) if parts[1:] else parts[0]
            return whole.reshape(self.shapes[name])

    def run(self, images, end_points):
        """The graph's own run of what it has of some end points, in TensorFlow.

        Args:
            images: float32 N×H×W×C, preprocessed as the network's.
            end_points: a dict from the network's names to shapes.

        Returns:
            A dict from names to arrays of those shapes.

        Raises:
            CheckpointError: it cannot be run; see `Graph.run`.
        """
        known = {name: node for name in end_points if (node := self._ends.get(name) or self.graph.end_point(name))}
        try:
            found = self.graph.run(images, known)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path} cannot be compared with: {error}") from error
        fits = {name for name, value in found.items() if value.size == math.prod((len(images), *end_points[name][1:]))}
        return {name: found[name].reshape(end_points[name]) for name in found if name in fits}

    def _errors(self, name):
        what = f"{self.path} is damaged: its constant {name} cannot be read"
        return raising(CheckpointError, what, ValueError, TypeError, KeyError, MemoryError)


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
    return FrozenGraph(source, graph_def, "frozen GraphDef", path.stat().st_size)


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
        absent = [name for name in map(node_of, node.input) if name not in nodes]
        if absent:
            raise CheckpointError(f"{path} is damaged or incomplete: {node.name} reads {absent[0]}, which is missing.")
    ops = {node.op for node in nodes.values()}
    if ops & {*CALLS} and not ops & {*CONVOLUTIONS}:
        raise CheckpointError(
            f"{path} is a graph whose network lies in functions that it calls ({', '.join(sorted(ops & {*CALLS}))}). "
            "Freeze it with convert_variables_to_constants_v2 of TensorFlow, which puts them in their place."
        )
    unfrozen = [node.name for node in nodes.values() if node.op in VARIABLE_OPS]
    if unfrozen:
        raise CheckpointError(
            f"{path} is a graph without its weights: {len(unfrozen)} variables are not frozen, {unfrozen[0]} among "
            "them. Give the checkpoint that belongs to it."
        )
    quantized = sorted(op for op in ops if QUANTIZED_OPS.search(op))
    if quantized:
        raise CheckpointError(
            f"{path} is a quantized graph ({', '.join(quantized[:3])}): the original weights are gone. "
            "Give the checkpoint it was frozen from."
        )


def _word(name):
    return PART.sub("", name).rpartition("/")[2]


def _part(name):
    """A key to sort by: part_2 comes before part_10."""
    match = PART.search(name)
    return (PART.sub("", name), int(match[1])) if match else (name, 0)


def _variable(graph, node):
    """The name of the variable that a constant was, or None: it is read as TensorFlow 1 reads variables, or called as
    Slim calls them, or as what read them."""
    name = READING.sub("", node.name)
    if _word(name) in SLIM_WORDS:
        return name
    reader = graph.nodes.get(f"{node.name}/read")
    if reader is not None and reader.op == "Identity" and reader.input[:1] == [node.name]:
        return node.name
    return _name_by_use(graph, node) if name != node.name or NUMBERED.fullmatch(name) else None


def _name_by_use(graph, node):
    """The name that Slim has for what a layer's operation reads from the constant; None where it has none."""
    for reader, position in graph.onward(node.name, PASSING):
        parent = re.sub(r"(^|/)([^/]+)/\2/", r"\1\2/", reader.name).rpartition("/")[0]  # name scopes open twice
        parent = parent.removesuffix("/separable_conv2d")
        if BATCH_NORM.fullmatch(reader.op) and position in BATCH_NORM_WORDS:
            return scoped(parent, BATCH_NORM_WORDS[position])
        if reader.op in (*CONVOLUTIONS, *DENSE) and position == 1:
            after = graph.back(reader.input[0], PASSING)
            pointwise = after is not None and after.op == "DepthwiseConv2dNative"
            kind = "pointwise_" if pointwise else "depthwise_" if reader.op == "DepthwiseConv2dNative" else ""
            return scoped(parent, f"{kind}weights")
        if reader.op == "BiasAdd" and position == 1:
            return scoped(parent, "biases")
    return None


def _like_weights(node):
    """Whether a constant's numbers could have been learned: floats, several, not all the same."""
    tensor = node.attr["value"].tensor
    sides = [dim.size for dim in tensor.tensor_shape.dim]
    return tensor.dtype in (1, 2, 14, 19) and math.prod(sides) > SMALL and splat(tensor) is None


def _is_folded(graph, names, of_heads):
    """Whether batch norm was folded: its variables are gone, but its name is left, or a bias that was no variable."""
    if any("/BatchNorm/" in name for name in names.values()):
        return False
    biases = [graph.constant(node.input[1]) for node in graph.nodes.values() if node.op == "BiasAdd"]
    known = {*names, *of_heads}
    return any("/BatchNorm/" in name for name in graph.nodes) or any(
        bias is not None and bias.name not in known for bias in biases
    )
