"""Dense evaluation: a classifier run over all of a larger image at once, for a map of class scores.

What was trained on images of one size takes any: fully connected layers are convolutions, and a pooling over the last
feature map becomes a sliding one ("OverFeat", arXiv 1312.6229; "Very Deep Convolutional Networks", arXiv 1409.1556,
section 3.2). One pass shares what separate crops would compute again and again.
"""

import dataclasses
import json
import math
import statistics
import timeit
from dataclasses import dataclass

import keras
import numpy as np

from inception_tf.analysis import heat_maps
from inception_tf.analysis.profile import FeatureMap, profile, total
from inception_tf.errors import CheckpointError, UsageError
from inception_tf.images.preprocessing import MEAN_RGB, Preprocessing, resize_bilinear
from inception_tf.models import blocks
from inception_tf.models.model import SlimModel, build_model, check_model
from inception_tf.models.registry import find_network


def dense_model(model):
    """The network of a model for images of any size, with a map of class scores as its output and the same weights.

    The Inceptions v1 to v3, VGG, AlexNet and Network in Network are rebuilt with `spatial_squeeze=False`: a score for
    every position of their sliding pooling or fully connected layers. So the ResNets have a score for every position
    of the last feature map, since nothing pools; Inception-v4 and Inception-ResNet-v2, which have no such option, get
    the same from their classifier at every position.

    Args:
        model: a model of this library with its classifier.

    Returns:
        A model of this library from float32 N×H×W×C to N×h×w×classes, activated as `model` is.

    Raises:
        UsageError: the model has no classifier, or one whose layers fit images of one size alone.
    """
    if not check_model(model).has_top:
        raise UsageError(f"{model.name} has no classifier, so no scores: it was built with include_top=False.")
    card = model.card
    info, options = find_network(card.network), dict(card.options)
    if options.get("fully_connected") or info.name == "lenet":
        raise UsageError(
            f"{model.name} has fully connected layers for images of one size, which are no convolutions. Dense "
            "evaluation takes the Inceptions, the ResNets, VGG, AlexNet, and nin with global average pooling."
        )
    sources = {variable.path: variable for variable in model.weights}
    size, name = (None, None, model.input_shape[3]), model.name
    if "spatial_squeeze" in options:
        aux = {"aux_logits": False} if "aux_logits" in options else {}
        dense = build_model(info, size, name, **{**options, **aux, "spatial_squeeze": False})
    else:
        backbone = build_model(info, size, name, **{**options, "aux_logits": False, "include_top": False})
        x = blocks.conv("Logits", options["classes"], 1, activation=None)(backbone.outputs[0])
        x = blocks.predictions(x, None, options["classifier_activation"])
        dense = SlimModel(backbone.inputs[0], x, name=name, card=dataclasses.replace(card, options=options))
        for variable in dense.get_layer("Logits").weights:
            source = sources[f"Logits/{variable.path}"]
            sources[variable.path] = keras.ops.reshape(source, variable.shape)
    for variable in dense.weights:
        variable.assign(sources[variable.path])
    dense.card = dataclasses.replace(card, options=dense.card.options)
    return dense


@dataclass(frozen=True)
class ScoreMap:
    """What a classifier says at every position over an image.

    Attributes:
        scores: float32 h×w×classes, probabilities.
        logits: float32 h×w×classes.
        labels: the classes' names.
        inputs: the preprocessed image, float32 1×H×W×C.
        image: the photograph, uint8.
        positions: the `FeatureMap` of the scores: where in `inputs` they lie.
        preprocessing: a dict: the kind and the size that the image was resized to.
    """

    scores: np.ndarray
    logits: np.ndarray
    labels: list
    inputs: np.ndarray
    image: np.ndarray
    positions: FeatureMap
    preprocessing: dict

    def best(self, top=5):
        """The best classes on average over the positions: a list of (index, name, mean score, largest score)."""
        mean, largest = self.scores.mean((0, 1)), self.scores.max((0, 1))
        order = np.argsort(-mean, kind="stable")[:top]
        return [(int(i), self.labels[i], float(mean[i]), float(largest[i])) for i in order]

    def save(self, path):
        """Writes an NPZ file: `scores`, `logits`, `class_names`; `stride`, `first_center` and `receptive_field` of the
        positions in pixels of the resized image, (y, x); `resized` and `photograph`, (height, width); `preprocessing`,
        as JSON."""
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                scores=self.scores,
                logits=self.logits,
                class_names=np.array(self.labels),
                stride=np.array(self.positions.stride),
                first_center=np.array(self.positions.center),
                receptive_field=np.array(self.positions.receptive_field),
                resized=np.array(self.inputs.shape[1:3]),
                photograph=np.array(self.image.shape[:2]),
                preprocessing=json.dumps(self.preprocessing),
            )

    def figure(self, title, classes):
        """A figure: the photograph, and the scores of some classes, given by their indices, over it."""
        rows, columns = (
            np.arange(side) * (resized / side) for side, resized in zip(self.image.shape[:2], self.inputs.shape[1:3])
        )
        heat = heat_maps.on_image(self.scores[..., classes], self.positions, rows, columns)
        panels = [
            (f"{self.labels[index]}\n{self.scores[..., index].mean():.4f} on average", heat[..., i])
            for i, index in enumerate(classes)
        ]
        height, width = self.scores.shape[:2]
        return heat_maps.draw([(f"{title}\n{height}×{width} scores", self.image, panels)])


