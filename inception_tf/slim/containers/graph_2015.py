"""The graph of 2015-12-05 in a frozen graph: its weights, and the graph itself, which TensorFlow still runs."""

import numpy as np

from inception_tf.errors import CheckpointError
from inception_tf.slim import graph_2015
from inception_tf.slim.containers.graph import Graph, labels_beside, node_of
from inception_tf.slim.graph_2015 import LOGITS, Weights2015, convolutions, damaged

MARK = "mixed_10/tower_2/conv/conv2d_params"
LEGACY = "BatchNormWithGlobalNormalization"
PANDA = "cropped_panda.jpg"
# What it does to a JPEG, beside what every network computes with.
DECODING = ("CheckNumerics", "DecodeJpeg", "ResizeBilinear")
# Operations between a softmax and the multiplication by the classifier's weights.
HEAD = ("Add", "AddV2", "BiasAdd", "Identity", "Reshape")


class Graph2015(Weights2015):
    """The graph of `classify_image_graph_def.pb`, or that of retrain.py with its new head.

    Attributes:
        size: the (height, width) that its images are resized to.
        photograph: the bytes of `cropped_panda.jpg` where that lies beside the graph, or None.
    """

    def __init__(self, path, file, graph_def, container):
        from tensorflow import make_ndarray

        self._graph = Graph(graph_def)
        self._nodes = self._graph.nodes
        self._scope = scope_of(self._nodes)
        batch_norms = [node for node in self._nodes.values() if node.op == LEGACY]
        if not batch_norms:
            raise damaged(path, f"its batch norm, {LEGACY}, is gone. Give the file of the archive, not one optimized")
        self.epsilon = round(batch_norms[0].attr["variance_epsilon"].f, 9)
        self._scaled = batch_norms[0].attr["scale_after_normalization"].b
        self._softmax, self._head = self._find_head()
        for convolution in convolutions():
            for word in ("weights", "beta", "gamma", *graph_2015.MOVING):
                if self._node(convolution, word) is None:
                    raise damaged(path, f"{self._name(convolution, word)} is missing")
        resize = self._nodes.get(f"{self._scope}ResizeBilinear/size")
        if resize is None:
            raise damaged(path, "its images are not resized: ResizeBilinear/size is missing")
        self.size = tuple(int(side) for side in make_ndarray(resize.attr["value"].tensor))
        version = graph_def.versions.producer
        self.written_by = f"a TensorFlow of GraphDef version {version}" if version else None
        scope = f", imported under {self._scope.rstrip('/')}" if self._scope else ""
        super().__init__(path, f"{container} of 2015-12-05{scope}")
        classes = self.shape(LOGITS, "biases")
        if classes:
            self.labels, self.notes = labels_beside(file, classes[0])
        if classes == (graph_2015.CLASSES,):
            self.labels = self.labels or graph_2015.mapped_labels(file.parent)
        panda = file.with_name(PANDA)
        self.photograph = panda.read_bytes() if panda.is_file() else None

    def _find_head(self):
        """The names of the softmax and, by our words, of the classifier's constants: retrain.py's before the own."""
        own = f"{self._scope}softmax"
        names = [node.name for node in self._nodes.values() if node.op == "Softmax"]
        for name in sorted(names, key=lambda name: name == own):
            found, waiting = {}, list(self._nodes[name].input[:1])
            while waiting:
                node = self._nodes[node_of(waiting.pop())]
                if node.op == "MatMul":
                    found["weights"] = self._graph.constant(node.input[1])
                elif node.op in HEAD:
                    waiting += node.input[:1]
                    found["biases"] = self._graph.constant(node.input[1]) if "Add" in node.op else found.get("biases")
            if all(found.get(word) is not None for word in ("weights", "biases")):
                return name, {word: node.name for word, node in found.items()}
        return None, {}

    def _name(self, convolution, word):
        if convolution == LOGITS:
            return self._head.get(word)
        scope = self._scope + convolutions()[convolution][0]
        return f"{scope}/conv2d_params" if word == "weights" else f"{scope}/batchnorm/{word}"

    def _node(self, convolution, word):
        return self._nodes.get(self._name(convolution, word))

    def shape(self, convolution, word):
        node = self._node(convolution, word)
        return node and tuple(dim.size for dim in node.attr["value"].tensor.tensor_shape.dim)

    def tensor(self, convolution, word):
        from tensorflow import make_ndarray

        if word == "gamma" and not self._scaled:
            return None
        try:
            return make_ndarray(self._node(convolution, word).attr["value"].tensor)
        except (ValueError, TypeError) as error:
            raise damaged(self.path, f"{self._name(convolution, word)} cannot be read: {error}") from error

    def end_points(self):
        """The tensors of the graph by our end points: a dict from our layers' names to nodes that are there."""
        names = {ours: self._scope + node for ours, node in graph_2015.end_points().items()}
        if self._softmax:
            names |= {"Logits": node_of(self._nodes[self._softmax].input[0]), "Predictions": self._softmax}
        return {ours: node for ours, node in names.items() if node in self._nodes}

    def run(self, images):
        """TensorFlow's own run of the graph, image by image, since it was written for one.

        Args:
            images: float32 N×H×W×3, as the network takes them, of the size that the graph is for.

        Returns:
            A dict from our end points to float32 arrays, PreLogits N×1×1×2048.
        """
        found = self.end_points()
        runs = self._session(found, f"{self._scope}Mul", [image[np.newaxis] for image in images])
        return {ours: np.concatenate([run[ours] for run in runs]) for ours in found}

    def run_file(self, data):
        """TensorFlow's own run of the graph from a JPEG's bytes to its end points, as `run`, and to "images"."""
        found = {**self.end_points(), "images": f"{self._scope}Mul"}
        return self._session(found, f"{self._scope}DecodeJpeg/contents", [data])[0]

    def _session(self, fetches, fed, values):
        import tensorflow.compat.v1 as tf

        from inception_tf.quiet import no_deprecations

        try:
            self._graph.needed(list(fetches.values()), fed, DECODING)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error
        with no_deprecations(), tf.Graph().as_default() as graph, tf.Session() as session:
            tf.import_graph_def(self._graph.graph_def, name="")
            tensors = {ours: graph.get_tensor_by_name(f"{node}:0") for ours, node in fetches.items()}
            return [session.run(tensors, {f"{fed}:0": value}) for value in values]


def scope_of(nodes):
    """The scope that the graph of 2015-12-05 was imported in, with its slash; None where it is not among `nodes`."""
    return next((name.removesuffix(MARK) for name in nodes if name.endswith(MARK)), None)
