"""keras.applications' InceptionV3 and InceptionResNetV2: their weights files out of our models, and back."""

import dataclasses
from pathlib import Path

import keras

from inception_tf.errors import MismatchError, UsageError, raising
from inception_tf.exports.driver import image_shape
from inception_tf.exports.exchange import ExchangeFormat, classifier_weights, drops_background
from inception_tf.exports.tolerance import checked_difference, relative_difference, tolerance_of
from inception_tf.models.applications import APPLICATIONS, variable_pairs, weighted_layers
from inception_tf.models.card import Weights
from inception_tf.models.model import build_model, save_weights
from inception_tf.models.registry import find_network
from inception_tf.models.untrusted import check_weights_file
from inception_tf.slim.verify import noise


def to_keras_applications(model, path, **options):
    """Writes the weights file that `keras.applications.InceptionV3(weights=path)`, or InceptionResNetV2, takes.

    Give keras.applications the same `include_top` and `classes` (1000 is its default). Its images are prepared as
    Slim's Inception images are: [-1, 1]. An auxiliary head does not exist there and is left out.

    Args:
        model: an inception_v3 or inception_resnet_v2 of this library, with its top or without.
        path: the file, `….weights.h5`.
        **options: of `formats.Options`: background, check, overwrite. The check loads the file into keras.applications
            and compares the outputs, or the logits where there is a top, on seeded noise: within 1e-5 of the largest,
            1e-2 where the model computes in sixteen bits.

    Returns:
        `path`, as a `Path`.

    Raises:
        UsageError: another network or other options than keras.applications has, or a bad `path`.
        ExportError: keras.applications gives other outputs; nothing is left behind.
    """
    return KerasApplications().export(model, path, **options)


class KerasApplications(ExchangeFormat):
    """A `.weights.h5` file, whose variables are matched by their order."""

    name = "keras-applications"
    library, networks = "keras.applications", APPLICATIONS

    def convert(self, export):
        model, drop = export.model, drops_background(export.model, export.options.background)
        application = _application(model, drop)
        pairs = variable_pairs(model, application, drop)
        values = [keras.ops.convert_to_numpy(ours) for _, ours in pairs]
        if model.has_top:
            values[-2:] = classifier_weights(next(weighted_layers([model.classifier])), drop)
        for (theirs, _), value in zip(pairs, values):
            theirs.assign(value)
        return application

    def save(self, export, network, path):
        save_weights(network, path)

    def check(self, export, network, path):
        model, drop = export.model, drops_background(export.model, export.options.background)
        images = noise(1, *image_shape(model))
        ours = keras.Model(model.inputs[0], model.logits) if model.has_top else model
        wanted, got = _run(ours, images), _run(_application(model, drop, weights=str(path)), images)
        checked_difference("keras.applications output", got, wanted[..., 1:] if drop else wanted, tolerance_of(model))


def from_keras_applications(source, network, check=True):
    """Our model of a `keras.applications` InceptionV3 or InceptionResNetV2.

    Its classes stay as they are: keras.applications' 1000 have no background class.

    Args:
        source: the Keras model, or the path of its weights file (`.weights.h5`, or the `.h5` of older Keras versions).
        network: "inception_v3" or "inception_resnet_v2".
        check: whether to compare the outputs of both on seeded noise, as `to_keras_applications` does.

    Returns:
        A model of this library with the classes, input shape, pooling and activation of `source`; of a file, with
        those that keras.applications has by default.

    Raises:
        UsageError: another network, or no such file.
        CheckpointError: the file is no weights file.
        MismatchError: `source` is not `network`, or the outputs differ.
    """
    if network not in APPLICATIONS:
        raise UsageError(f"keras.applications has {' and '.join(APPLICATIONS)} here. Received: network={network!r}")
    application = source if isinstance(source, keras.Model) else _load(Path(source), network)
    model = build_model(find_network(network), input_shape=application.input_shape[1:], **_options(application))
    for theirs, ours in variable_pairs(model, application):
        ours.assign(keras.ops.reshape(theirs, ours.shape))
    model.card = dataclasses.replace(model.card, weights=Weights(getattr(source, "name", None) or Path(source).name))
    if check:
        images = noise(1, *image_shape(model))
        difference = relative_difference(_run(application, images), _run(model, images))
        if not difference <= max(tolerance_of(application), tolerance_of(model)):
            raise MismatchError(f"{application.name} is not {network}: the outputs differ by {difference:.1e}.")
    return model


def _application(model, drop, weights=None):
    """The keras.applications model for `model`, with logits as its output where it has a top."""
    options = model.card.options
    if model.has_top:
        head = {"classes": options["classes"] - drop, "classifier_activation": None}
        shape = image_shape(model)
    else:
        head, shape = {"include_top": False, "pooling": options["pooling"]}, model.input_shape[1:]
    build = getattr(keras.applications, APPLICATIONS[model.card.network])
    return build(weights=weights, input_shape=shape, **head)


def _options(application):
    """The options of our constructor that give a model as `application`, a keras.applications model."""
    last = application.layers[-1]
    if isinstance(last, keras.layers.Dense):
        activation = keras.activations.serialize(last.activation)
        return {"classes": last.units, "classifier_activation": None if activation == "linear" else activation}
    kinds = {keras.layers.GlobalAveragePooling2D: "avg", keras.layers.GlobalMaxPooling2D: "max"}
    return {"include_top": False, "pooling": kinds.get(type(last))}


def _load(path, network):
    import h5py

    if not path.is_file():
        raise UsageError(f"There is no weights file at {path}.")
    check_weights_file(path)
    shapes = []
    with h5py.File(path) as file:
        file.visititems(lambda _, item: shapes.append(getattr(item, "shape", ())))
    # The classifier's kernel is the only matrix.
    classes = next((shape[1] for shape in shapes if len(shape) == 2), None)
    head = {"classes": classes} if classes else {"include_top": False}
    application = getattr(keras.applications, APPLICATIONS[network])(weights=None, **head)
    with raising(MismatchError, f"{path} does not fit keras.applications' {network}", Exception):
        application.load_weights(path)
    return application


def _run(model, images):
    """What `predict_on_batch` gives, as float32, without compiling for the one batch."""
    return keras.ops.convert_to_numpy(keras.ops.cast(model(images, training=False), "float32"))
