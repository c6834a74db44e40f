"""The words that timm, Keras and TF-Slim have for a network's options, beside those of this library."""

import difflib

from inception_tf.errors import UsageError

# What is understood: another word for the same value.
SAME = {
    "num_classes": "classes",
    "drop_rate": "dropout",
    "create_aux_logits": "aux_logits",
    "checkpoint_path": "weights",
}
# What is not, and what to write.
INSTEAD = {
    "in_chans": "input_shape=(height, width, channels) has the channels, and a checkpoint's first convolution its own",
    "img_size": "input_shape=(height, width, channels)",
    "input_size": "input_shape=(height, width, channels)",
    "global_pool": 'pooling="avg" or "max", with include_top=False',
    "features_only": "feature_extractor(model, end_points) makes a model of a model's end points",
    "out_indices": "feature_extractor(model, end_points) makes a model of a model's end points",
    "input_tensor": "call the model on the tensor: model(tensor)",
    "alpha": "depth_multiplier",
    "dropout_keep_prob": "dropout, which is 1 - dropout_keep_prob",
    "is_training": "call the model with training=True or training=False",
    "final_endpoint": "feature_extractor(model, end_point)",
    "prediction_fn": "classifier_activation",
    "num_labels": "classes",
}


def translate(network, options, known):
    """A network's options, with other libraries' words for them as this one's.

    Args:
        network: its name.
        options: a dict, of which `pretrained=True` becomes `weights="imagenet"`.
        known: the options that the network has.

    Raises:
        UsageError: a word that is not understood; says what to write. An option given twice.
    """
    options = dict(options)
    if options.get("num_classes") == 0:
        raise UsageError('num_classes=0, no classifier, is called include_top=False, pooling="avg" here.')
    if options.get("pretrained") in (True, False):
        options |= {"weights": "imagenet"} if options.pop("pretrained") and _absent(options, "weights") else {}
    for word in [word for word in options if word in SAME and word not in known and SAME[word] in known]:
        if _absent(options, SAME[word]):
            options[SAME[word]] = options.pop(word)
    if unknown := [word for word in options if word not in known]:
        hints = [_hint(word, known) for word in unknown]
        raise UsageError(f"{network} has no option {', '.join(hints)}. It has: {', '.join(known)}.")
    return options


def _absent(options, word):
    """True; raises a `UsageError` where the option was given by another word too."""
    if options.get(word) is not None:
        raise UsageError(f"Two words for one option. Received: {', '.join(options)}, with {word}={options[word]!r}")
    return True


def _hint(word, known):
    near = difflib.get_close_matches(word, known, 1)
    if word in INSTEAD:
        return f"{word} (instead: {INSTEAD[word]})"
    return f"{word} (did you mean {near[0]}?)" if near else word
