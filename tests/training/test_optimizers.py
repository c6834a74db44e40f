"""Against TensorFlow 1's own optimizer and schedules."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from inception_tf.errors import UsageError
from inception_tf.training.optimizers import learning_rate, optimizer
from inception_tf.training.recipe import OPTIMIZERS, Phase, Recipe

PHASE = Phase("all", 4, learning_rate=0.01)
GRADIENTS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"epsilon": 1e-3, "momentum": 0.5, "rho": 0.8}])
def test_rmsprop_is_tensorflow_1s(options):
    ours = keras.Variable(np.ones(3, np.float32))
    step = optimizer(Recipe(optimizer_options=options), PHASE, 10)
    for gradient in GRADIENTS:
        step.apply([keras.ops.convert_to_tensor(gradient)], [ours])
    options = {"epsilon": 1.0, "momentum": 0.9, "rho": 0.9, **options}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variable = tf.compat.v1.get_variable("v", initializer=np.ones(3, np.float32))
        gradient = tf.compat.v1.placeholder(tf.float32, 3)
        theirs = tf.compat.v1.train.RMSPropOptimizer(
            0.01, decay=options["rho"], momentum=options["momentum"], epsilon=options["epsilon"]
        )
        train = theirs.apply_gradients([(gradient, variable)])
        session.run(tf.compat.v1.global_variables_initializer())
        for value in GRADIENTS:
            session.run(train, {gradient: value})
        expected = session.run(variable)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6)


def slims(recipe, step, steps_per_epoch):
    """The learning rate that train_image_classifier.py's `_configure_learning_rate` gives."""
    train = tf.compat.v1.train
    if recipe.schedule == "exponential":
        decay_steps = int(recipe.decay_epochs * steps_per_epoch)
        return train.exponential_decay(0.01, step, decay_steps, recipe.decay_rate, staircase=True)
    if recipe.schedule == "polynomial":
        return train.polynomial_decay(0.01, step, PHASE.epochs * steps_per_epoch, 0.01 * recipe.end_learning_rate)
    if recipe.schedule == "cosine":
        return train.cosine_decay(0.01, step, PHASE.epochs * steps_per_epoch, alpha=recipe.end_learning_rate)
    return 0.01


@pytest.mark.parametrize("schedule", ["constant", "exponential", "polynomial", "cosine"])
def test_schedules_are_tensorflow_1s(schedule):
    recipe = Recipe(schedule=schedule)
    rate = learning_rate(recipe, PHASE, 10)
    for step in (0, 1, 19, 20, 39, 40):
        found = rate(step) if callable(rate) else rate
        expected = slims(recipe, step, 10)
        expected = expected() if callable(expected) else expected
        np.testing.assert_allclose(float(found), float(expected), rtol=1e-5)


def test_warm_up():
    rate = learning_rate(Recipe(schedule="cosine", warmup_epochs=1), PHASE, 10)
    values = [float(rate(step)) for step in range(40)]
    assert values[0] == pytest.approx(0.01 / 11)
    assert values[:10] == sorted(values[:10]) and values[10] == pytest.approx(0.01)
    assert values[10:] == sorted(values[10:], reverse=True) and values[-1] < 2e-4


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_steps(name):
    variable = keras.Variable(np.ones(3, np.float32))
    step = optimizer(Recipe(optimizer=name, clip=1.0, ema=0.9, accumulate=2), PHASE, 10)
    for gradient in GRADIENTS[:1].repeat(2, 0):
        step.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    assert np.all((variable.numpy() - 1) * GRADIENTS[0] < 0)  # against the gradient


def test_options_that_it_does_not_take():
    with pytest.raises(UsageError, match="adam does not take optimizer_options .*rho"):
        optimizer(Recipe(optimizer="adam", optimizer_options={"rho": 0.9}), PHASE, 10)