def score_map(model, image, labels, side=None):
    """The `ScoreMap` of a photograph.

    Args:
        model: what `dense_model` returned.
        image: uint8 H×W×3.
        labels: the classes' names.
        side: the short side that the image is resized to, its aspect kept; or (height, width). Default: 384 for a
            network of 224×224 images, as VGG's, 512 for 299×299.

    Raises:
        UsageError: the image is too small for the network, or becomes so; says how large it must be.
        CheckpointError: the model's scores are NaN.
    """
    preprocessing = Preprocessing.from_config(dict(model.card.preprocessing))
    inputs = resized(preprocessing, image, side or min(preprocessing.size) * 12 // 7)
    positions = score_positions(model, inputs.shape[1:3])
    logits = keras.ops.convert_to_numpy(keras.Model(model.inputs[0], model.logits)(inputs, training=False))[0]
    if np.isnan(logits).any():
        raise CheckpointError("The model answers NaN: `inspect` tells which of its weights are broken.")
    scores = np.asarray(model.activation(logits), "float32")
    config = {"kind": preprocessing.kind, "size": list(inputs.shape[1:3])}
    return ScoreMap(scores, np.asarray(logits, "float32"), labels, inputs, image, positions, config)


def resized(preprocessing, image, side):
    """An image as a network wants it, not cropped: resized until its short side is `side`, or to (height, width).

    Returns:
        float32 array 1×H×W×C.
    """
    size = side
    if isinstance(side, int):
        size = tuple(max(1, round(length * side / min(image.shape[:2]))) for length in image.shape[:2])
    if preprocessing.kind == "vgg":
        return resize_bilinear(image[None], size).numpy() - MEAN_RGB
    return Preprocessing(preprocessing.kind, size, central_fraction=None, channels=preprocessing.channels)(image)


def score_positions(model, size):
    """The `FeatureMap` of a dense model's scores on an image of that (height, width).

    Raises:
        UsageError: it is too small.
    """
    try:
        *_, scores = profile(model, size).end_points.values()
        return scores
    except UsageError as error:
        fits = next((side for side in range(min(size) + 1, 2048) if _fits(model, side)), None)
        if fits is None:
            raise
        message = f"{model.name} needs images of at least {fits}×{fits} for a score. Received: {size[0]}×{size[1]}"
        raise UsageError(message) from error


def _fits(model, side):
    try:
        return bool(profile(model, (side, side)))
    except UsageError:
        return False


def compare_with_crops(model, inputs, side, rounds=3):
    """One pass of a dense model over a preprocessed image beside the separate crops that its scores stand for.

    A crop is zero beyond its border where layers pad, and the image goes on there: they differ by what padding adds.

    Args:
        model: what `dense_model` returned.
        inputs: float32 1×H×W×C.
        side: of the crops: the size that the network was made for.
        rounds: how often to take the time.

    Returns:
        A dict: `crops`, how many; their `side`, and the `stride` from one to the next, in pixels; `pass_seconds` and
        `crops_seconds`, medians of the rounds without what compiling takes, and `ratio`, the second over the first;
        `work`, the crops' multiply-adds over those of one pass; `score_difference`, the largest of a probability;
        `same_class`, at how many positions the best class is the same; `free`, how many of the pass's scores no
        padding reached.

    Raises:
        UsageError: the network gives more than one score for a crop of that size, as a ResNet does; the image is
            smaller than a crop.
    """
    size = inputs.shape[1:3]
    if min(size) < side:
        raise UsageError(f"The image is smaller than a crop of {side}×{side}. Received: {size}")
    positions, crop = score_positions(model, size), score_positions(model, (side, side))
    if crop.shape[:2] != (1, 1):
        raise UsageError(
            f"{model.name} gives {crop.shape[0]}×{crop.shape[1]} scores for an image of {side}×{side}, so its "
            "positions stand for no crops. The Inceptions v1 to v3, VGG and AlexNet give one."
        )
    stride = positions.stride[0]
    corners = [(y * stride, x * stride) for y, x in np.ndindex(*positions.shape[:2])]
    crops = np.concatenate([inputs[:, y : y + side, x : x + side] for y, x in corners])

    def one_pass():
        return np.asarray(model.predict_on_batch(inputs)).reshape(len(crops), -1)

    def separately():
        parts = [model.predict_on_batch(crops[i : i + 12]) for i in range(0, len(crops), 12)]
        return np.concatenate([np.asarray(part) for part in parts]).reshape(len(crops), -1)

    dense, single = one_pass(), separately()
    times = [timeit.repeat(run, number=1, repeat=rounds) for run in (one_pass, separately)]
    pass_seconds, crops_seconds = map(statistics.median, times)
    multiply_adds = [total(profile(model, s).layers, "multiply_adds") for s in ((side, side), size)]
    return {
        "crops": len(crops),
        "side": side,
        "stride": stride,
        "pass_seconds": pass_seconds,
        "crops_seconds": crops_seconds,
        "ratio": crops_seconds / pass_seconds,
        "work": len(crops) * multiply_adds[0] / multiply_adds[1],
        "score_difference": float(np.abs(dense - single).max()),
        "same_class": int((dense.argmax(-1) == single.argmax(-1)).sum()),
        "free": math.prod(map(len, positions.without_padding(size))),
    }
