import json

import numpy as np
import pytest
from slim_files import write_tensors

from inception_tf.errors import MismatchError, UsageError
from inception_tf.models.registry import networks
from inception_tf.slim.checkpoint import Checkpoint, open_checkpoint
from inception_tf.slim.detect import detect
from inception_tf.slim.names import bookkeeping, specification
from inception_tf.slim.summary import summarize


class Names(Checkpoint):
    """A checkpoint of names and shapes alone: detection reads no tensor."""

    def __init__(self, shapes):
        super().__init__("model.ckpt", "none", shapes, {})


@pytest.fixture
def names(slim_graph):
    """A function from `slim_graph`'s arguments to its variables as a checkpoint."""
    return lambda *args, **kwargs: Names(slim_graph(*args, **kwargs))


def slow(*values):
    """Parameters whose TF-Slim graph is built in the long run of the tests only."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def heads(name):
    return "/Logits/" in name or "/AuxLogits/" in name


def found(checkpoint, **arguments):
    detection = detect(checkpoint, **arguments)
    assert detection.match == 1 and not detection.differences
    return detection.network, detection.scope, detection.classes, detection.options


@pytest.mark.parametrize("classes", [2, 5, 16, 128, 768, 1000, 1001, 1008])
@pytest.mark.parametrize("aux", [True, False])
def test_classes_and_auxiliary_head(slim_variables, classes, aux):
    facts = slim_variables("inception_v3")
    resized = {n: (*s[:-1], classes) if s[-1] == 1001 else s for n, s in facts.items() if aux or "AuxLogits" not in n}
    expected = ("inception_v3", "InceptionV3", classes, {"aux_logits": True} if aux else {})
    assert found(Names(resized)) == expected


@pytest.mark.parametrize("scope", ["InceptionV3", "", "net", "tower_0/InceptionV3", "a/b/c", "Logits", "InceptionV3_1"])
def test_scopes(slim_variables, scope):
    facts = slim_variables("inception_v3")
    renamed = {n.replace("InceptionV3", scope, 1).lstrip("/"): shape for n, shape in facts.items()}
    assert found(Names(renamed)) == ("inception_v3", scope, 1001, {"aux_logits": True})


def test_a_graph_unlike_the_default(names):
    """Its width, the size and channels of its images, its auxiliary head."""
    checkpoint = names(depth_multiplier=0.5, size=128, channels=4, aux_logits=True)
    network, scope, classes, options = found(checkpoint)
    assert (network, scope, classes) == ("inception_v3", "InceptionV3", 5)
    assert (options["depth_multiplier"], options["aux_logits"], options["input_shape"][2]) == (0.5, True, 4)
    assert {f"{scope}/{n}": s for n, s in specification(network, classes=5, **options).items()} == checkpoint.shapes


@pytest.mark.parametrize("depth_multiplier", slow(0.01, 0.33, 1.4))
def test_widths(names, depth_multiplier):
    checkpoint = names(depth_multiplier=depth_multiplier, aux_logits=depth_multiplier > 0.4)
    network, scope, classes, options = found(checkpoint)
    assert (network, scope, classes) == ("inception_v3", "InceptionV3", 5)
    if depth_multiplier != 0.01:  # all widths are 16: many multipliers give that
        assert options["depth_multiplier"] == depth_multiplier and "min_depth" not in options
    assert {f"{scope}/{n}": s for n, s in specification(network, classes=5, **options).items()} == checkpoint.shapes


@pytest.mark.slow
@pytest.mark.parametrize("depth_multiplier", [0.1, 0.25, 0.5, 0.75, 2.0])
def test_more_widths(depth_multiplier):
    shapes = specification("inception_v3", depth_multiplier=depth_multiplier)
    assert found(Names({f"net/{n}": shape for n, shape in shapes.items()}))[3] == {"depth_multiplier": depth_multiplier}


@pytest.mark.parametrize("widths", slow((0.1, 4), (0.25, 32), (0.05, 1)))
def test_least_widths(names, widths):
    checkpoint = names(depth_multiplier=widths[0], min_depth=widths[1])
    network, scope, _, options = found(checkpoint)
    assert {f"{scope}/{n}": s for n, s in specification(network, classes=5, **options).items()} == checkpoint.shapes


@pytest.mark.parametrize("size", slow((224, 160), 110, 256, (150, 299)))
def test_auxiliary_heads_for_other_images(names, size):
    checkpoint = names(size=size, aux_logits=True)
    network, scope, classes, options = found(checkpoint)
    assert options["aux_logits"]
    assert {
        f"{scope}/{n}": s for n, s in specification(network, classes=classes, **options).items()
    } == checkpoint.shapes


@pytest.mark.parametrize("images", slow((4, None), (1, 139)))
def test_other_channels(names, images):
    channels, size = images
    options = found(names(channels=channels, size=size, aux_logits=size is not None))[3]
    assert options["input_shape"][2] == channels


def test_every_network_of_the_facts_is_itself(slim_variables, request):
    folder = request.config.rootpath / "tests/models/slim_variables"
    for network in sorted({file.stem for file in folder.glob("*.json")} & set(networks())):
        detection = detect(Names(slim_variables(network)))
        assert (detection.network, detection.match) == (network, 1)
        assert detection.classes == (1000 if network.startswith(("resnet_v1", "vgg", "alexnet")) else 1001)


def test_training_state_is_no_weight(trained):
    checkpoint = open_checkpoint(trained.path)
    options = {"depth_multiplier": 0.1, "aux_logits": True}
    assert found(checkpoint) == ("inception_v3", "InceptionV3", 5, options)
    shadows = {name: s for name, s in checkpoint.shapes.items() if name.endswith("/ExponentialMovingAverage")}
    assert len(shadows) == len(trained.weights)
    assert found(Names(shadows)) == ("inception_v3", "InceptionV3", 5, options)
    assert {name for name in checkpoint if bookkeeping(name, checkpoint)} == trained.others


def test_the_trunk_alone(slim_variables):
    trunk = {n: shape for n, shape in slim_variables("inception_v3").items() if not heads(n)}
    assert found(Names(trunk)) == ("inception_v3", "InceptionV3", None, {})


def test_two_networks(slim_variables):
    both = slim_variables("inception_v3") | {"other/weights": (3, 3), "policy/fc/biases": (7,)}
    assert found(Names(both))[:2] == ("inception_v3", "InceptionV3")
    twins = {n.replace("InceptionV3", s): v for s in ("a", "b") for n, v in slim_variables("inception_v3").items()}
    with pytest.raises(MismatchError, match="under several scopes. Give scope=, one of: a, b"):
        detect(Names(twins))
    assert found(Names(twins), scope="b")[1] == "b"
    teacher = slim_variables("inception_v3") | {f"teacher/{n}": v for n, v in slim_variables("inception_v3").items()}
    assert found(Names(teacher))[1] == "InceptionV3"


def test_a_partial_trunk_names_the_nearest_network(slim_variables):
    partial = {n: shape for n, shape in slim_variables("inception_v3").items() if "Mixed_7" not in n}
    with pytest.raises(MismatchError) as raised:
        detect(Names(partial))
    text = str(raised.value)
    assert "Nearest: inception_v3, 74% of whose variables fit" in text
    assert "Mixed_7a/Branch_0/Conv2d_0a_1x1/weights is missing" in text and len(text) < 600
    assert detect(Names(partial), partial=True).match == pytest.approx(0.74, abs=0.01)


def test_a_shape_or_a_variable_that_differs(slim_variables):
    facts = slim_variables("inception_v3")
    with pytest.raises(MismatchError, match=r"Conv2d_1a_3x3/weights is 5×5×3×32, not 3×3×3×32"):
        detect(Names(facts | {"InceptionV3/Conv2d_1a_3x3/weights": (5, 5, 3, 32)}))
    with pytest.raises(MismatchError, match=r"Mixed_5b/SE/weights is not in the network"):
        detect(Names(facts | {"InceptionV3/Mixed_5b/SE/weights": (1, 1, 256, 16)}))


def test_nothing_known():
    with pytest.raises(MismatchError, match="holds no network known here. It begins with: dense/bias, dense/kernel"):
        detect(Names({"dense/kernel": (3, 4), "dense/bias": (4,)}))
    with pytest.raises(MismatchError, match="holds no network known here"):
        detect(Names({"global_step": ()}))
    with pytest.raises(UsageError, match="inception_v3"):
        detect(Names({"dense/kernel": (3, 4)}), network="inception_3")


def test_another_network(slim_variables):
    with pytest.raises(MismatchError, match="does not hold inception_v3|holds no network"):
        detect(Names(slim_variables("vgg_16")), network="inception_v3")
    with pytest.raises(MismatchError, match="does not hold inception_v3|holds no network"):
        detect(Names(slim_variables("inception_v4")), network="inception_v3")


def test_an_object_based_checkpoint(tmp_path):
    import keras
    import tensorflow as tf

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="Conv2d_1a_3x3")])
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "tf2"))
    with pytest.raises(MismatchError, match="object-based checkpoint of TensorFlow 2"):
        detect(path)


OPTIMIZERS = {
    "AdadeltaOptimizer": {},
    "AdagradOptimizer": {"learning_rate": 0.1},
    "AdamOptimizer": {},
    "FtrlOptimizer": {"learning_rate": 0.1},
    "MomentumOptimizer": {"learning_rate": 0.1, "momentum": 0.9, "use_nesterov": True},
    "ProximalAdagradOptimizer": {"learning_rate": 0.1},
    "RMSPropOptimizer": {"learning_rate": 0.1, "centered": True},
}


@pytest.mark.parametrize("name", [None, "my_own"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_slots_of_tensorflows_optimizers(optimizer, name):
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default():
        weights = tf.get_variable("InceptionV3/Conv2d_1a_3x3/weights", (3, 3, 3, 32))
        beta = tf.get_variable("InceptionV3/Conv2d_1a_3x3/BatchNorm/beta", (32,))
        made = getattr(tf.train, optimizer)(**OPTIMIZERS[optimizer], **({"name": name} if name else {}))
        step = tf.train.get_or_create_global_step()
        train = made.minimize(tf.nn.l2_loss(weights) + tf.nn.l2_loss(beta), global_step=step)
        with tf.control_dependencies([train]):
            tf.train.ExponentialMovingAverage(0.9, step).apply([weights, beta])
        everything = {v.op.name for v in tf.global_variables()}
    assert {n for n in everything if not bookkeeping(n, everything)} == {weights.op.name, beta.op.name}
    assert len(everything) >= 7


def test_a_summary_is_json(trained):
    summary = summarize(trained.path)
    assert summary.step == 20000 and summary.averages == len(trained.weights)
    assert summary.parameters == sum(np.prod(value.shape, dtype=int) for value in trained.weights.values())
    json.dumps(summary.detection.options)


def test_on_files(tmp_path, trained):
    path = write_tensors(tmp_path / "half" / "m.ckpt", {n: v.astype("float16") for n, v in trained.weights.items()})
    assert found(path)[0] == "inception_v3"
    path = write_tensors(tmp_path / "double" / "m.ckpt", {n: v.astype("float64") for n, v in trained.weights.items()})
    assert found(path.parent)[0] == "inception_v3"
