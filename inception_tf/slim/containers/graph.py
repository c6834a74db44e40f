"""The nodes of a GraphDef: what feeds what, its dense heads, what it does to its images, and a run of it."""

import collections
import dataclasses
import re

import numpy as np

from inception_tf.errors import CheckpointError, UsageError, raising
from inception_tf.images.labels import load_labels

# What leaves a tensor's values as they are, and what their order too.
PASSING = ("Identity", "ReadVariableOp", "Cast", "StopGradient", "Snapshot", "PlaceholderWithDefault")
SHAPING = (*PASSING, "Reshape", "Squeeze")
POOLING = ("AvgPool", "Mean")
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative", "_FusedConv2D")
DENSE = ("MatMul", "_FusedMatMul")
ADDING = ("BiasAdd", "Add", "AddV2")
ACTIVATIONS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}
# What a network's last feature map comes from, and what reads scores without another making of them.
LAST = ("Concat", "ConcatV2", "Relu", "_FusedConv2D", "_FusedBatchNormEx")
# In a scope of dropout: what does nothing unless it trains.
DROPPING = ("Mul", "RealDiv", "Div", "SelectV2", "Merge", "Switch")
ANSWERS = (*SHAPING, "ArgMax", "TopK", "TopKV2", "NoOp")
BATCH_NORM = re.compile(r"_?FusedBatchNorm(V2|V3|Ex)?")
# What a network computes with, and nothing that reads or writes a file or calls back: a stranger's graph may be run.
RUNNABLE = {
    *(*SHAPING, *POOLING, *CONVOLUTIONS, *DENSE, *ADDING, *ACTIVATIONS),
    *("AddN", "Concat", "ConcatV2", "Const", "ExpandDims", "Fill"),
    *("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "_FusedBatchNormEx"),
    *("BatchNormWithGlobalNormalization", "LRN", "Max", "MaxPool", "Maximum", "Minimum", "Mul", "NoOp", "Pack", "Pad"),
    *("Placeholder", "Prod", "RealDiv", "Relu", "Relu6", "Rsqrt", "Shape", "Slice", "StridedSlice", "Sub", "Sum"),
    *("Floor", "RandomUniform"),  # of dropout
}
# Where retrain.py and the like write the class names, beside the graph.
LABELS = ("retrained_labels.txt", "output_labels.txt", "labels.txt")


@dataclasses.dataclass(frozen=True)
class Head:
    """A dense classifier on pooled features, as retrain.py, Keras and `tf.layers.dense` add one.

    Attributes:
        kernel: the node of its constant features×classes.
        bias: that of its constant of classes, or None.
        features, logits, scores: the nodes of its input, and of its output before and after the activation.
        activation: "softmax", "sigmoid", or None.
    """

    kernel: str
    bias: str | None
    features: str
    logits: str
    scores: str
    activation: str | None


class Graph:
    """A GraphDef.

    Attributes:
        nodes: a dict from names to NodeDefs.
        consumers: a dict from a node's name to pairs of a node that reads it and the position among that one's inputs.
    """

    def __init__(self, graph_def):
        self.graph_def = graph_def
        self.nodes = {node.name: node for node in graph_def.node}
        self.consumers = collections.defaultdict(list)
        for node in self.nodes.values():
            for position, name in enumerate(node.input):
                self.consumers[node_of(name)].append((node, position))

    def back(self, name, ops):
        """The first node, from the tensor `name` against the flow, whose op is none of `ops`; None in a circle."""
        node, seen = self.nodes[node_of(name)], set()
        while node.op in ops and node.input:
            if node.name in seen:
                return None
            seen.add(node.name)
            node = self.nodes[node_of(node.input[0])]
        return node

    def onward(self, name, ops):
        """The (node, position) pairs that read `name`, by way of `ops` or directly."""
        found, seen, names = [], set(), [name]
        while names:
            for node, position in self.consumers[names.pop()]:
                if node.op not in ops or position:
                    found.append((node, position))
                elif node.name not in seen:
                    seen.add(node.name)
                    names.append(node.name)
        return found

    def reached(self, names, graph):
        """The names that can be come to from `names` by `graph`, a function from a name to names."""
        seen, names = set(), list(names)
        while names:
            for name in graph(names.pop()):
                if name not in seen:
                    seen.add(name)
                    names.append(name)
        return seen

    def above(self, name):
        """The names of all nodes that a node depends on."""
        return self.reached([name], lambda name: map(node_of, self.nodes[name].input))

    def below(self, names):
        """The names of all nodes that depend on some nodes."""
        return self.reached(names, lambda name: (reader.name for reader, _ in self.consumers[name]))

    def constant(self, name, rank=None):
        """The Const that a tensor is, of that rank, read directly or by way of others; None where it is none."""
        node = self.back(name, PASSING)
        right = node is not None and node.op == "Const"
        return node if right and rank in (None, len(self.tensor(node.name).tensor_shape.dim)) else None

    def tensor(self, name):
        """The TensorProto of the Const `name`."""
        return self.nodes[name].attr["value"].tensor

    def joined_along(self, name):
        """The axis along which the constant `name` and its neighbors are concatenated; 0 where that is not known."""
        joining = (reader for reader, _ in self.onward(name, PASSING) if reader.op == "ConcatV2")
        axis = next((self._scalar(reader.input[-1]) for reader in joining), None)
        return int(axis or 0)

    def end_point(self, name):
        """The node that is called as the last of a Slim scope `name`; None where there is none."""
        ends = [f"/{name}/{op}" for op in ("concat", "Relu", "MaxPool")]
        return next((node for node in self.nodes if node.endswith(tuple(ends))), None)

    def heads(self):
        """Every `Head` on features of convolutions alone, with no other layer after it."""
        return [head for node in self.nodes.values() if node.op in DENSE and (head := self._head(node))]

    def _head(self, node):
        kernel = self.constant(node.input[1], rank=2)
        if kernel is None or any(node.attr[f"transpose_{side}"].b for side in "ab"):
            return None
        features = self.back(node.input[0], SHAPING)
        while features is not None and features.op in DROPPING and "dropout" in features.name.lower():
            features = self.back(features.input[features.op == "SelectV2"], SHAPING)
        last = self.last_map(features)
        above = {self.nodes[name].op for name in self.above(node.name)}
        below = {self.nodes[name].op for name in self.below([node.name])}
        if last is None or last.op not in LAST or not above & {*CONVOLUTIONS}:
            return None
        if (above | below) & {*DENSE} or below & {*CONVOLUTIONS}:
            return None
        bias, logits = None, node
        if node.op == "_FusedMatMul":
            bias = self.constant(node.input[2], rank=1)
        for adding, position in self.onward(node.name, SHAPING):
            other = self.constant(adding.input[1 - position], rank=1) if adding.op in ADDING else None
            bias, logits = (other, adding) if other is not None else (bias, logits)
        activated = [reader for reader, _ in self.onward(logits.name, SHAPING) if reader.op in ACTIVATIONS]
        if not activated and {self.nodes[name].op for name in self.below([logits.name])} - {*ANSWERS}:
            return None
        scores = activated[0] if activated else logits
        name = bias.name if bias is not None else None
        return Head(kernel.name, name, features.name, logits.name, scores.name, ACTIVATIONS.get(scores.op))

    def last_map(self, features):
        """The node of the feature map that a head's features are, or are pooled from; None where there is none."""
        return self.back(features.name, (*SHAPING, *POOLING)) if features is not None else None

    def input(self):
        """Where images come in: the node, and the (scale, offset) that makes the first convolution's input of them.

        None where that is not known: no convolution is the first, or its input takes another way.
        """
        convolutions = [node for node in self.nodes.values() if node.op in CONVOLUTIONS]
        later = self.below(node.name for node in convolutions)
        first = [node for node in convolutions if node.name not in later]
        if not first:
            return None
        node, scale, offset = self.nodes[node_of(first[0].input[0])], 1.0, 0.0
        for _ in range(len(self.nodes)):
            values = [self._scalar(name) for name in node.input[:2]]
            at = next((i for i, value in enumerate(values) if value is None), None)
            value = values[1 - at] if at is not None and len(values) == 2 else None
            if node.op in (*PASSING, "Pad") and node.input:
                at = 0
            elif value is None:
                break
            elif node.op == "Mul":
                scale *= value
            elif node.op in ("RealDiv", "Div") and at == 0 and value:
                scale /= value
            elif node.op in ("Add", "AddV2"):
                offset += scale * value
            elif node.op == "Sub" and at == 0:
                offset -= scale * value
            else:
                break
            node = self.nodes[node_of(node.input[at])]
        return node, (scale, offset)

    def _scalar(self, name):
        """The one number that a constant holds, however often; None where it holds others, or is none."""
        node = self.constant(name)
        value = splat(self.tensor(node.name)) if node is not None else None
        return value if value is None or np.isfinite(value) else None

    def needed(self, names, entry, also=()):
        """The names of all nodes that some nodes depend on, themselves included, up to the node `entry`, which is fed.

        Raises:
            CheckpointError: one has an operation that is neither among `RUNNABLE` nor among `also`, or is missing.
        """
        try:
            found = self.reached(names, lambda name: () if name == entry else map(node_of, self.nodes[name].input))
            found |= set(names)
            strange = sorted({self.nodes[name].op for name in found - {entry}} - {*RUNNABLE, *also})
        except KeyError as error:
            raise CheckpointError(f"it does not run: its node {error} is missing.") from error
        if strange:
            raise CheckpointError(
                f"it is not run, since it holds operations that no network has: {', '.join(strange[:3])}."
            )
        return found

    def run(self, images, fetches):
        """Runs the graph in TensorFlow.

        Args:
            images: float32 N×H×W×C, as the first convolution takes them.
            fetches: a dict from any names to nodes.

        Returns:
            A dict from those names to numpy arrays.

        Raises:
            CheckpointError: it computes with operations that no network here has, or fails.
        """
        import tensorflow.compat.v1 as tf

        entry, (scale, offset) = self.input()
        needed = self.needed(fetches.values(), entry.name)
        part = tf.GraphDef(versions=self.graph_def.versions)
        part.node.add(name=entry.name, op="Placeholder").attr["dtype"].type = tf.float32.as_datatype_enum
        part.node.extend(self.nodes[name] for name in self.nodes if name in needed and name != entry.name)
        for node in part.node:
            node.attr.pop("_class", None)  # where it is to be placed: beside nodes that may be gone
            node.device = ""
        images = ((np.asarray(images, "float64") - offset) / scale).astype("float32")
        failures = ValueError, TypeError, KeyError, tf.errors.OpError
        with raising(CheckpointError, "it does not run", *failures), tf.Graph().as_default(), tf.Session() as session:
            tf.import_graph_def(part, name="")
            tensors = {key: f"{name}:0" for key, name in fetches.items()}
            # One by one: a frozen graph may be made for batches of one.
            runs = [session.run(tensors, {f"{entry.name}:0": image[None]}) for image in images]
        return {key: np.concatenate([run[key] for run in runs]) for key in fetches}


def node_of(tensor):
    """The node's name in an input: `^a/b` and `a/b:1` give `a/b`."""
    return tensor.removeprefix("^").partition(":")[0]


def splat(tensor):
    """The one number that a TensorProto holds for all its elements; else None."""
    values = np.asarray(tensor.float_val or tensor.double_val or tensor.half_val or tensor.int_val)
    kind = np.dtype({1: "<f4", 2: "<f8", 3: "<i4", 14: "<u2", 19: "<f2"}.get(tensor.dtype, "u1"))
    if not values.size and len(tensor.tensor_content) % kind.itemsize == 0:
        values = np.frombuffer(tensor.tensor_content, kind)
    return float(values[0]) if values.size and (values == values[0]).all() else None


def labels_beside(path, classes):
    """The names of so many classes that lie beside a graph's file, or None; and texts that say which were found."""
    notes = ()
    for file in (path.with_name(name) for name in LABELS):
        if path.is_file() and file.is_file():
            try:
                labels = load_labels(file)
            except UsageError as error:
                notes += (f"class names: not those of {file.name}: {error}",)
                continue
            if len(labels) == classes:
                return labels, (*notes, f"class names: of {file.name}")
            notes += (f"class names: not those of {file.name}, which has {len(labels)} for {classes} classes",)
    return None, notes
