"""Where a model's trunk ends and its classifier begins."""

import keras

from inception_tf.errors import UsageError
from inception_tf.models.blocks import Auxiliary


def has_top(model):
    """Whether a model of this library ends in its classifier.

    Raises:
        UsageError: it is no model of this library.
    """
    card = getattr(model, "card", None)
    if not card:
        raise UsageError(f"Expected a model that create_model or load_model made. Received: {type(model).__name__}")
    return card["options"].get("include_top", True)


def classifier(model):
    """The Keras tensors (features, logits) of a model with a top.

    The logits are the output before its activation; the features are what the layer that makes the logits takes:
    PreLogits in the Inceptions, the global pooling in the ResNets. By structure, since the networks' names differ.
    """
    made_by = {id(layer.output): layer for layer in model.layers}
    logits = model.outputs[0]
    while isinstance(layer := made_by[id(logits)], (keras.layers.Activation, Auxiliary)):
        logits = keras.tree.flatten(layer.input)[0]
    while not layer.weights:  # a squeeze of its own
        layer = made_by[id(layer.input)]
    return layer.input, logits


def activation_of(model):
    """The function from a model's logits to its probabilities; softmax where the model gives logits."""
    return keras.activations.get("softmax" if gives_logits(model) else model.card["options"]["classifier_activation"])


def gives_logits(model):
    """Whether a model with a top was built without a last activation, so that its output is its logits."""
    return model.card["options"].get("classifier_activation") in (None, "linear")


def as_probabilities(model, outputs):
    """The probabilities that the outputs of a model with a top stand for: softmax of logits, others as they are."""
    return activation_of(model)(outputs) if gives_logits(model) else outputs
