"""Explaining what a model answers to photographs: for each its top classes, and a heat map for each of those."""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from inception_tf.analysis import heat_maps
from inception_tf.analysis.class_maps import backbone_end_point, class_activation_maps, class_map_model, grad_cam, split
from inception_tf.analysis.profile import profile
from inception_tf.errors import CheckpointError, UsageError
from inception_tf.images.decoding import read_image
from inception_tf.inference.engines import KerasEngine
from inception_tf.progress import Progress

BATCH = 16


@dataclass(frozen=True)
class Explanation:
    """Where in a photograph the evidence for its top classes is.

    Attributes:
        path: the photograph's file.
        image: its pixels, uint8 H×W×3.
        classes: a list of (class index, name, score), best first.
        maps: float32 H×W×k in the order of `classes`, at the photograph's resolution; NaN where the preprocessing
            crops it away.
        at: the end point whose positions the maps have.
        positions: how many these are, (rows, columns). Of one position a map is of one color, and says nothing of
            where.
        method: "class activation map" or "Grad-CAM".
    """

    path: Path
    image: np.ndarray
    classes: list
    maps: np.ndarray
    at: str
    positions: tuple
    method: str

    def peak(self, i):
        """The (row, column) of the photograph where the map of the i-th class is largest."""
        return tuple(map(int, np.unravel_index(np.nanargmax(self.maps[..., i]), self.maps.shape[:2])))


def explain(engine, paths, top=3, at=None, classes=None, exif_rotation=False):
    """Explains photographs, many at a time.

    Args:
        engine: an `Engine` of a Keras model.
        paths: the photographs' files.
        top: how many of each one's best classes.
        at: the end point for Grad-CAM. None: class activation maps.
        classes: names or indices of classes to explain in place of the best.
        exif_rotation: whether to turn photographs as their EXIF orientation says. Slim does not.

    Returns:
        A list of `Explanation`.

    Raises:
        UsageError: `top` below 1, no such class or end point; the engine is a SavedModel; the model has no class
            activation maps, and `at` is None.
        CheckpointError: the model's scores are NaN.
        ImageError: a file that is no image.
    """
    if top < 1:
        raise UsageError(f"top must be at least 1. Received: {top}")
    if not isinstance(engine, KerasEngine):
        raise UsageError("An export does not show its feature maps. Give the .keras file or the checkpoint it is of.")
    if at:  # refused before any work
        split(engine.model, at)
    else:
        class_map_model(engine.model)
    chosen = None if classes is None else [find_class(engine.labels, name) for name in classes]
    images = [read_image(path, exif_rotation) for path in paths]
    found = []
    with Progress("Explaining", len(images), "images") as progress:
        for i in range(0, len(images), BATCH):
            part = images[i : i + BATCH]
            found += _explain(engine, paths[i : i + BATCH], part, top, at, chosen)
            progress.advance(len(part))
    return found


def _explain(engine, paths, images, top, at, chosen):
    model, preprocessing = engine.model, engine.preprocessing
    inputs = np.concatenate([preprocessing(image) for image in images])
    scores = keras.ops.convert_to_numpy(model.as_probabilities(model(inputs, training=False)))
    if np.isnan(scores).any():
        raise CheckpointError("The model answers NaN: `inspect` tells which of its weights are broken.")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    classes = best if chosen is None else np.array([chosen] * len(images))
    maps = grad_cam(model, inputs, classes, at) if at else class_activation_maps(model, inputs, classes)
    end_point = at or backbone_end_point(model)
    found = profile(model, preprocessing.size)
    feature_map = {**found.units, **found.end_points}[end_point]
    return [
        Explanation(
            path=Path(path),
            image=image,
            classes=[(int(index), engine.labels[index], float(row[index])) for index in indices],
            maps=heat_maps.on_image(own, feature_map, *preprocessing.positions(*image.shape[:2])),
            at=end_point,
            positions=own.shape[:2],
            method="Grad-CAM" if at else "class activation map",
        )
        for path, image, row, indices, own in zip(paths, images, scores, classes, maps)
    ]


def find_class(labels, name):
    """The index of a class given by its name or its number.

    Raises:
        UsageError: there is none, or several have the name.
    """
    found = [i for i, label in enumerate(labels) if label == name]
    if not found and str(name).isdecimal() and int(name) < len(labels):
        return int(name)
    if not found:
        found = [i for i, label in enumerate(labels) if str(name).lower() in label.lower()]
    if len(found) != 1:
        some = ", ".join(labels[i] for i in (found or range(len(labels)))[:6])
        raise UsageError(
            f"{len(found) or 'No'} classes are called {name!r}: a name, a part of one, or a number from 0 to "
            f"{len(labels) - 1} is expected. {'Among them' if found else 'There are'}: {some}, …"
        )
    return found[0]


def figure(explanations):
    """A figure: a row for every photograph, itself and a heat map for each class, at the photograph's resolution."""
    rows = []
    for one in explanations:
        panels = [(f"{name}\n{score:.4f}", one.maps[..., i]) for i, (_, name, score) in enumerate(one.classes)]
        rows.append((f"{one.path.name}\n{one.method} at {one.at}", one.image, panels))
    return heat_maps.draw(rows)
