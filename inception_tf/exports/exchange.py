"""What the exports to other libraries' networks share: which models go there, their layers, the classifier."""

import json

import keras

from inception_tf.errors import UsageError
from inception_tf.exports.driver import Format
from inception_tf.models.fused import refuse_fused
from inception_tf.models.registry import find_network
from inception_tf.slim.verify import NEUTRAL

IMAGENET_WITH_BACKGROUND = 1001


class ExchangeFormat(Format):
    """A file of weights for another library's network.

    Attributes:
        library: its name.
        networks: those of our networks that it has.
    """

    options = ("background", "check", "overwrite")
    library, networks = "", ()

    def prepare(self, model, target, options):
        export = super().prepare(model, target, options)
        check_published_form(model, self.networks, self.library)
        drops_background(model, options.background)
        return export


def check_published_form(model, networks, library):
    """Raises a `UsageError` unless `model` is the published form of one of `networks`, the only one `library` has."""
    refuse_fused(model, f"A file for {library}")
    info, options = find_network(model.card.network), model.card.options
    if info.name not in networks:
        raise UsageError(f"{library} has no form of {info.name} here. It has one of: {', '.join(networks)}.")
    own = {
        option: value
        for option, value in info.options_for(**options).items()
        if option not in NEUTRAL and json.dumps(value) != json.dumps(info.defaults[option])
    }
    if own:
        raise UsageError(f"{library} has {info.name} with its default options only. Received: {own}")


def drops_background(model, background=None):
    """Whether class 0 stays behind: `background` is "drop", or None and the model has ImageNet's 1001 classes."""
    classes = model.card.classes
    if background == "drop" and classes in (None, 1):
        raise UsageError(f'background="drop" needs a classifier of at least two classes. {model.name} has none.')
    return background == "drop" or (background is None and classes == IMAGENET_WITH_BACKGROUND)


def classifier_weights(layer, drop):
    """The kernel, features×classes, and the bias of a classifying `layer`, a 1×1 convolution or fully connected.

    Args:
        drop: whether to leave out class 0.
    """
    kernel, bias = (keras.ops.convert_to_numpy(weight) for weight in layer.weights)
    kernel = kernel.reshape(-1, kernel.shape[-1])
    return (kernel[:, 1:], bias[1:]) if drop else (kernel, bias)
