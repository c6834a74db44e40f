"""Keras models to TensorFlow SavedModels, as TensorFlow Serving and TensorFlow's C++ and Java loaders take them."""

import contextlib
import errno
import logging
import os
import re
import tempfile
from pathlib import Path

import keras

from inception_tf.errors import ExportError, UsageError
from inception_tf.export.card import write_card
from inception_tf.export.check import check_savedmodel
from inception_tf.files import made, reason, written_whole
from inception_tf.images.labels import class_names
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.models.heads import activation_of, classifier, has_top


def export_savedmodel(model, directory, labels=None, top=5, check=True):
    """Writes the next version of a servable: `directory/<version>/saved_model.pb`.

    The version is the highest there is plus one, from 1. It appears under its name when it is whole and checked, so
    that a server may poll `directory`, and two exports at once get a version each.

    Signatures, all of a batch of any N:
        serving_default: `images` (float32 N×H×W×3, preprocessed; sizes as in `model.input_shape`) to `logits` and
            `probabilities` (float32 N×classes). Of a model whose `classifier_activation` is None the probabilities are
            the softmax of the logits. With `spatial_squeeze=False` both are maps, N×h×w×classes.
        predict_image_bytes: `image_bytes` (string N: JPEG, PNG, GIF, BMP or WEBP files, each of any size) to `classes`
            (string N×k, names) and `scores` (float32 N×k), best first; k is `top`, or all where there are fewer. Images
            are decoded and preprocessed in the graph; one that cannot be read fails the call. A map of logits is
            averaged first. Left out where the preprocessing is not for as many channels as the model's.
        features: `images` as above to `features`: PreLogits, or what the network calls the input of its classifier;
            float32 N×C, or N×h×w×C where that is a map.
    A model without its top has `serving_default` alone, from `images` to `features`, its output.

    There is neither Python nor Keras in the graph, and no XLA that was not asked for: wrap a signature in
    `tf.function(jit_compile=True)`, or give TensorFlow Serving its flag. Variables stay variables, by their
    paths: `tf.saved_model.load(path).weights["Logits/Conv2d_1c_1x1/kernel"]`. The class names are in the graph, and
    beside it as the asset `assets/labels.txt`. An auxiliary head is not exported.

    Args:
        model: a model of this library, on Keras's TensorFlow backend.
        directory: the servable's base directory; made where it is missing.
        labels: the class names in order, or the path of a labels file. Default: `model.card["labels"]`; else
            ImageNet's for 1001 or 1000 classes; else "class 0", "class 1", ….
        top: how many classes `predict_image_bytes` returns, at most.
        check: whether to load the result in a fresh process in which Keras cannot be imported, and compare every
            signature with `model`, on the CPU.

    Returns:
        The `Path` of the version.

    Raises:
        UsageError: labels that do not fit, `top` below 1, a `directory` that is a file or a SavedModel itself.
        ExportError: it could not be written, or does not answer as `model` does; nothing is left behind.
    """
    directory = Path(directory)
    names = names_of(model, labels)
    _check_arguments(model, top)
    if os.path.lexists(directory) and not directory.is_dir():
        raise UsageError(f"{directory} is not a directory. An export goes to a directory of versions.")
    if (directory / "saved_model.pb").exists():
        raise UsageError(f"{directory} is a SavedModel itself. Versions go beside one another: give its parent.")
    try:
        # TensorFlow Serving takes the children whose names are integers, and passes over this one.
        with made(directory), tempfile.TemporaryDirectory(prefix=".export.", dir=directory) as scratch:
            part = Path(scratch, "savedmodel")
            _write(model, part, names, top, check)
            return _rename_to_version(part, directory)
    except OSError as error:
        raise ExportError(f"Cannot write to {directory}: {error.strerror or error}") from error


def save_savedmodel(model, path, overwrite=False, labels=None, top=5, check=True):
    """Writes a SavedModel directory `path`, without a version number, whole or not at all.

    Signatures, other arguments and errors as in `export_savedmodel`.

    Args:
        overwrite: whether an existing `path` may be replaced.

    Returns:
        `path`, as a `Path`.
    """
    names = names_of(model, labels)
    _check_arguments(model, top)
    with written_whole(path, overwrite) as part:
        _write(model, part, names, top, check)
    return Path(path)


