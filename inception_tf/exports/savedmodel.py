"""Keras models to TensorFlow SavedModels, as TensorFlow Serving and TensorFlow's C++ and Java loaders take them."""

import dataclasses
import errno
import os
import re
import tempfile
from functools import partial
from pathlib import Path

import keras

from inception_tf.errors import ExportError, UsageError, raising
from inception_tf.exports.check import check_savedmodel, class_maps_of
from inception_tf.exports.driver import Format, image_shape
from inception_tf.exports.encoded import preprocess_each
from inception_tf.exports.model_card import write_card
from inception_tf.exports.serving_files import write_serving_files
from inception_tf.files import created_dirs
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.models.model import with_dtype
from inception_tf.quiet import no_deprecations


def export_savedmodel(model, directory, **options):
    """Writes the next version of a servable: `directory/<version>/saved_model.pb`.

    The version is the highest there is plus one, from 1. It appears under its name when it is complete and checked, so
    that a server may poll `directory`, and two exports at once get a version each.

    Signatures, all of a batch of any N, 0 too:
        serving_default: `images` (float32 N×H×W×3, preprocessed; sizes as in `model.input_shape`) to `logits` and
            `probabilities` (float32 N×classes). Of a model whose `classifier_activation` is None the probabilities are
            the softmax of the logits. With `spatial_squeeze=False` both are maps, N×h×w×classes.
        predict_image_bytes: `image_bytes` (string N: JPEG, PNG, GIF, BMP or WEBP files, each of any size) to `classes`
            (string N×k, names) and `scores` (float32 N×k), best first, and `status` (string N); k is `top`, or all
            where there are fewer. Images are decoded and preprocessed in the graph. The status of an image is empty;
            where it cannot be read, it says why, the classes are empty and the scores 0, and the others are
            classified. A map of logits is averaged first.
        classify: the same for Serving's Classify: `inputs` (string N: serialized `tf.Example` with `image/encoded`) to
            `classes` and `scores`. No `status`, since Serving refuses a third output; empty classes show it.
        class_maps: `image_bytes` to what predict_image_bytes gives and `maps`, float32 N×k×h×w: what every position of
            the last feature map adds to the class's logit, which is the mean; 0 where an image cannot be read. Of
            networks that end in global average pooling and one linear layer.
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
        **options: of `formats.Options`: labels, top, check, batch, xla, max_pixels, fuse, precision ("float32",
            "float16" or "bfloat16"; the latter two compute in that type, and bfloat16, faster than float32 on
            processors with instructions for it, is eight times coarser than float16). The check loads the result in a
            fresh process in which Keras cannot be imported, and compares every signature with `model`, on the CPU.

    Returns:
        The `Path` of the version.

    Raises:
        UsageError: labels that do not fit, an option out of its range, a `directory` that is a file or a SavedModel
            itself.
        ExportError: it could not be written, or gives other outputs than `model`; nothing is left behind.
    """
    return SavedModel().export(model, directory, **options)


def save_savedmodel(model, path, **options):
    """Writes a SavedModel directory `path`, without a version number, whole or not at all.

    Signatures, other arguments and errors as in `export_savedmodel`; `overwrite` replaces an existing `path`.
    """
    return UnversionedSavedModel().export(model, path, **options)


class UnversionedSavedModel(Format):
    """A SavedModel directory."""

    name = "savedmodel"
    options = ("labels", "top", "check", "batch", "xla", "max_pixels", "fuse", "precision", "overwrite")
    precisions = ("float32", "float16", "bfloat16")
    batches, max_batches = (1, 8, 32), 100  # which leave the warm-up below the 1000 requests that Serving takes
    backend = "tensorflow"

    def files(self, target):
        return []  # a directory may replace one

    def convert(self, export):
        """A tf.Module that holds the variables, and the signatures that use them."""
        network, precision = export.network, export.options.precision
        network = with_dtype(network, precision) if precision else network
        return _servable(network, export.names, preprocessing_of(export.model), export.options)

    def save(self, export, network, path):
        import tensorflow as tf

        servable, signatures = network
        with raising(ExportError, "The SavedModel could not be written", tf.errors.OpError):
            with tempfile.TemporaryDirectory(prefix=".labels.", dir=path.parent) as scratch, no_deprecations():
                if export.names:  # an asset is copied from a file, and keeps its name
                    labels = Path(scratch, "labels.txt")
                    labels.write_text("".join(f"{name}\n" for name in export.names), "utf-8")
                    servable.labels = tf.saved_model.Asset(labels)
                tf.saved_model.save(servable, path, signatures)
                _fit_for_serving(path)
            name, shape = export.target.resolve().name, image_shape(export.model)
            write_serving_files(path, name, list(signatures), export.options.batch, shape)

    def check(self, export, network, path):
        return check_savedmodel(export.model, path, export.names, export.options.top, export.options.precision)

    def add_card(self, export, network, path, card):
        facts = {"name": export.target.resolve().name, "signatures": list(network[1])}
        write_card(dataclasses.replace(card, export={**card.export, **facts}), path)

    def replace_card(self, path, card):
        write_card(card, path)


