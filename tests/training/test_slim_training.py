"""A training step beside that of TF-Slim's own graph, losses and optimizer, on the same batch."""

import importlib

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.inference import batch_norm
from inception_tf.models.blocks import Conv2D
from inception_tf.slim import reference
from inception_tf.slim.names import model_variables
from inception_tf.training import network
from inception_tf.training.optimizers import optimizer
from inception_tf.training.recipe import Phase, Recipe

SIZE, CLASSES, BATCH, DECAY, KEEP = 107, 3, 16, 0.9997, 0.8
RECIPE, PHASE = Recipe(label_smoothing=0.1), Phase("all", 1, ("*",), 0.01)


def slims_step(weights, images_, labels_, activation, fused):
    """What train_image_classifier.py does with the flags of `RECIPE`.

    Returns:
        (the variables after the step, the loss, where dropout left the features, the values per channel in a batch that
        every fused batch norm saw)
    """
    import tensorflow.compat.v1 as tf

    slim = reference.import_tf_slim()
    nets = importlib.import_module("tf_slim.nets.inception_v3")
    with tf.Graph().as_default() as graph, tf.Session() as session:
        images = tf.placeholder(images_.dtype, images_.shape)
        labels = tf.placeholder(labels_.dtype, labels_.shape)
        arguments = nets.inception_v3_arg_scope(weight_decay=RECIPE.l2, use_fused_batchnorm=fused)
        with slim.arg_scope(arguments), slim.arg_scope([slim.conv2d], activation_fn=getattr(tf.nn, activation)):
            logits, end_points = nets.inception_v3(
                images, CLASSES, is_training=True, dropout_keep_prob=KEEP, depth_multiplier=0.1, create_aux_logits=True
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
        left = end_points["PreLogits"].op.inputs[0]  # dropout is a choice between the features and 0
        value, mask, *_ = session.run([loss, left, train, updates], {images: images_, labels: labels_})
        norms = [op for op in graph.get_operations() if op.type == "FusedBatchNormV3"]
        counts = {
            op.name.replace("InceptionV3/", "").rpartition("/")[0]: op.inputs[0].shape[:3].num_elements()
            for op in norms
        }
        return session.run(variables), value, mask, counts


def both_steps(activation, fused):
    """A step of Slim's and one of ours, from the same weights, with the same dropout.

    Returns:
        (how far each variable's move is from Slim's, as a fraction of it; the same for the moving variances, where
        ours are first made those of a sample)
    """
    keras.utils.set_random_seed(3)
    model = itf.create_model(
        "inception_v3", classes=CLASSES, depth_multiplier=0.1, input_shape=(SIZE, SIZE, 3), aux_logits=True
    )
    for layer in model._flatten_layers():
        if isinstance(layer, Conv2D) and layer.activation is keras.activations.relu:
            layer.activation = getattr(keras.activations, activation)
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (BATCH, SIZE, SIZE, 3)).astype(keras.config.floatx())
    labels = np.eye(CLASSES, dtype=images.dtype)[random.integers(0, CLASSES, BATCH)]
    weights = {name: np.asarray(variable) for name, variable in model_variables(model).items()}
    slims, slims_loss, mask, counts = slims_step(weights, images, labels, activation, fused)

    (dropout,) = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dropout)]
    assert dropout.rate == pytest.approx(1 - KEEP) and 0.7 < mask.mean() < 0.9
    dropout.call = lambda features, training: features * (mask.reshape(BATCH, *features.shape[1:]) / KEEP)
    network.set_trainable(model, RECIPE, PHASE, "train")
    training = network.with_losses(model, RECIPE)
    network.compile_for(training, RECIPE, optimizer(RECIPE, PHASE, 1))
    with batch_norm.momentum(model, DECAY):
        loss = training.train_on_batch(images, dict.fromkeys(training.output, labels), return_dict=True)["loss"]
    assert loss == pytest.approx(slims_loss, rel=1e-6)

    ours = {name: np.asarray(variable) for name, variable in model_variables(model).items()}
    sample = {}
    for norm, count in counts.items():
        name = norm + "/moving_variance"
        sample[name] = DECAY * weights[name] + (ours[name] - DECAY * weights[name]) * count / (count - 1)

    def distances(found):
        moves = {name: np.linalg.norm(slims[name] - weights[name]) for name in found}
        return {name: np.linalg.norm(found[name] - slims[name]) / moves[name] for name in found}

    return distances(ours), distances(sample)


@pytest.mark.slow
def test_a_training_step_is_slims(monkeypatch):
    """With ReLU and dropout, in float64, where rounding does not decide on which side of ReLU's kink a value lies."""
    # TensorFlow has no top-k accuracy of float64.
    monkeypatch.setattr(
        keras.metrics, "TopKCategoricalAccuracy", lambda k, name: keras.metrics.CategoricalAccuracy(name=name)
    )
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        distances, _ = both_steps("relu", fused=False)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    assert max(distances.values()) < 1e-6


@pytest.mark.slow
def test_a_training_step_is_that_of_fused_batch_norm():
    """In float32, as Slim trains: TensorFlow's fused batch norm keeps the variance of a sample, n / (n - 1) times ours.

    Softplus is in ReLU's place, which rounds no value across a kink. In the pools of the stem it may still: of the many
    windows of float32 values one is a tie but for rounding, which sends its gradient to another place. What the stem
    learns is held by the test in float64.
    """
    distances, of_sample = both_steps("softplus", fused=True)
    variances = {name for name in distances if name.endswith("/moving_variance")}
    assert variances == set(of_sample)
    learned = {name for name in distances if name.startswith("Conv2d_") and not name.endswith("/moving_mean")}
    assert len(distances) > 300 > 30 > len(learned - variances) > 0
    assert max(distances[name] for name in distances.keys() - variances - learned) < 2e-4
    assert max(of_sample.values()) < 1e-3  # of 0.9997 in float32, a move keeps three digits
