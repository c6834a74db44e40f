import json
from pathlib import Path

import numpy as np
import pytest
from slim_files import Names, slow

from inception_tf.errors import MismatchError, UsageError
from inception_tf.models.registry import find_network
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.detect import detect
from inception_tf.slim.names import bookkeeping, scoped, specification
from inception_tf.slim.summary import summarize


def found(checkpoint, **arguments):
    detection = detect(checkpoint, **arguments)
    assert detection.match == 1 and not detection.differences
    return detection.network, detection.scope, detection.classes, detection.options


NETWORKS = sorted(file.stem for file in (Path(__file__).parents[1] / "models/slim_variables").glob("*.json"))


def changed(shapes, info, scope=None, classes=None, aux=True):
    """A network's variables under another scope, with other classes, or without the auxiliary head."""
    resized = {name: (*s[:-1], classes or s[-1]) if s[-1] == info.classes else s for name, s in shapes.items()}
    return Names(
        {
            scoped(info.scope if scope is None else scope, name.removeprefix(f"{info.scope}/")): shape
            for name, shape in resized.items()
            if aux or "/AuxLogits/" not in name
        }
    )


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("scope, classes, aux", [(None, None, True), ("backbone/net", 37, False)])
def test_every_network(slim_variables, network, scope, classes, aux):
    """As published, and under another scope with other classes and no auxiliary head."""
    info, shapes = find_network(network), slim_variables(network)
    options = {"aux_logits": True} if aux and any("/AuxLogits/" in name for name in shapes) else {}
    expected = (network, scope or info.scope, classes or info.classes, options)
    assert found(changed(shapes, info, scope, classes, aux)) == expected


@pytest.mark.parametrize(
    "scope, classes, aux",
    [("InceptionV3", classes, aux) for classes in (2, 16, 128, 768, 1000, 1008) for aux in (True, False)]
    + [(scope, 1001, True) for scope in ("", "net", "tower_0/InceptionV3", "a/b/c", "Logits", "InceptionV3_1")],
)
def test_scope_classes_and_auxiliary_head(slim_variables, scope, classes, aux):
    names = changed(slim_variables("inception_v3"), find_network("inception_v3"), scope, classes, aux)
    assert found(names) == ("inception_v3", scope, classes, {"aux_logits": True} if aux else {})


@pytest.mark.parametrize(
    "graph, options",
    [
        ({"depth_multiplier": 0.5, "size": 128, "channels": 4, "aux_logits": True}, {"depth_multiplier": 0.5}),
        slow({"depth_multiplier": 0.01}, {}),  # all widths are 16: many multipliers give that
        slow({"depth_multiplier": 0.33}, {"depth_multiplier": 0.33}),
        slow({"depth_multiplier": 1.4, "aux_logits": True}, {"depth_multiplier": 1.4}),
        slow({"depth_multiplier": 0.1, "min_depth": 4}, {}),
        slow({"depth_multiplier": 0.25, "min_depth": 32}, {}),
        slow({"depth_multiplier": 0.05, "min_depth": 1}, {}),
        slow({"size": (224, 160), "aux_logits": True}, {}),
        slow({"size": 110, "aux_logits": True}, {}),
        slow({"size": 256, "aux_logits": True}, {}),
        slow({"size": (150, 299), "aux_logits": True}, {}),
        slow({"channels": 4}, {"input_shape": (299, 299, 4)}),
        slow({"channels": 1, "size": 139, "aux_logits": True}, {}),
    ],
)
def test_a_graph_unlike_the_default(slim_graph, graph, options):
    """Its width, the size and channels of its images, its auxiliary head."""
    shapes = slim_graph(**graph)
    network, scope, classes, detected = found(Names(shapes))
    assert (network, scope, classes) == ("inception_v3", "InceptionV3", 5)
    assert detected | options == detected and ("aux_logits" in detected) == ("aux_logits" in graph)
    assert "depth_multiplier" not in options or "min_depth" not in detected
    assert {f"{scope}/{n}": s for n, s in specification(network, classes=5, **detected).items()} == shapes


@pytest.mark.parametrize("multiplier, separable", [(0.5, False), slow(0.1, True), slow(0.75, True), slow(1.4, False)])
def test_widths_and_the_first_convolution(slim_graph, multiplier, separable):
    options = found(Names(slim_graph("inception_v2", depth_multiplier=multiplier, use_separable_conv=separable)))[3]
    assert options == {"depth_multiplier": multiplier} | ({} if separable else {"use_separable_conv": False})


