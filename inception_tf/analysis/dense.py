"""Dense evaluation: a classifier run over all of a larger image at once, for a map of class scores.

What was trained on images of one size takes any: fully connected layers are convolutions, and a pooling over the last
map becomes a sliding one ("OverFeat", arXiv 1312.6229; "Very Deep Convolutional Networks", arXiv 1409.1556, section
3.2). One pass shares what separate crops would compute again and again.
"""

import dataclasses
import json
import math
import statistics
import time
from dataclasses import dataclass

import keras
import numpy as np

from inception_tf.analysis import heat_maps
from inception_tf.analysis.profile import profile, total
from inception_tf.errors import CheckpointError, UsageError
from inception_tf.images.preprocessing import MEAN_RGB, Preprocessing, resize_bilinear
from inception_tf.models import blocks
from inception_tf.models.model import SlimModel, build_model, check_model, end_points, feature_extractor
from inception_tf.models.registry import find_network


def dense_model(model):
    """The network of a model for images of any size, with a map of class scores as its output and the same weights.

    The Inceptions v1 to v3, VGG, AlexNet and Network in Network are rebuilt with `spatial_squeeze=False`: a score for
    every place of their sliding pooling or fully connected layers. The ResNets so have a score for every place of the
    last map, since nothing pools; Inception-v4 and Inception-ResNet-v2, which have no such option, get the same from
    their classifier at every place.

    Args:
        model: a model of this library with its classifier.

    Returns:
        A model of this library from float32 N×H×W×C to N×h×w×classes, activated as `model` is.

    Raises:
        UsageError: the model has no classifier, or one whose layers fit images of one size alone.
    """
    if not check_model(model).has_top:
        raise UsageError(f"{model.name} has no classifier, so no scores: it was made with include_top=False.")
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
        trunk = build_model(info, size, name, **{**options, "aux_logits": False, "include_top": False})
        x = blocks.conv("Logits", options["classes"], 1, activation=None)(trunk.outputs[0])
        x = blocks.predictions(x, None, options["classifier_activation"])
        dense = SlimModel(trunk.inputs[0], x, name=name, card=dataclasses.replace(card, options=options))
        for variable in dense.get_layer("Logits").weights:
            source = sources[f"Logits/{variable.path}"]
            sources[variable.path] = keras.ops.reshape(source, variable.shape)
    for variable in dense.weights:
        variable.assign(sources[variable.path])
    dense.card = dataclasses.replace(card, options=dense.card.options)
    return dense


@dataclass(frozen=True)
class ScoreMap:
    """What a classifier says at every place of an image.

    Attributes:
        scores: float32 h×w×classes, probabilities.
        logits: float32 h×w×classes.
        labels: the classes' names.
        inputs: the preprocessed image, float32 1×H×W×C.
        image: the photograph, uint8.
        place: the `models.profile.Map` of the scores: where in `inputs` they lie.
        preprocessing: a dict: the kind and the size that the image was resized to.
    """

    scores: np.ndarray
    logits: np.ndarray
    labels: list
    inputs: np.ndarray
    image: np.ndarray
    place: object
    preprocessing: dict

    def best(self, top=5):
        """The best classes on average over the map: a list of (index, name, mean score, largest score)."""
        mean, largest = self.scores.mean((0, 1)), self.scores.max((0, 1))
        order = np.argsort(-mean, kind="stable")[:top]
        return [(int(i), self.labels[i], float(mean[i]), float(largest[i])) for i in order]

    def save(self, path):
        """Writes an NPZ file: `scores`, `logits`, `class_names`; `stride`, `first_center` and `receptive_field` of the
        places in pixels of the resized image, (y, x); `resized` and `photograph`, (height, width); `preprocessing`, as
        JSON."""
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                scores=self.scores,
                logits=self.logits,
                class_names=np.array(self.labels),
                stride=np.array(self.place.stride),
                first_center=np.array(self.place.center),
                receptive_field=np.array(self.place.receptive_field),
                resized=np.array(self.inputs.shape[1:3]),
                photograph=np.array(self.image.shape[:2]),
                preprocessing=json.dumps(self.preprocessing),
            )

    def picture(self, title, classes):
        """A figure: the photograph, and the scores of some classes, given by their indices, over it."""
        rows, columns = (
            np.arange(side) * (resized / side) for side, resized in zip(self.image.shape[:2], self.inputs.shape[1:3])
        )
        maps = heat_maps.on_image(self.scores[..., classes], self.place, rows, columns)
        panels = [
            heat_maps.Panel(f"{self.labels[index]}\n{self.scores[..., index].mean():.4f} on average", maps[..., i])
            for i, index in enumerate(classes)
        ]
        height, width = self.scores.shape[:2]
        return heat_maps.draw([(f"{title}\n{height}×{width} scores", self.image, panels)])


