"""The graph of 2015-12-05: its names and its PyTorch ports' beside Slim's, and its weights in our network's form.

The graph is `classify_image_graph_def.pb` of inception-2015-12-05.tgz, and what TensorFlow's retrain.py made of it.
"""

import functools
import itertools
import re

import numpy as np

from inception_tf.errors import CheckpointError
from inception_tf.models.registry import find_network
from inception_tf.slim.containers.base import Checkpoint
from inception_tf.slim.names import scoped, specification

NETWORK = "inception_2015"
CLASSES = 1008
EPSILON = 1e-3  # of our batch norm
LOGITS = "Logits/Conv2d_1c_1x1"
LABEL_MAP = ("imagenet_2012_challenge_label_map_proto.pbtxt", "imagenet_synset_to_human_label_map.txt")
MOVING = ("moving_mean", "moving_variance")

BRANCHES = {
    "Mixed_5.": ("branch1x1", "branch5x5", "branch3x3dbl", "branch_pool"),
    "Mixed_6a": ("branch3x3", "branch3x3dbl", None),
    "Mixed_6.": ("branch1x1", "branch7x7", "branch7x7dbl", "branch_pool"),
    "Mixed_7a": ("branch3x3", "branch7x7x3", None),
    "Mixed_7.": ("branch1x1", "branch3x3", "branch3x3dbl", "branch_pool"),
}


def branches(block):
    """What Slim of March 2016, torchvision and timm call the branches of a block of Inception-v3; None: a pooling."""
    return next(names for pattern, names in BRANCHES.items() if re.fullmatch(pattern, block))


@functools.cache
def convolutions():
    """The 94 convolutions, a dict from Slim's scopes to (the scope in the graph, the module in the PyTorch ports)."""
    variables = specification(NETWORK, include_top=False)
    scopes = [name.removesuffix("/weights") for name in variables if name.endswith("/weights")]
    alone = [scope for scope in scopes if "/" not in scope]
    names = {scope: (_numbered("conv", i), scope) for i, scope in enumerate(alone)}
    blocks = itertools.groupby([scope for scope in scopes if "/" in scope], lambda scope: scope.split("/")[0])
    for number, (block, members) in enumerate(blocks):
        own_branches = itertools.groupby(members, lambda scope: scope.split("/")[1])
        for branch, (module, (_, steps)) in enumerate(zip(branches(block), own_branches)):
            # Where the first branch is one convolution, it is in no tower.
            tower = branch if block == "Mixed_7a" else branch - 1
            parent = _numbered("mixed", number) + (f"/{_numbered('tower', tower)}" if tower >= 0 else "")
            for scope, *own in _steps(list(steps), forks=block in ("Mixed_7b", "Mixed_7c")):
                names[scope] = (f"{parent}/{own[0]}", f"{block}.{module}{own[1]}")
    return names


def _steps(scopes, forks):
    """Yields for the convolutions of a branch: Slim's scope, the name in the graph, what the port's name ends in."""
    straight = len(scopes) - 2 if forks and len(scopes) > 2 else len(scopes)
    for i, scope in enumerate(scopes):
        if i < straight:
            yield scope, _numbered("conv", i), f"_{i + 1}" if len(scopes) > 1 else ""
        else:
            yield scope, f"mixed/{_numbered('conv', i - straight)}", f"_{straight + 1}{'ab'[i - straight]}"


def end_points():
    """The graph's end points by our names, but for those of the head: a dict from our layers to nodes."""
    blocks = list(dict.fromkeys(scope.split("/")[0] for scope in convolutions() if "/" in scope))
    alone = {scope: name for scope, (name, _) in convolutions().items() if "/" not in scope}
    joined = {block: f"{_numbered('mixed', i)}/join" for i, block in enumerate(blocks)}
    return {**alone, "MaxPool_3a_3x3": "pool", "MaxPool_5a_3x3": "pool_1", **joined, "PreLogits": "pool_3"}


def _numbered(word, number):
    return f"{word}_{number}" if number else word


class Weights2015(Checkpoint):
    """The weights of the graph under Slim's names and the scope of our network, which has no gamma.

    gamma · (x·W − mean) / √(variance + ε) + beta is (x·(W·gamma) − mean·gamma) / √(variance + ε) + beta: computed in
    float64, rounded once.

    Attributes:
        labels: the class names that lie beside the file, a list, or None.
    """

    epsilon = EPSILON

    def __init__(self, path, container):
        shapes, self._parts = {}, {}  # the latter of our variables: the convolution's scope, and a word for `tensor`

        def add(convolution, word, shape, norm=""):
            name = scoped(find_network(NETWORK).scope, f"{convolution}/{norm}{word}")
            shapes[name], self._parts[name] = shape, (convolution, word)

        for convolution in convolutions():
            kernel = self.shape(convolution, "weights")
            add(convolution, "weights", kernel)
            for word in ("beta", *MOVING):
                add(convolution, word, kernel[-1:], "BatchNorm/")
        if head := self.shape(LOGITS, "weights"):
            add(LOGITS, "weights", (1, 1, *head))
            add(LOGITS, "biases", head[-1:])
        super().__init__(path, container, shapes, dict.fromkeys(shapes, np.dtype("float32")))

    def shape(self, convolution, word):
        """The shape of what `tensor` gives; None where there is none."""
        raise NotImplementedError

    def tensor(self, convolution, word):
        """A tensor of the file: "weights", "beta", "gamma" … of a convolution of Slim's scope; None for no gamma.

        A convolution's weights are height×width×in×out, the classifier's in×out.
        """
        raise NotImplementedError

    def read(self, name):
        convolution, word = self._parts[name]
        value = self.tensor(convolution, word).astype("float64")
        if word in ("weights", "moving_mean") and convolution != LOGITS:
            gamma = self.tensor(convolution, "gamma")
            value = value if gamma is None else value * gamma
        if word == "moving_variance" and abs(self.epsilon - EPSILON) > 1e-9:
            value += self.epsilon - EPSILON
        return value.astype("float32").reshape(self.shapes[name])


def mapped_labels(folder):
    """The class names of the archive's label map in a folder, a list; None where it is not there.

    Classes that were never used are called `class 0` and the like.
    """
    numbers, words = (folder / name for name in LABEL_MAP)
    if not numbers.is_file() or not words.is_file():
        return None
    human = dict(line.split("\t", 1) for line in words.read_text("utf-8", "replace").splitlines() if "\t" in line)
    labels = [f"class {i}" for i in range(CLASSES)]
    pairs = re.findall(r'target_class:\s*(\d+)\s+target_class_string:\s*"(\w+)"', numbers.read_text("utf-8", "replace"))
    for number, wnid in pairs:
        if int(number) < CLASSES:
            labels[int(number)] = human.get(wnid, wnid)
    return labels


def damaged(path, what):
    """The error of a graph that lacks something."""
    return CheckpointError(f"{path} is the graph of 2015-12-05, but damaged or changed: {what}.")
