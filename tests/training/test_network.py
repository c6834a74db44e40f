"""What is trained, what is minimized, what batch norm does."""

import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import MismatchError, UsageError
from inception_tf.inference import batch_norm
from inception_tf.training import features, network
from inception_tf.training.network import AUX_LOGITS, LOGITS, counted
from inception_tf.training.recipe import Phase, Recipe

EVERYTHING, HEADS = Phase("all", 1, ("*",), 0.01), Phase("heads", 1, ("heads",), 0.01)
SIZE = 107  # the least for an auxiliary head


@pytest.fixture(scope="module")
def inception():
    keras.utils.set_random_seed(1)
    model = itf.create_model(
        "inception_v3", classes=3, depth_multiplier=0.1, input_shape=(SIZE, SIZE, 3), aux_logits=True
    )
    for layer in batch_norm.layers(model):
        layer.moving_mean.assign(np.random.default_rng(0).normal(0, 0.1, layer.moving_mean.shape))
    return model


def trained(model, phase=EVERYTHING, mode="frozen", **recipe):
    network.set_trainable(model, Recipe(**recipe), phase, mode)
    return {variable.path for variable in network.with_losses(model, Recipe(**recipe)).trainable_variables}


def moving(model):
    return {layer.moving_mean.path.rpartition("/")[0] for layer in batch_norm.layers(model) if layer.trainable}


def test_scopes_are_trained_by_globs(inception):
    everything = {v.path for v in inception.weights if "moving_" not in v.path}
    assert trained(inception) == everything
    assert trained(inception, HEADS) == {p for p in everything if p.startswith(("Logits/", "AuxLogits/"))}
    assert trained(inception, HEADS, aux_loss=0) == {p for p in everything if p.startswith("Logits/")}
    some = Phase("some", 1, ("InceptionV3/Mixed_7*", "heads"))
    expected = {p for p in everything if p.startswith(("Mixed_7", "Logits/", "AuxLogits/"))}
    assert trained(inception, some) == expected
    assert trained(inception, some, freeze=["Mixed_7[ab]", "*/BatchNorm"]) == {
        p for p in expected if not p.startswith(("Mixed_7a", "Mixed_7b")) and "BatchNorm" not in p
    }
    branch = Phase("branch", 1, ("Mixed_7c/Branch_0",))
    assert trained(inception, branch) == {p for p in everything if p.startswith("Mixed_7c/Branch_0/")}


@pytest.mark.parametrize(
    ("phase", "freeze", "message"),
    [
        (Phase("late", 1, ("Mixed_8*",)), (), "the phase late: nothing matches 'Mixed_8"),
        (EVERYTHING, ("Conv9",), "freeze: nothing matches 'Conv9'"),
        (HEADS, ("Logits", "AuxLogits"), "The phase heads trains nothing"),
    ],
)
def test_globs_that_match_nothing(inception, phase, freeze, message):
    with pytest.raises(UsageError, match=message):
        network.set_trainable(inception, Recipe(freeze=freeze), phase, "frozen")


def test_batch_norm_moves_where_it_is_asked_and_trained(inception):
    aux = {"AuxLogits/Conv2d_1b_1x1/BatchNorm", "AuxLogits/Conv2d_2a_1x1/BatchNorm"}
    trained(inception, mode="frozen")
    assert moving(inception) == aux  # a new head has no statistics to keep
    trained(inception, mode="train")
    assert len(moving(inception)) == len(batch_norm.layers(inception))
    trained(inception, Phase("some", 1, ("Mixed_7c/Branch_0", "Logits")), "train")
    assert moving(inception) == {"Mixed_7c/Branch_0/Conv2d_0a_1x1/BatchNorm"}
    trained(inception, mode="train", freeze=("Conv2d_1a_3x3",))
    assert "Conv2d_1a_3x3/BatchNorm" not in moving(inception)


def test_the_objective_is_slims(inception):
    """Softmax cross-entropy of both heads with label smoothing, and l2 · Σw²/2 over the convolutions' kernels."""
    recipe = Recipe(label_smoothing=0.1, aux_loss=0.3, l2=1e-2)
    network.set_trainable(inception, recipe, EVERYTHING, "frozen")
    training = network.with_losses(inception, recipe)
    network.compile_for(training, recipe, keras.optimizers.SGD(0.0))
    training.run_eagerly = True  # tracing it for one batch takes longer
    images = np.random.default_rng(0).uniform(-1, 1, (4, SIZE, SIZE, 3)).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]]
    found = training.test_on_batch(images, dict.fromkeys(training.output, labels), return_dict=True)

    outputs = {name: np.asarray(value, np.float64) for name, value in training(images, training=False).items()}
    smooth = labels * 0.9 + 0.1 / 3

    def cross_entropy(logits, targets):
        logits = logits - logits.max(1, keepdims=True)
        return -(targets * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1).mean()

    kernels = [np.asarray(v, np.float64) for v in inception.weights if v.path.endswith("kernel")]
    expected = cross_entropy(outputs[LOGITS], smooth) + 0.3 * cross_entropy(outputs[AUX_LOGITS], smooth)
    expected += 1e-2 * sum((kernel**2).sum() for kernel in kernels) / 2
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["logits_cross_entropy"] == pytest.approx(cross_entropy(outputs[LOGITS], labels), rel=1e-5)
    # A regularizer of the training is not one of the model.
    assert inception.get_layer("Conv2d_1a_3x3").get_config()["kernel_regularizer"] is None


