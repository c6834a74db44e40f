"""Keras models to TensorFlow SavedModels, as TensorFlow Serving and TensorFlow's C++ and Java loaders take them."""

import contextlib
import dataclasses
import errno
import logging
import os
import re
import tempfile
from functools import partial
from pathlib import Path

import keras

from inception_tf.errors import ExportError, UsageError, reason
from inception_tf.export.check import check_savedmodel, class_maps_of
from inception_tf.export.encoded import MAX_PIXELS, preprocess_each
from inception_tf.export.fusion import network_for, pays
from inception_tf.export.model_card import write_card
from inception_tf.export.serving_files import BATCHES, write_serving_files
from inception_tf.export.warmup import write_warmup
from inception_tf.files import atomic_write, created_dirs
from inception_tf.images.labels import class_names
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.models.model import check_model, with_dtype

PRECISIONS = ("float32", "float16", "bfloat16")

# As many sizes as leave the warm-up below the 1000 requests that TensorFlow Serving takes.
MAX_BATCHES = 100


def export_savedmodel(
    model,
    directory,
    labels=None,
    top=5,
    check=True,
    batch=BATCHES,
    xla=False,
    max_pixels=MAX_PIXELS,
    fuse=None,
    precision=None,
):
    """Writes the next version of a servable: `directory/<version>/saved_model.pb`.

    The version is the highest there is plus one, from 1. It appears under its name when it is whole and checked, so
    that a server may poll `directory`, and two exports at once get a version each.

    Signatures, all of a batch of any N, 0 too:
        serving_default: `images` (float32 N×H×W×3, preprocessed; sizes as in `model.input_shape`) to `logits` and
            `probabilities` (float32 N×classes). Of a model whose `classifier_activation` is None the probabilities are
            the softmax of the logits. With `spatial_squeeze=False` both are maps, N×h×w×classes.
        predict_image_bytes: `image_bytes` (string N: JPEG, PNG, GIF, BMP or WEBP files, each of any size) to `classes`
            (string N×k, names) and `scores` (float32 N×k), best first, and `status` (string N); k is `top`, or all
            where there are fewer. Images are decoded and preprocessed in the graph. The status of an image is empty;
            where it cannot be read, it says why, the classes are empty and the scores NaN, and the others are
            answered. A map of logits is averaged first.
        classify: the same for Serving's Classify: `inputs` (string N: serialized `tf.Example` with `image/encoded`) to
            `classes` and `scores`. No `status`: Serving refuses a third output there; the empty classes and NaN tell.
        class_maps: `image_bytes` to what predict_image_bytes gives and `maps`, float32 N×k×h×w: what every place of the
            last map adds to the class's logit, which is the mean; NaN where an image cannot be read. Of networks that
            end in global average pooling and one linear layer.
        features: `images` as above to `features`: PreLogits, or what the network calls the input of its classifier;
            float32 N×C, or N×h×w×C where that is a map.
    A model without its top has `serving_default` alone, from `images` to `features`, its output; the signatures of
    encoded images are left out where the preprocessing is not for as many channels as the model's.

    There is neither Python nor Keras in the graph. Variables stay variables, by their paths:
    `tf.saved_model.load(path).weights["Logits/Conv2d_1c_1x1/kernel"]`. The class names are in the graph, and beside it
    as the asset `assets/labels.txt`. An auxiliary head is not exported. With the version come, where TensorFlow
    Serving looks for them or in `assets.extra/`, which it leaves alone:
        batching_params.pbtxt: read with --enable_batching --enable_per_model_batching_parameters.
        assets.extra/tf_serving_warmup_requests: every signature at every size of `batch`.
        assets.extra/models.config: the entry for --model_config_file, with the paths of Serving's Docker image.
        assets.extra/inception_tf.json, assets.extra/MODEL_CARD.md: where the model comes from, its accuracy where
            that is known, preprocessing, signatures, and what the check found; the former the class names too.

    Args:
        model: a model of this library, on Keras's TensorFlow backend.
        directory: the servable's base directory, created where it is missing. Its name is the model's in requests.
        labels: the class names in order, or the path of a labels file. Default: `model.card.labels`; else
            ImageNet's for 1001 or 1000 classes; else "class 0", "class 1", ….
        top: how many classes `predict_image_bytes` and `classify` return, at most.
        check: whether to load the result in a fresh process in which Keras cannot be imported, and compare every
            signature with `model`, on the CPU.
        batch: the batch sizes to warm up and, for the server, to batch requests to; the last is the largest. Any other
            is answered too, so "dynamic", as other formats have it, is the default.
        xla: whether to have XLA compile the network (not the decoding), once for every batch size. TensorFlow Serving
            then needs --xla_cpu_compilation_enabled, or --xla_gpu_compilation_enabled, or every call fails.
        max_pixels: the most pixels (height × width) of an encoded image; a larger one cannot be read.
        fuse: whether to write the network of `fuse_for_inference`, which is faster (the default). Its variables are
            fewer and others than the model's: whoever reads them by path exports without.
        precision: "float32"; "float16" or "bfloat16": variables of half the size, and a network that computes in that
            type, while inputs and outputs stay float32. Default: as the model computes. On processors with
            instructions for bfloat16 it is faster than float32, and eight times coarser than float16.

    Returns:
        The `Path` of the version.

    Raises:
        UsageError: labels that do not fit, `top`, `batch` or `max_pixels` below 1, a `directory` that is a file or a
            SavedModel itself.
        ExportError: it could not be written, or does not answer as `model` does; nothing is left behind.
    """
    directory = Path(directory)
    names = names_of(model, labels)
    options = _options(top, check, batch, xla, max_pixels, fuse, precision)
    if os.path.lexists(directory) and not directory.is_dir():
        raise UsageError(f"{directory} is not a directory. An export goes to a directory of versions.")
    if (directory / "saved_model.pb").exists():
        raise UsageError(f"{directory} is a SavedModel itself. Versions go beside one another: give its parent.")
    try:
        # TensorFlow Serving takes the children whose names are integers, and passes over this one.
        with created_dirs(directory), tempfile.TemporaryDirectory(prefix=".export.", dir=directory) as scratch:
            part = Path(scratch, "savedmodel")
            _write(model, part, names, directory.resolve().name, options)
            return _rename_to_version(part, directory)
    except OSError as error:
        raise ExportError(f"Cannot write to {directory}: {error.strerror or error}") from error