class SavedModel(UnversionedSavedModel):
    """The next version in a servable's directory."""

    options = UnversionedSavedModel.options[:-1]

    def prepare(self, model, target, options):
        if os.path.lexists(target) and not target.is_dir():
            raise UsageError(f"{target} is not a directory. An export goes to a directory of versions.")
        if (target / "saved_model.pb").exists():
            raise UsageError(f"{target} is a SavedModel itself. Versions go beside one another: give its parent.")
        return super().prepare(model, target, options)

    def write_atomically(self, export, write):
        directory = export.target
        with (
            raising(ExportError, f"Cannot write to {directory}"),
            created_dirs(directory),
            # TensorFlow Serving takes the children whose names are integers, and passes over this one.
            tempfile.TemporaryDirectory(prefix=".export.", dir=directory) as scratch,
        ):
            part = Path(scratch, "savedmodel")
            write(part)
            return _rename_to_version(part, directory)


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


def _fit_for_serving(path):
    """Gives the signature classify the method name that Serving's Classify asks for, TensorFlow writes Predict's; and
    takes the variables' `debug_name` off, which loaders before TensorFlow 2.16 do not know."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel as Proto

    file = Path(path, "saved_model.pb")
    saved = Proto.FromString(file.read_bytes())
    for graph in saved.meta_graphs:
        if "classify" in graph.signature_def:
            graph.signature_def["classify"].method_name = "tensorflow/serving/classify"
        functions = graph.graph_def.library.function
        for node in (*graph.graph_def.node, *(node for function in functions for node in function.node_def)):
            if "debug_name" in node.attr:
                del node.attr["debug_name"]
    file.write_bytes(saved.SerializeToString(deterministic=True))
    Path(path, "fingerprint.pb").unlink(missing_ok=True)  # of the file as it was; a SavedModel may go without


def _servable(model, names, preprocessing, options):
    """The module and the signatures of `export_savedmodel`."""
    import tensorflow as tf

    with_top = names is not None
    body = keras.Model(model.inputs[0], [model.features, model.logits] if with_top else model.outputs)
    images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="images")
    servable = tf.Module()
    servable.weights = {variable.path: variable.value for variable in body.weights}
    compiled = partial(tf.function, input_signature=[images], autograph=False, jit_compile=options.xla or None)

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
        images, status = preprocess_each(encoded, preprocessing, options.max_pixels, examples)
        others, logits = network(images)
        if logits.shape.rank == 4:
            logits = tf.reduce_mean(logits, (1, 2))
        scores, indices = tf.math.top_k(activation(logits), min(options.top, len(names)))
        read = (status == "")[:, tf.newaxis]
        outputs = {
            "classes": tf.where(read, tf.gather(tf.constant(names), indices), ""),
            "scores": tf.where(read, scores, 0.0),  # no NaN: a browser's JSON has none
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
        return {**outputs, "maps": tf.where(read, maps, 0.0)}

    return servable, signatures | {"class_maps": class_maps}


def _never_empty(network):
    """Of an empty batch TensorFlow's convolutions on oneDNN (2.21) make one of the wrong shape: it gets a row, which
    is taken off again."""
    import tensorflow as tf

    def padded_network(images):
        count, *sides = tf.unstack(tf.shape(images))
        sides = [known or side for known, side in zip(images.shape[1:], sides)]
        row = tf.zeros((tf.cast(count == 0, tf.int32), *sides))  # its shape is known without EnsureShape
        return [output[:count] for output in network(tf.concat([images, row], 0))]

    return padded_network
