"""A training step beside that of TF-Slim's own graph, losses and optimizer, on the same batch."""

import importlib

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.models.blocks import Conv2D
from inception_tf.slim import reference
from inception_tf.slim.names import model_variables
from inception_tf.training import batch_norm, network
from inception_tf.training.optimizers import optimizer
from inception_tf.training.recipe import Phase, Recipe

SIZE, CLASSES, BATCH = 107, 3, 16
RECIPE, PHASE = Recipe(label_smoothing=0.1, dropout=0.0), Phase("all", 1, ("*",), 0.01)


def slims_step(weights, images_, labels_):
    """What train_image_classifier.py does with the flags of `RECIPE`: the variables after the step, and the loss."""
    import tensorflow.compat.v1 as tf

    slim = reference.import_tf_slim()
    nets = importlib.import_module("tf_slim.nets.inception_v3")
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder(tf.float32, (None, SIZE, SIZE, 3))
        labels = tf.placeholder(tf.float32, (None, CLASSES))
        arguments = nets.inception_v3_arg_scope(weight_decay=RECIPE.l2)
        with slim.arg_scope(arguments), slim.arg_scope([slim.conv2d], activation_fn=tf.nn.softplus):
            logits, end_points = nets.inception_v3(
                images, CLASSES, is_training=True, dropout_keep_prob=1.0, depth_multiplier=0.1, create_aux_logits=True
            )
        for output, weight in ((end_points["AuxLogits"], 0.4), (logits, 1.0)):
            tf.losses.softmax_cross_entropy(labels, output, weights=weight, label_smoothing=RECIPE.label_smoothing)
        loss = tf.losses.get_total_loss()
        step = tf.train.RMSPropOptimizer(PHASE.learning_rate, decay=0.9, momentum=0.9, epsilon=1.0)
        train = step.minimize(loss)
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        session.run(tf.global_variables_initializer())
        variables = {v.op.name.removeprefix("InceptionV3/"): v for v in slim.get_model_variables()}
        assert set(variables) == set(weights)
        for name, variable in variables.items():
            variable.load(weights[name], session)
        value, *_ = session.run([loss, train, updates], {images: images_, labels: labels_})
        return session.run(variables), value


@pytest.mark.slow
def test_a_training_step_is_slims():
    keras.utils.set_random_seed(3)
    model = itf.create_model(
        "inception_v3",
        classes=CLASSES,
        depth_multiplier=0.1,
        input_shape=(SIZE, SIZE, 3),
        aux_logits=True,
        dropout=0.0,
    )
    random = np.random.default_rng(0)
    # Of a ReLU, rounding decides here and there on which side of its kink a value lies.
    for layer in model._flatten_layers():
        if isinstance(layer, Conv2D) and layer.activation is keras.activations.relu:
            layer.activation = keras.activations.softplus
    images = random.uniform(-1, 1, (BATCH, SIZE, SIZE, 3)).astype(np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[random.integers(0, CLASSES, BATCH)]
    weights = {name: np.array(variable) for name, variable in model_variables(model).items()}
    expected, slims_loss = slims_step(weights, images, labels)

    network.set_trainable(model, RECIPE, PHASE, "train")
    training = network.with_losses(model, RECIPE)
    network.compile_for(training, RECIPE, optimizer(RECIPE, PHASE, 1))
    with batch_norm.momentum(model, 0.9997):
        targets = dict.fromkeys(training.output, labels)
        loss = training.train_on_batch(images, targets, return_dict=True)["loss"]
    assert loss == pytest.approx(slims_loss, rel=1e-5)
    found = {name: np.array(variable) for name, variable in model_variables(model).items()}

    # How far each variable's move is from Slim's, as a share of it.
    from_slim = {
        name: np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name] - start)
        for name, start in weights.items()
    }
    # TensorFlow's fused batch norm keeps the variance of a sample, n / (n - 1) times that of the batch.
    variances = {name for name in from_slim if name.endswith("moving_variance")}
    assert max(from_slim[name] for name in variances) < 0.08
    assert max(share for name, share in from_slim.items() if name not in variances) < 1e-3