def test_heads_on_features_are_the_network(inception):
    recipe = Recipe()
    network.set_trainable(inception, recipe, HEADS, "frozen")
    training = network.with_losses(inception, recipe)
    backbone, heads = features.heads_on(inception, training)
    images = np.random.default_rng(0).uniform(-1, 1, (2, SIZE, SIZE, 3)).astype(np.float32)
    found, expected = heads(backbone(images)), training(images)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
    assert {v.path for v in heads.trainable_variables} == {v.path for v in training.trainable_variables}
    # Dropout acts on the features, not in them.
    assert np.abs(np.asarray(heads(backbone(images), training=True)[LOGITS]) - np.asarray(found[LOGITS])).max() > 1e-6


@pytest.mark.parametrize(
    "name, options",
    [("lenet", {}), ("alexnet_v2", {}), ("resnet_v1_50", {"input_shape": (65, 65, 3)}), ("nin", {})],
)
def test_heads_on_features_of_other_networks(name, options):
    model = itf.create_model(name, classes=3, **options)
    training = network.with_losses(model, Recipe())
    backbone, heads = features.heads_on(model, training)
    images = np.random.default_rng(0).uniform(-1, 1, (1, *model.input_shape[1:])).astype(np.float32)
    np.testing.assert_allclose(heads(backbone(images))[LOGITS], training(images)[LOGITS], rtol=1e-4, atol=1e-5)


def test_recalibration_is_exact(inception):
    """The first layer's statistics are those of its input over all images, however they are cut into batches; all
    layers' are those of one batch of all images, when there is one."""
    network.set_trainable(inception, Recipe(), EVERYTHING, "train")
    beginning = itf.feature_extractor(inception, "Mixed_5b")
    images = np.random.default_rng(2).uniform(-1, 1, (7, SIZE, SIZE, 3)).astype(np.float32) + 0.2
    momenta = [layer.momentum for layer in batch_norm.layers(inception)]
    assert batch_norm.recalibrate(beginning, [images[:4], images[4:]]) == 7
    assert [layer.momentum for layer in batch_norm.layers(inception)] == momenta
    first = inception.get_layer("Conv2d_1a_3x3")
    convolved = np.asarray(first.convolution_op(images, first.kernel), np.float64)
    np.testing.assert_allclose(first.batch_norm.moving_mean, convolved.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(first.batch_norm.moving_variance, convolved.var((0, 1, 2)), rtol=1e-4)

    batch_norm.recalibrate(beginning, [images])
    # With the statistics of the batch, a network in inference gives what it gave in training.
    found, expected = beginning(images, training=False), beginning(images, training=True)
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-3)


def test_frozen_layers_keep_their_statistics(inception):
    network.set_trainable(inception, Recipe(freeze=("Conv2d_1a_3x3",)), EVERYTHING, "train")
    norm = inception.get_layer("Conv2d_1a_3x3").batch_norm
    before = np.array(norm.moving_mean)
    beginning = itf.feature_extractor(inception, "Conv2d_2a_3x3")
    batch_norm.recalibrate(beginning, [np.ones((2, SIZE, SIZE, 3), np.float32)])
    np.testing.assert_array_equal(norm.moving_mean, before)


@pytest.mark.parametrize(
    ("own", "steps", "momentum"),
    [(0.9997, 500, 0.98), (0.9997, 20, 0.9), (0.9997, 10**6, 0.9997), (0.99, 10**6, 0.99)],
)
def test_momentum_by_the_number_of_steps(own, steps, momentum):
    assert batch_norm.choose_momentum(own, steps) == pytest.approx(momentum)


def test_rebuilt_keeps_the_weights(inception):
    other = network.rebuilt(inception, new=("Logits", "AuxLogits"), classes=4)
    assert other.card.options["classes"] == 4 and other.card.labels is None
    for variable in other.weights:
        same = next(v for v in inception.weights if v.path == variable.path)
        if not variable.path.startswith(("Logits", "AuxLogits")):
            np.testing.assert_array_equal(variable, same)
    with pytest.raises(MismatchError, match="other weights: Logits/Conv2d_1c_1x1/kernel"):
        network.rebuilt(inception, classes=4)


def test_a_map_of_logits_cannot_be_trained():
    model = itf.create_model("lenet", include_top=False)
    with pytest.raises(UsageError, match="no vector of logits"):
        network.with_losses(model, Recipe())


def test_accuracy_is_a_count_whatever_the_classes_weigh():
    metric = counted(keras.metrics.CategoricalAccuracy)(name="accuracy")
    truth, answers = np.eye(2)[[0, 0, 0, 1, 1]], np.eye(2)[[0, 0, 1, 1, 0]]
    metric.update_state(truth, answers, np.array([0.5, 0.5, 0.5, 9.0, 0.0]))  # the last fills the batch up
    assert float(metric.result()) == 0.75