def default_side(preprocessing):
    """The short side that an image is resized to: 384 for a network of 224×224 images, as VGG's, 512 for 299×299."""
    return min(preprocessing.size) * 12 // 7


def score_map(model, image, labels, side=None):
    """The `ScoreMap` of a photograph.

    Args:
        model: what `dense_model` returned.
        image: uint8 H×W×3.
        labels: the classes' names.
        side: the short side that the image is resized to, its aspect kept; or (height, width). Default: `default_side`.

    Raises:
        UsageError: the image is too small for the network, or becomes so; says how large it must be.
        CheckpointError: the model's scores are NaN.
    """
    preprocessing = Preprocessing.from_config(dict(model.card.preprocessing))
    inputs = whole_image(preprocessing, image, default_side(preprocessing) if side is None else side)
    place = place_of(model, inputs.shape[1:3])
    logits = keras.ops.convert_to_numpy(keras.Model(model.inputs[0], model.logits)(inputs, training=False))[0]
    if np.isnan(logits).any():
        raise CheckpointError("The model answers NaN: `inspect` tells which of its weights are broken.")
    scores = np.asarray(model.activation(logits), "float32")
    resized = {"kind": preprocessing.kind, "size": list(inputs.shape[1:3])}
    return ScoreMap(scores, np.asarray(logits, "float32"), labels, inputs, image, place, resized)


def whole_image(preprocessing, image, side):
    """An image without a crop as a network wants it: resized until its short side is `side`, or to (height, width).

    Returns:
        float32 array 1×H×W×C.
    """
    size = side
    if isinstance(side, int):
        size = tuple(max(1, round(length * side / min(image.shape[:2]))) for length in image.shape[:2])
    if preprocessing.kind == "vgg":
        return resize_bilinear(image[None], size).numpy() - MEAN_RGB
    return Preprocessing(preprocessing.kind, size, central_fraction=None, channels=preprocessing.channels)(image)


def place_of(model, size):
    """The `models.profile.Map` of a dense model's scores on an image of that (height, width).

    Raises:
        UsageError: it is too small.
    """
    try:
        *_, place = profile(model, size).end_points.values()
        return place
    except UsageError as error:
        sides = range(min(size) + 1, 2048)
        fits = next((side for side in sides if _fits(model, side)), None)
        if fits is None:
            raise
        message = f"{model.name} needs images of at least {fits}×{fits} for a score. Received: {size[0]}×{size[1]}"
        raise UsageError(message) from error


def _fits(model, side):
    try:
        return bool(profile(model, (side, side)))
    except UsageError:
        return False


@dataclass(frozen=True)
class CropComparison:
    """One pass over an image beside the separate crops that it stands for.

    Attributes:
        crops: how many; each a square of `side` pixels, `stride` pixels from the next.
        side, stride: pixels.
        pass_seconds, crops_seconds: medians of the rounds, without what compiling takes.
        work: the crops' multiply-adds over those of one pass.
        score_difference: the largest difference of a probability.
        same_class: at how many places the best class is the same.
        free: how many of the pass's scores padding had no part in.
        end_points: a list of dicts: the end point's name, `map`, the (height, width) of a crop's, `inner`, that of the
            part in which padding had no part, and the largest difference in that part and outside it, over the end
            point's largest value. None where there is no such part.
    """

    crops: int
    side: int
    stride: int
    pass_seconds: float
    crops_seconds: float
    work: float
    score_difference: float
    same_class: int
    free: int
    end_points: list

    @property
    def ratio(self):
        """The crops' time over that of one pass."""
        return self.crops_seconds / self.pass_seconds