def names_of(model, labels=None):
    """The class names that an export of `model` gives: see `export_savedmodel`. None for a model without its top.

    Raises:
        UsageError: not a name a class, or one that is no line of text.
    """
    if not has_top(model):
        if labels is not None:
            raise UsageError(f"{model.name} has no classifier (include_top=False) for labels to name.")
        return None
    names = class_names(model.outputs[0].shape[-1], model.card.get("labels") if labels is None else labels)
    for name in names:
        if name.splitlines() != [name]:
            raise UsageError(f"A label is a line of text. Received: {name!r}")
    return names


def _check_arguments(model, top):
    if keras.backend.backend() != "tensorflow":
        raise UsageError(f"A SavedModel needs Keras on TensorFlow. Received: KERAS_BACKEND={keras.backend.backend()}")
    if top < 1:
        raise UsageError(f"`top` must be at least 1. Received: {top}")


def _rename_to_version(part, directory):
    while True:
        versions = [int(entry.name) for entry in directory.iterdir() if re.fullmatch("[0-9]{1,18}", entry.name)]
        target = directory / str(max(versions, default=0) + 1)
        try:
            os.rename(part, target)
            return target
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # else another export was faster
                raise


def _write(model, part, names, top, check):
    import tensorflow as tf

    try:
        servable, signatures = _servable(model, names, top)
        with tempfile.TemporaryDirectory(prefix=".labels.", dir=part.parent) as scratch, _quiet(tf.get_logger()):
            if names:  # an asset is copied from a file, and keeps its name
                labels = Path(scratch, "labels.txt")
                labels.write_text("".join(f"{name}\n" for name in names), "utf-8")
                servable.labels = tf.saved_model.Asset(labels)
            tf.saved_model.save(servable, part, signatures)
        write_card(model.card, preprocessing_of(model), part)
    except tf.errors.OpError as error:
        raise ExportError(f"The SavedModel could not be written: {reason(error)}") from error
    if check:
        check_savedmodel(model, part, names, top)


def _servable(model, names, top):
    """A tf.Module that holds the variables, and the signatures that use them."""
    import tensorflow as tf

    with_top = names is not None
    body = keras.Model(model.inputs[0], list(classifier(model)) if with_top else model.outputs)
    images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="images")
    servable = tf.Module()
    servable.weights = {variable.path: variable.value for variable in body.weights}

    # Traced once, called by every signature.
    @tf.function(input_signature=[images], autograph=False)
    def network(images):
        outputs = keras.tree.flatten(body(images, training=False))
        features, *logits = (tf.cast(output, tf.float32) for output in outputs)
        if with_top and features.shape[1:-1] == (1, 1):
            features = tf.squeeze(features, (1, 2))
        return features, *logits

    @tf.function(input_signature=[images], autograph=False)
    def features(images):
        return {"features": network(images)[0]}

    if not with_top:
        return servable, {"serving_default": features}
    activation = activation_of(model)

    @tf.function(input_signature=[images], autograph=False)
    def serving_default(images):
        logits = network(images)[1]
        return {"logits": logits, "probabilities": activation(logits)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")], autograph=False)
    def predict_image_bytes(image_bytes):
        logits = network(preprocessing.graph_from_bytes(image_bytes))[1]
        if logits.shape.rank == 4:
            logits = tf.reduce_mean(logits, (1, 2))
        scores, indices = tf.math.top_k(activation(logits), min(top, len(names)))
        return {"classes": tf.gather(tf.constant(names), indices), "scores": scores}

    signatures = {"serving_default": serving_default, "features": features}
    preprocessing = preprocessing_of(model)
    return servable, signatures | ({"predict_image_bytes": predict_image_bytes} if preprocessing else {})


@contextlib.contextmanager
def _quiet(logger):
    """Without TensorFlow's line that names the scratch directory."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
