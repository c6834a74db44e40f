"""Optimizers and learning rates of a recipe, as Keras objects."""

import keras

from inception_tf.errors import UsageError
from inception_tf.models.blocks import serializable
from inception_tf.training.recipe import OPTIMIZERS


@serializable  # with the optimizer, ModelCheckpoint saves them
class RMSprop(keras.optimizers.RMSprop):
    """TensorFlow 1's RMSProp, as Slim trained with it: the mean square of the gradients starts at 1, not at 0.

    With Keras's, the first steps of a small epsilon are much larger. Arguments as in `keras.optimizers.RMSprop`.
    """

    def add_optimizer_variables(self, trainable_variables, name, initializer="zeros"):
        return super().add_optimizer_variables(trainable_variables, name, "ones" if name == "velocity" else initializer)


@serializable
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A line from 0 up to `learning_rate` over the first steps, and then that, a number or a schedule of its own."""

    def __init__(self, learning_rate, steps):
        self.learning_rate, self.steps = learning_rate, steps

    def get_config(self):
        rate = self.learning_rate
        rate = keras.saving.serialize_keras_object(rate) if callable(rate) else rate
        return {"learning_rate": rate, "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["learning_rate"]), config["steps"])

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        schedule = self.learning_rate
        after = schedule(keras.ops.maximum(step - self.steps, 0.0)) if callable(schedule) else schedule
        return after * keras.ops.minimum((step + 1) / (self.steps + 1), 1.0)


def learning_rate(recipe, phase, steps_per_epoch):
    """The learning rate of a phase: a number, or a Keras schedule by steps.

    Args:
        recipe: a `Recipe`.
        phase: a `Phase` of it, its learning rate filled in.
        steps_per_epoch: the steps an epoch takes.
    """
    schedules = keras.optimizers.schedules
    first, last = phase.learning_rate, phase.learning_rate * recipe.end_learning_rate
    warm_up = round(recipe.warmup_epochs * steps_per_epoch)
    steps = max(phase.epochs * steps_per_epoch - warm_up, 1)
    if recipe.schedule == "exponential":
        decay_steps = max(round(recipe.decay_epochs * steps_per_epoch), 1)
        rate = schedules.ExponentialDecay(first, decay_steps, recipe.decay_rate, staircase=True)
    elif recipe.schedule == "polynomial":
        rate = schedules.PolynomialDecay(first, steps, last)
    elif recipe.schedule == "cosine":
        rate = schedules.CosineDecay(first, steps, alpha=recipe.end_learning_rate)
    else:
        rate = first
    return WarmUp(rate, warm_up) if warm_up else rate


def optimizer(recipe, phase, steps_per_epoch):
    """The Keras optimizer of a phase. Arguments as `learning_rate`.

    Raises:
        UsageError: `optimizer_options` that the optimizer does not take.
    """
    kinds = {"rmsprop": RMSprop, "sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
    kinds |= {"adamw": keras.optimizers.AdamW, "lion": keras.optimizers.Lion}
    options = {**OPTIMIZERS[recipe.optimizer][0], **recipe.optimizer_options}
    try:
        optimizer = kinds[recipe.optimizer](
            learning_rate=learning_rate(recipe, phase, steps_per_epoch),
            global_clipnorm=recipe.clip,
            use_ema=recipe.ema is not None,
            ema_momentum=recipe.ema or 0.99,
            gradient_accumulation_steps=recipe.accumulate if recipe.accumulate > 1 else None,
            **options,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"{recipe.optimizer} does not take optimizer_options {options}: {error}") from error
    optimizer.finalize_variable_values = lambda variables: None  # `fit` ends with the averages for weights
    return optimizer
