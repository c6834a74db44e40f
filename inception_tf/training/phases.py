"""The phases of a run: what each trains, on which batches, towards which loss."""

import dataclasses

import keras
import numpy as np

from inception_tf.errors import MismatchError, TrainingError, UsageError, listed
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.inference import batch_norm
from inception_tf.training import batches, features
from inception_tf.training.network import LOGITS, compile_for, rebuilt, set_trainable, with_losses
from inception_tf.training.optimizers import optimizer
from inception_tf.training.ridge import ridge

# Features of more bytes than this are not cached; the backbone then runs in every step.
FEATURE_BYTES = 1 << 30
# With fewer validation images of a class, one of them is more than a tenth of its accuracy.
FEW_IMAGES = 10


class PhaseBuilder:
    """The data and the model of a run, of which it builds what each phase trains.

    Args:
        product: the float32 model that is saved. A copy, `model`, is trained in the recipe's precision.
        train, held_out: `Examples`.
        recipe: a `Recipe`, filled in.
        devices: a `OneDevice` or another of `devices`.
    """

    def __init__(self, product, train, held_out, recipe, devices):
        self.product, self.recipe, self.devices = product, recipe, devices
        self.train, self.held_out = train, held_out
        self.order = batches.Order(len(train), recipe.batch_size, recipe.seed, devices.worker, devices.workers)
        self.decoded, self.val_decoded = batches.Decoded(train), batches.Decoded(held_out)
        self.preprocessing = preprocessing_of(product)
        self.factors = class_factors(recipe.class_weights, train.labels, train.class_names)
        options = product.card.options
        dropout = {"dropout": recipe.dropout} if recipe.dropout is not None and "dropout" in options else {}
        shape = (None, None, product.input_shape[-1]) if recipe.train_scale < 1 else product.input_shape[1:]
        with devices.scope():
            self.model = rebuilt(product, recipe.precision, input_shape=shape, **dropout)

    def describe(self):
        """A line on what is about to be trained."""
        recipe, card = self.recipe, self.product.card
        source = card.weights.source
        text = (
            f"{card.network} from {source}, {len(self.train.class_names)} classes, {len(self.train)} training and "
            f"{len(self.held_out)} validation images, {self.order.steps_per_epoch} steps of {recipe.batch_size} an "
            f"epoch. Batch norm: {recipe.batch_norm}"
        )
        momenta = [self.momentum(phase) for phase in recipe.phases]
        if recipe.batch_norm != "frozen" and momenta[0] is not None:
            own = batch_norm.layers(self.model)[0].momentum
            text += f", momentum {', '.join(f'{value:.4g}' for value in momenta)} (the network's own: {own})"
        return "\n".join([text + ".", *warnings(self.train, self.held_out)])

    def build(self, phase, begins=True):
        """What a phase runs; marks in the models what it trains.

        Args:
            begins: whether it runs from its beginning, with the ridge regression that it may begin with.

        Returns:
            (training, batches, validation): the compiled Keras model with the losses; a function from a step to the
            endless dataset of the training batches from there on; the dataset of the validation batches.
        """
        recipe = dataclasses.replace(self.recipe, augment=phase.augment)
        for model in (self.model, self.product):
            set_trainable(model, recipe, phase, recipe.batch_norm)
        with self.devices.scope():
            training = with_losses(self.model, recipe)
            heads, arrays = self._cached_features(training, phase)
            inputs = arrays and [batches.features(part) for part in arrays]
            if phase.ridge and begins:
                self._begin_with_ridge(arrays[0][LOGITS])
            training = heads or training
            steps = self.order.steps_per_epoch
            compile_for(training, recipe, optimizer(recipe, phase, steps), self.train.multi_label)
        inputs = inputs or (
            batches.images(self.decoded, self.preprocessing, recipe),
            batches.images(self.val_decoded, self.preprocessing),
        )
        targets = [
            batches.Targets(examples.labels, len(examples.class_names), tuple(training.output), factors)
            for examples, factors in ((self.train, self.factors), (self.held_out, None))
        ]
        training_batches = batches.training_batches(inputs[0], targets[0], self.order, recipe)
        return training, training_batches, batches.validation_batches(inputs[1], targets[1], self.order)

    def training_images(self):
        """This worker's part of the training images, once, as for evaluation."""
        shared = self.devices.workers, self.devices.worker
        images = batches.all_images(self.decoded, self.preprocessing, self.recipe.batch_size, shared)
        return (batch.numpy() for batch, _ in images)

    def momentum(self, phase):
        """The momentum of batch norm in a phase, or None where the network has none."""
        if self.recipe.batch_norm_momentum is not None:
            return self.recipe.batch_norm_momentum
        own = [layer.momentum for layer in batch_norm.layers(self.model)]
        return batch_norm.choose_momentum(max(own), phase.epochs * self.order.steps_per_epoch) if own else None

    def _cached_features(self, training, phase):
        """The heads alone as a model and the features of both parts; None, None where more than heads changes."""
        if phase.augment != "none" or self.devices.replicas > 1:
            return None, None
        backbone, heads = features.heads_on(self.model, training)
        below = [v for v in training.trainable_variables if not any(v is w for w in heads.trainable_variables)]
        moving = [layer for layer in batch_norm.layers(backbone) if layer.trainable]
        size = sum(np.prod(tensor.shape[1:]) for tensor in backbone.output.values()) * 4
        if below or moving or not phase.ridge and size * (len(self.train) + len(self.held_out)) > FEATURE_BYTES:
            return None, None
        parts = self.decoded, self.val_decoded
        images = [batches.all_images(part, self.preprocessing, self.recipe.batch_size) for part in parts]
        return heads, [features.compute(backbone, data, len(part)) for data, part in zip(images, parts)]

    def _begin_with_ridge(self, features):
        """Gives the classifier the weights of a ridge regression on the features of the training images."""
        if not np.isfinite(features).all():
            raise TrainingError("The features are NaN or infinite: the weights are broken, or float16 is too narrow.")
        kernel, bias = self.model.classifier.trainable_variables
        labels, classes = self.train.labels, bias.shape[0]
        kind = keras.losses.BinaryCrossentropy if self.train.multi_label else keras.losses.CategoricalCrossentropy
        loss = kind(from_logits=True)
        found = ridge(
            # Of a classifier by position, whose answers are averaged, the means.
            features.mean(tuple(range(1, features.ndim - 1))),
            labels if self.train.multi_label else np.eye(classes)[labels],
            lambda logits, targets: float(loss(targets, logits)),
            None if self.factors is None else self.factors[labels],
        )
        for variable, value in zip((kernel, bias), found):
            variable.assign(value.reshape(variable.shape))


