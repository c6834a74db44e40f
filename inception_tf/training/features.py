"""The heads of a network on features computed once, for as long as nothing below the heads is trained."""

import keras
import numpy as np

from inception_tf.models.blocks import AuxPooling2D, Scope
from inception_tf.progress import Progress
from inception_tf.training.network import AUX_LOGITS, LOGITS


def heads_on(model, training):
    """Cuts what `network.with_losses` gave above its backbone.

    Args:
        model: a model of this library.
        training: its Keras model with losses.

    Returns:
        (backbone, heads): a Keras model from images to a dict of features, float N×…, and one from them to the outputs
        of `training`. They share the weights of `model`. Dropout belongs to the heads.
    """
    features, logits = model.features, model.logits
    feature, dropped = _below_dropout(model, features)
    cuts = {LOGITS: (feature, lambda x: keras.Model(features, logits)(dropped(x)))}
    if AUX_LOGITS in training.output:
        cuts[AUX_LOGITS] = _after_pooling(model.get_layer("AuxLogits"))
    backbone = keras.Model(model.inputs[0], {name: tensor for name, (tensor, _) in cuts.items()})
    inputs = {name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name) for name, (tensor, _) in cuts.items()}
    outputs = {name: keras.ops.cast(rest(inputs[name]), "float32") for name, (_, rest) in cuts.items()}
    return backbone, keras.Model(inputs, outputs)


def _below_dropout(model, tensor):
    """The tensor before the dropout that `tensor` comes from, and the function from it to `tensor`."""
    layer = next((layer for layer in model.layers if layer.output is tensor), None)
    if isinstance(layer, keras.layers.Dropout):
        return layer.input, layer
    if type(layer) is Scope and isinstance(layer.layers[-1], keras.layers.Dropout):
        x = layer.input
        for step in layer.layers[:-1]:
            x = step(x)
        return x, layer.layers[-1]
    return tensor, lambda x: x


def _after_pooling(head):
    """The tensor after the pooling that an auxiliary head begins with, and the function from it to the logits."""
    first, *rest = head.steps
    if not isinstance(first, AuxPooling2D):
        return head.input, head

    def run(x):
        for layer in rest:
            x = layer(x)
        return x

    return first(head.input), run


def compute(backbone, batches, count):
    """The features of all images: a dict of float32 arrays, `count`×… each.

    Args:
        backbone: from `heads_on`.
        batches: an iterable of (images, indices).
        count: how many there are.
    """
    features = {name: np.empty((count, *output.shape[1:]), np.float32) for name, output in backbone.output.items()}
    with Progress("Features", count, "images") as progress:
        for images, indices in batches:
            for name, values in backbone.predict_on_batch(np.asarray(images)).items():
                features[name][np.asarray(indices)] = values
            progress.advance(len(indices))
    return features
