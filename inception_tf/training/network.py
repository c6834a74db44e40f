"""The network under training: its losses, what of it is trained, and a plain model of the same weights."""

import dataclasses

import keras

from inception_tf.errors import MismatchError, UsageError
from inception_tf.inference import batch_norm
from inception_tf.models.blocks import serializable
from inception_tf.models.model import check_model, end_points
from inception_tf.models.registry import find_network
from inception_tf.slim.detect import in_scopes
from inception_tf.slim.names import scope_matcher, slim_name
from inception_tf.zoo import create_model

LOGITS, AUX_LOGITS = "logits", "aux_logits"


def rebuilt(model, dtype="float32", new=(), **options):
    """A model of the same network and weights, other `options` apart.

    Args:
        model: a model of this library.
        dtype: a Keras dtype policy.
        new: scopes whose weights may be new, because of other options, or are to be. The others' weights are copied.
        **options: as the network's constructor takes them; `input_shape` too.

    Raises:
        UsageError: an option out of range.
        MismatchError: other weights than those of `new` would have another shape.
    """
    card = model.card
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(dtype)
        other = create_model(
            card.network, name=model.name, **{"input_shape": model.input_shape[1:], **card.options, **options}
        )
    finally:
        keras.config.set_dtype_policy(policy)
    same_head = other.card.options["classes"] == card.options["classes"] and not new
    other.card = dataclasses.replace(
        other.card,
        scope=card.scope,
        weights=card.weights,
        labels=card.labels if same_head else None,
        preprocessing={**card.preprocessing, "size": other.card.preprocessing["size"]},
    )
    left = copy_weights(model, other, new)
    wrong = [path for path in left if not in_scopes(path, new)]
    if wrong:
        raise MismatchError(
            f"{card.network} with other options has other weights: {', '.join(wrong[:3])}"
            f"{' and more' if len(wrong) > 3 else ''} would have another shape. Keep the image's size, or the classes."
        )
    return other


def copy_weights(source, target, leave=()):
    """Copies the weights of the same path and shape, but those in the scopes `leave`. Returns the paths not copied."""
    values = {variable.path: variable for variable in source.weights}
    left = []
    for variable in target.weights:
        found = values.get(variable.path)
        if found is None or found.shape != variable.shape or in_scopes(variable.path, leave):
            left.append(variable.path)
        else:
            variable.assign(keras.ops.convert_to_numpy(found))
    return left


def with_losses(model, recipe):
    """A Keras model from images to the logits (and those of the auxiliary head), which `fit` trains.

    Args:
        model: a model of this library with its top and a vector of logits.
        recipe: a `Recipe`: `aux_loss`.

    Returns:
        The Keras model; its outputs are a dict, N×classes each, float32 or wider.
    """
    if not check_model(model).has_top or len(model.outputs[0].shape) != 2:
        raise UsageError(f"{model.name} has no vector of logits to train: build it with its top and spatial_squeeze.")
    outputs = {LOGITS: model.logits}
    if recipe.aux_loss and model.card.options.get("aux_logits"):
        outputs[AUX_LOGITS] = end_points(model)["AuxLogits"]
    outputs = {
        name: keras.ops.cast(tensor, keras.backend.result_type(tensor.dtype, "float32"))
        for name, tensor in outputs.items()
    }
    return keras.Model(model.inputs[0], outputs, name=model.name)