def save_savedmodel(
    model,
    path,
    overwrite=False,
    labels=None,
    top=5,
    check=True,
    batch=BATCHES,
    xla=False,
    max_pixels=MAX_PIXELS,
    fuse=None,
    precision=None,
):
    """Writes a SavedModel directory `path`, without a version number, whole or not at all.

    Signatures, other arguments and errors as in `export_savedmodel`.

    Args:
        overwrite: whether an existing `path` may be replaced.

    Returns:
        `path`, as a `Path`.
    """
    names = names_of(model, labels)
    options = _options(top, check, batch, xla, max_pixels, fuse, precision)
    with atomic_write(path, overwrite) as part:
        _write(model, part, names, Path(path).resolve().name, options)
    return Path(path)


def names_of(model, labels=None):
    """The class names that an export of `model` gives: see `export_savedmodel`. None for a model without its top.

    Raises:
        UsageError: not a name a class, or one that is no line of text.
    """
    if not check_model(model).has_top:
        if labels is not None:
            raise UsageError(f"{model.name} has no classifier (include_top=False) for labels to name.")
        return None
    names = class_names(model.outputs[0].shape[-1], model.card.labels if labels is None else labels)
    for name in names:
        if name.splitlines() != [name]:
            raise UsageError(f"A label is a line of text. Received: {name!r}")
    return names


def _options(top, check, batch, xla, max_pixels, fuse, precision):
    if keras.backend.backend() != "tensorflow":
        raise UsageError(f"A SavedModel needs Keras on TensorFlow. Received: KERAS_BACKEND={keras.backend.backend()}")
    if top < 1:
        raise UsageError(f"`top` must be at least 1. Received: {top}")
    if max_pixels < 1:
        raise UsageError(f"`max_pixels` must be at least 1. Received: {max_pixels}")
    if precision not in (None, *PRECISIONS):
        raise UsageError(f"The format savedmodel has no precision {precision!r}. It has: {', '.join(PRECISIONS)}.")
    batch = BATCHES if batch == "dynamic" else batch
    batches = sorted({batch} if isinstance(batch, int) else set(batch))
    if not batches or batches[0] < 1 or len(batches) > MAX_BATCHES:
        raise UsageError(f"`batch` must be up to {MAX_BATCHES} sizes of at least 1. Received: {batch}")
    return {
        "top": top,
        "check": check,
        "batch": batches,
        "xla": bool(xla),
        "max_pixels": max_pixels,
        "fuse": pays(fuse, precision),
        "precision": precision,
    }


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