def check(product, train, recipe, devices):
    """Raises a `UsageError` where a run of these would fail, before it begins. Arguments as of `PhaseBuilder`."""
    check_batch(recipe, train)
    if recipe.batch_size % devices.replicas:
        raise UsageError(f"A batch of {recipe.batch_size} cannot be split among {devices.replicas} devices.")
    devices.check(recipe)
    if train.multi_label and (recipe.mixup or recipe.class_weights is not None):
        raise UsageError(
            "mixup and class_weights are for one label an image. Received: data with several, "
            f"mixup={recipe.mixup}, class_weights={recipe.class_weights!r}"
        )
    if recipe.train_scale < 1:
        if product.card.options.get("aux_logits") and recipe.aux_loss:
            raise UsageError("An auxiliary head is made for one size. With a train_scale below 1, aux_loss is 0.")
        try:
            *sides, channels = product.input_shape[1:]
            rebuilt(product, input_shape=(*batches.scaled(sides, recipe.train_scale), channels))
        except (UsageError, MismatchError) as error:
            raise UsageError(f"{error} Received: train_scale={recipe.train_scale}; 1 keeps the size.") from error
    class_factors(recipe.class_weights, train.labels, train.class_names)
    with_losses(product, recipe)
    for phase in recipe.phases:
        set_trainable(product, recipe, phase, recipe.batch_norm)
        optimizer(recipe, phase, 1)
        if phase.ridge:
            _check_ridge(product, phase, train, devices)


def _check_ridge(product, phase, train, devices):
    size = 4 * len(train) * np.prod(product.features.shape[1:])
    needed = {
        "heads alone: train: heads": phase.train == ("heads",),
        "no augmentation: augment: none": phase.augment == "none",
        "one device: --devices 1 (devices=1), and no workers": devices.replicas == 1 and devices.workers == 1,
        f"features of at most 1 GiB, here {size / 2**30:.1f}": size <= FEATURE_BYTES,
        "the whole classifier: freeze has a part of it": len(product.classifier.trainable_variables) == 2,
    }
    if missing := [need for need, met in needed.items() if not met]:
        raise UsageError(f"The phase {phase.name} begins with a ridge regression, which needs {'; '.join(missing)}.")


def check_batch(recipe, train):
    """Raises a `UsageError` where the training images are fewer than a batch, or the steps than `accumulate`."""
    if recipe.batch_size > len(train):
        raise UsageError(
            f"A batch of {recipe.batch_size} is more than the {len(train)} training images. "
            f"Give --batch-size {len(train)} or less."
        )
    steps = min(phase.epochs for phase in recipe.phases) * (len(train) // recipe.batch_size)
    if recipe.accumulate > steps:
        raise UsageError(f"accumulate={recipe.accumulate} leaves a phase of {steps} steps without one update.")


def warnings(train, held_out):
    """Lines on what makes the figures of a run less telling: an imbalance, few validation images."""
    counts, held = train.class_counts, held_out.class_counts
    most, least = np.argmax(counts), np.argmin(counts)
    lines = []
    if not counts[0] and counts[1:].all() and not train.multi_label:
        lines.append(
            f"No training image is of {train.class_names[0]}, number 0. Where the data counts from 1, "
            "--labels-offset 1 (labels_offset=1) is subtracted."
        )
    if counts.all() and counts[most] > 2 * counts[least] and not train.multi_label:
        lines.append(
            f"Imbalance: {counts[most]} training images of {train.class_names[most]}, {counts[least]} of "
            f"{train.class_names[least]}. class_weights (--class-weights balanced) makes classes count alike."
        )
    if few := [f"{train.class_names[i]} ({held[i]})" for i in np.flatnonzero(held < FEW_IMAGES)]:
        lines.append(f"Fewer than {FEW_IMAGES} validation images, their accuracy says little: {listed(few)}.")
    return lines


def class_factors(class_weights, labels, names):
    """The factor of every class on the loss of its images: float32 array of shape (classes,), or None for none.

    Args:
        class_weights: None, "balanced" or a dict from class names, as in `Recipe`.
        labels: those of the training images.
        names: the classes'.
    """
    if class_weights is None:
        return None
    if class_weights == "balanced":
        counts = np.bincount(labels, minlength=len(names))
        return (len(labels) / (len(names) * np.maximum(counts, 1))).astype(np.float32)
    class_weights = {str(name): factor for name, factor in class_weights.items()}  # YAML's 1 is a number
    if unknown := class_weights.keys() - set(names):
        raise UsageError(f"class_weights names classes that are not there: {', '.join(sorted(unknown))}.")
    factors = np.array([class_weights.get(name, 1.0) for name in names], np.float32)
    if not factors[labels].any():
        raise UsageError("class_weights gives every training image the weight 0.")
    return factors