@pytest.mark.parametrize(
    "network, options",
    [
        ("inception_v4", {"aux_logits": True, "input_shape": (448, 448, 3)}),
        ("inception_resnet_v2", {"aux_logits": True, "input_shape": (150, 150, 3)}),
        *(slow("inception_v3", {"depth_multiplier": multiplier}) for multiplier in (0.1, 0.25, 0.5, 0.75, 2.0)),
    ],
)
def test_other_options(network, options):
    shapes = specification(network, **options)
    detected = found(Names(shapes))[3]
    assert {name: detected[name] for name in options if name != "input_shape"}.items() <= options.items()
    assert specification(network, **detected) == shapes  # the image size itself, or one that gives the same head


def test_training_state_is_no_weight(trained):
    checkpoint = open_checkpoint(trained.path)
    options = {"depth_multiplier": 0.1, "aux_logits": True}
    assert found(checkpoint) == ("inception_v3", "InceptionV3", 5, options)
    shadows = {name: s for name, s in checkpoint.shapes.items() if name.endswith("/ExponentialMovingAverage")}
    assert len(shadows) == len(trained.weights)
    assert found(Names(shadows)) == ("inception_v3", "InceptionV3", 5, options)
    assert {name for name in checkpoint if bookkeeping(name, checkpoint)} == trained.others


def test_the_backbone_alone(slim_variables):
    backbone = {n: shape for n, shape in slim_variables("inception_v3").items() if "Logits/" not in n}
    assert found(Names(backbone)) == ("inception_v3", "InceptionV3", None, {})


def test_two_networks(slim_variables):
    both = slim_variables("inception_v3") | {"other/weights": (3, 3), "policy/fc/biases": (7,)}
    assert found(Names(both))[:2] == ("inception_v3", "InceptionV3")
    twins = {n.replace("InceptionV3", s): v for s in ("a", "b") for n, v in slim_variables("inception_v3").items()}
    with pytest.raises(MismatchError, match="under several scopes. Give scope=, one of: a, b"):
        detect(Names(twins))
    assert found(Names(twins), scope="b")[1] == "b"
    teacher = slim_variables("inception_v3") | {f"teacher/{n}": v for n, v in slim_variables("inception_v3").items()}
    assert found(Names(teacher))[1] == "InceptionV3"


def test_a_partial_backbone_names_the_nearest_network(slim_variables):
    partial = {n: shape for n, shape in slim_variables("inception_v3").items() if "Mixed_7" not in n}
    with pytest.raises(MismatchError) as raised:
        detect(Names(partial))
    text = str(raised.value)
    assert "Nearest: inception_v3 under the scope InceptionV3, 74% of whose variables fit" in text
    assert "Mixed_7a/Branch_0/Conv2d_0a_1x1/weights is missing" in text and len(text) < 600
    assert detect(Names(partial), partial=True).match == pytest.approx(0.74, abs=0.01)


def test_a_shape_or_a_variable_that_differs(slim_variables):
    facts = slim_variables("inception_v3")
    with pytest.raises(MismatchError, match=r"Conv2d_1a_3x3/weights is 5×5×3×32, not 3×3×3×32"):
        detect(Names(facts | {"InceptionV3/Conv2d_1a_3x3/weights": (5, 5, 3, 32)}))
    with pytest.raises(MismatchError, match=r"Mixed_5b/SE/weights is not in the network"):
        detect(Names(facts | {"InceptionV3/Mixed_5b/SE/weights": (1, 1, 256, 16)}))


def test_nothing_known():
    with pytest.raises(MismatchError, match="holds no known network. It begins with: dense/bias, dense/kernel"):
        detect(Names({"dense/kernel": (3, 4), "dense/bias": (4,)}))
    with pytest.raises(MismatchError, match="holds no known network"):
        detect(Names({"global_step": ()}))
    with pytest.raises(UsageError, match="inception_v3"):
        detect(Names({"dense/kernel": (3, 4)}), network="inception_3")


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
    assert summary["step"] == 20000 and summary["averages"] == len(trained.weights)
    assert summary["parameters"] == sum(np.prod(value.shape, dtype=int) for value in trained.weights.values())
    json.dumps(summary["detection"].options)