def _write(model, part, names, servable_name, options):
    import tensorflow as tf

    preprocessing = preprocessing_of(model)
    try:
        network = network_for(model, options["fuse"])
        network = with_dtype(network, options["precision"]) if options["precision"] else network
        servable, signatures = _servable(network, names, preprocessing, options)
        with tempfile.TemporaryDirectory(prefix=".labels.", dir=part.parent) as scratch, _quiet(tf.get_logger()):
            if names:  # an asset is copied from a file, and keeps its name
                labels = Path(scratch, "labels.txt")
                labels.write_text("".join(f"{name}\n" for name in names), "utf-8")
                servable.labels = tf.saved_model.Asset(labels)
            tf.saved_model.save(servable, part, signatures)
            if "classify" in signatures:
                _name_classify(part)
        write_warmup(part, servable_name, signatures, options["batch"], _image_shape(model))
        write_serving_files(part, servable_name, options["batch"])
        found = check_savedmodel(model, part, names, options["top"], options["precision"]) if options["check"] else None
        card = dataclasses.replace(model.card, labels=names)
        write_card(card, preprocessing, part, servable_name, list(signatures), options, found)
    except tf.errors.OpError as error:
        raise ExportError(f"The SavedModel could not be written: {reason(error)}") from error


def _image_shape(model):
    own, default = model.input_shape[1:], model.card.preprocessing["size"]
    return (own[0] or default[0], own[1] or default[1], own[2])


def _name_classify(path):
    """Gives the signature classify the method name that Serving's Classify asks for; TensorFlow writes Predict's."""
    import tensorflow as tf

    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(path))
    updater.replace_method_name("classify", "tensorflow/serving/classify", "serve")
    updater.save()
    Path(path, "fingerprint.pb").unlink(missing_ok=True)  # of the file as it was; a SavedModel may go without


def _servable(model, names, preprocessing, options):
    """A tf.Module that holds the variables, and the signatures that use them."""
    import tensorflow as tf

    with_top = names is not None
    body = keras.Model(model.inputs[0], [model.features, model.logits] if with_top else model.outputs)
    images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="images")
    servable = tf.Module()
    servable.weights = {variable.path: variable.value for variable in body.weights}
    compiled = partial(tf.function, input_signature=[images], autograph=False, jit_compile=options["xla"] or None)

    # Traced once, called by every signature.
    @_never_empty
    @compiled
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
    activation = model.activation

    @tf.function(input_signature=[images], autograph=False)
    def serving_default(images):
        logits = network(images)[1]
        return {"logits": logits, "probabilities": activation(logits)}

    signatures = {"serving_default": serving_default, "features": features}
    if not preprocessing:
        return servable, signatures

    def best(encoded, network=network, examples=False):
        images, status = preprocess_each(encoded, preprocessing, options["max_pixels"], examples)
        others, logits = network(images)
        if logits.shape.rank == 4:
            logits = tf.reduce_mean(logits, (1, 2))
        scores, indices = tf.math.top_k(activation(logits), min(options["top"], len(names)))
        read = (status == "")[:, tf.newaxis]
        outputs = {
            "classes": tf.where(read, tf.gather(tf.constant(names), indices), ""),
            "scores": tf.where(read, scores, float("nan")),
            "status": status,
        }
        return outputs, others, indices

    encoded = partial(tf.TensorSpec, (None,), tf.string)

    @tf.function(input_signature=[encoded("image_bytes")], autograph=False)
    def predict_image_bytes(image_bytes):
        return best(image_bytes)[0]

    @tf.function(input_signature=[encoded("inputs")], autograph=False)
    def classify(inputs):
        outputs = best(inputs, examples=True)[0]
        return {key: outputs[key] for key in ("classes", "scores")}  # Serving's Classify takes no third

    signatures |= {"predict_image_bytes": predict_image_bytes, "classify": classify}
    maps_model = class_maps_of(model)
    if maps_model is None:
        return servable, signatures

    @_never_empty
    @compiled
    def mapped(images):
        outputs = maps_model(images, training=False)
        return outputs["maps"], tf.cast(outputs["logits"], tf.float32)

    @tf.function(input_signature=[encoded("image_bytes")], autograph=False)
    def class_maps(image_bytes):
        outputs, maps, indices = best(image_bytes, mapped)
        maps = tf.gather(tf.transpose(maps, (0, 3, 1, 2)), indices, batch_dims=1)
        read = (outputs["status"] == "")[:, tf.newaxis, tf.newaxis, tf.newaxis]
        return {**outputs, "maps": tf.where(read, maps, float("nan"))}

    return servable, signatures | {"class_maps": class_maps}


def _never_empty(network):
    """Of an empty batch TensorFlow's convolutions on oneDNN (2.21) make one of the wrong shape: it gets a row, which
    is taken off again."""
    import tensorflow as tf

    def answer(images):
        count = tf.shape(images)[0]
        padded = tf.pad(images, [[0, tf.cast(count == 0, tf.int32)], [0, 0], [0, 0], [0, 0]])
        return [output[:count] for output in network(tf.ensure_shape(padded, images.shape))]

    return answer


@contextlib.contextmanager
def _quiet(logger):
    """Without TensorFlow's line that names the scratch directory."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