def compile_for(training, recipe, optimizer, multi_label=False):
    """Compiles what `with_losses` or `features.heads_on` gave: cross-entropies, and the accuracy, a count.

    Of several labels an image, these are binary, and the mean area under precision and recall is in the accuracy's
    place: Keras's, of 200 thresholds.
    """
    kind = "Binary" if multi_label else "Categorical"

    def cross_entropy():
        loss = getattr(keras.losses, f"{kind}Crossentropy")
        return loss(from_logits=True, label_smoothing=recipe.label_smoothing)

    classes = training.output[LOGITS].shape[-1]
    metrics = [getattr(keras.metrics, f"{kind}Crossentropy")(from_logits=True, name="cross_entropy")]
    if multi_label:
        options = {"curve": "PR", "multi_label": True, "num_labels": classes, "from_logits": True}
        metrics.append(COUNTED["AUC"](**options, name="pr_auc"))
    else:
        metrics.append(COUNTED["CategoricalAccuracy"](name="accuracy"))
    if classes > 5 and not multi_label:
        metrics.append(COUNTED["TopKCategoricalAccuracy"](5, name="top_5"))
    factors = {LOGITS: 1.0, AUX_LOGITS: recipe.aux_loss}
    training.compile(
        optimizer=optimizer,
        loss={head: cross_entropy() for head in training.output},
        loss_weights={head: factors[head] for head in training.output},
        weighted_metrics={LOGITS: metrics},
        jit_compile=recipe.xla or keras.backend.backend() == "jax",
    )


def counted(metric):
    """A Keras metric class that counts every image as one, whatever its class weighs, and none of weight 0."""

    class Counted(metric):
        def update_state(self, y_true, y_pred, sample_weight=None):
            if sample_weight is not None:
                sample_weight = keras.ops.cast(keras.ops.not_equal(sample_weight, 0), "float32")
                if getattr(self, "multi_label", False):  # it takes a weight for every label
                    sample_weight = keras.ops.broadcast_to(sample_weight[:, None], keras.ops.shape(y_pred))
            return super().update_state(y_true, y_pred, sample_weight)

    Counted.__name__ = f"Counted{metric.__name__}"
    return serializable(Counted)


COUNTED = {
    kind: counted(getattr(keras.metrics, kind)) for kind in ("AUC", "CategoricalAccuracy", "TopKCategoricalAccuracy")
}


def set_trainable(model, recipe, phase, mode):
    """Marks what a phase trains, and with which statistics batch norm runs.

    Args:
        model: a model of this library.
        recipe: a `Recipe`: `freeze`, `l2`.
        phase: a `Phase` of it.
        mode: "frozen", "train" or "recalibrate", for batch norm. Frozen, its beta and gamma are still trained, and
            its statistics too in the auxiliary head, which often is new.

    Raises:
        UsageError: a glob that matches no variable, or nothing left to train.
    """
    info = find_network(model.card.network)
    names = {slim_name(variable.path): variable for variable in model.weights}
    trained, frozen = (
        scope_matcher(_heads(globs, info, names), model.card.scope, names, option)
        for globs, option in ((phase.train, f"the phase {phase.name}"), (recipe.freeze, "freeze"))
    )
    model.trainable = True
    norms = {id(layer): layer for layer in batch_norm.layers(model)}
    for layer in model._flatten_layers():
        for variable in layer._trainable_variables:
            name = slim_name(variable.path)
            variable.trainable = trained(name) and not frozen(name)
            # A regularizer of the variable, not of the layer: the layer's would be saved with the model.
            kernel = variable.path.endswith("/kernel") and len(variable.shape) == 4
            variable.regularizer = keras.regularizers.L2(recipe.l2 / 2) if recipe.l2 and kernel else None
        if id(layer) in norms:
            flags = [variable.trainable for variable in layer._trainable_variables]
            scope = layer.moving_mean.path.rpartition("/")[0]
            moves = mode != "frozen" or scope.startswith("AuxLogits/")
            layer.trainable = moves and any(flags or [trained(f"{scope}/moving_mean")])
            for variable, flag in zip(layer._trainable_variables, flags):
                variable.trainable = flag
    if not any(variable.trainable for variable in model.trainable_variables):
        raise UsageError(f"The phase {phase.name} trains nothing: freeze={list(recipe.freeze)} leaves nothing over.")


def _heads(globs, info, names):
    """The globs, "heads" replaced by the scopes of the network's heads that are there."""
    there = [head for head in info.heads if any(name.startswith(head + "/") for name in names)]
    return [scope for glob in globs for scope in (there if glob == "heads" else [glob])]