def compare_with_crops(model, inputs, side, rounds=3, batch=12):
    """A `CropComparison` of a dense model on a preprocessed image with the network on separate crops.

    A crop is zero beyond its border where layers pad, the image goes on there: only what padding had no part in, on
    either side, agrees.

    Args:
        model: what `dense_model` returned.
        inputs: float32 1×H×W×C.
        side: of the crops: the size that the network was made for.
        rounds: how often to take the time.
        batch: how many crops go through the network at a time.

    Raises:
        UsageError: the network gives more than one score for a crop of that size, as a ResNet does; the image is
            smaller than a crop.
    """
    if min(inputs.shape[1:3]) < side:
        raise UsageError(f"The image is smaller than a crop of {side}×{side}. Received: {inputs.shape[1:3]}")
    whole, crop = place_of(model, inputs.shape[1:3]), place_of(model, (side, side))
    if crop.shape[:2] != (1, 1):
        raise UsageError(
            f"{model.name} gives {crop.shape[0]}×{crop.shape[1]} scores for an image of {side}×{side}, so its places "
            "stand for no crops. The Inceptions v1 to v3, VGG and AlexNet give one."
        )
    height, width = whole.shape[:2]
    stride = whole.stride[0]
    corners = [(i * stride, j * stride) for i in range(height) for j in range(width)]
    crops = np.concatenate([inputs[:, y : y + side, x : x + side] for y, x in corners])

    def one_pass():
        return np.asarray(model.predict_on_batch(inputs))[0]

    def separately():
        parts = [model.predict_on_batch(crops[i : i + batch]) for i in range(0, len(crops), batch)]
        return np.concatenate([np.asarray(part) for part in parts]).reshape(height, width, -1)

    dense, single = one_pass(), separately()
    return CropComparison(
        crops=len(crops),
        side=side,
        stride=stride,
        pass_seconds=_median_seconds(one_pass, rounds),
        crops_seconds=_median_seconds(separately, rounds),
        work=len(crops) * _multiply_adds(model, (side, side)) / _multiply_adds(model, inputs.shape[1:3]),
        score_difference=float(np.abs(dense - single).max()),
        same_class=int((dense.argmax(-1) == single.argmax(-1)).sum()),
        free=math.prod(max(0, last - first + 1) for first, last in whole.inner),
        end_points=_by_end_point(model, inputs, crops, corners, side),
    )


def _multiply_adds(model, size):
    return total(profile(model, size).layers, "multiply_adds")


def _median_seconds(run, rounds):
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _by_end_point(model, inputs, crops, corners, side):
    """How the maps of the crops agree with those of the whole image: `CropComparison.end_points`."""
    places = profile(model, (side, side)).end_points
    names = [name for name, tensor in end_points(model).items() if "dropout" not in name.lower()]
    features = feature_extractor(model, names)
    dense = keras.tree.map_structure(keras.ops.convert_to_numpy, features(inputs, training=False))
    worst = {name: [None, None] for name in names}
    for crop, (y, x) in zip(crops, corners):
        single = keras.tree.map_structure(keras.ops.convert_to_numpy, features(crop[None], training=False))
        for name in names:
            place, found = places[name], single[name][0]
            i, j = y // place.stride[0], x // place.stride[1]
            same = dense[name][0, i : i + found.shape[0], j : j + found.shape[1]]
            apart = np.abs(found - same).max(-1)
            (top, bottom), (left, right) = place.inner
            inner = np.zeros(apart.shape, bool)
            inner[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)] = True
            for k, part in enumerate((apart[inner], apart[~inner])):
                if part.size:
                    worst[name][k] = max(worst[name][k] or 0.0, float(part.max()))
    rows = []
    for name in names:
        largest = float(np.abs(dense[name]).max()) or 1.0
        inside, outside = (None if value is None else value / largest for value in worst[name])
        spans = [max(0, last - first + 1) for first, last in places[name].inner]
        rows.append(
            {
                "end_point": name,
                "map": list(places[name].shape[:2]),
                "inner": spans if all(spans) else [0, 0],
                "difference_inside": inside,
                "difference_outside": outside,
            }
        )
    return rows
