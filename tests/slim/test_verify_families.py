"""Inception-v1 and v2, VGG and AlexNet beside TF-Slim's own graphs, on checkpoints that TF-Slim made; LeNet beside
golden data of research/slim's graph."""

import numpy as np
import pytest
from slim_files import build_slim, tf1_session, write_tensors

import inception_tf as itf
from inception_tf.errors import MismatchError, UsageError
from inception_tf.models.registry import find_network
from inception_tf.quiet import no_deprecations
from inception_tf.slim import golden
from inception_tf.slim.checkpoint import Checkpoint, open_checkpoint
from inception_tf.slim.names import specification
from inception_tf.slim.verify import noise

SMALL = {
    "inception_v1": ("inception_v1", {}),
    "inception_v2": ("inception_v2", {"depth_multiplier": 0.25}),
    "inception_v2_plain": ("inception_v2", {"depth_multiplier": 0.25, "use_separable_conv": False}),
    "alexnet_v2": ("alexnet_v2", {}),
}
PUBLISHED = {
    "inception_v1": ("inception_v1", {"classes": 1001}),
    "inception_v2": ("inception_v2", {"classes": 1001}),
    "alexnet_v2": ("alexnet_v2", {"classes": 1000}),
    "vgg_16": ("vgg_16", {"classes": 1000}),
    "vgg_19": ("vgg_19", {"classes": 1000}),
}
pytestmark = pytest.mark.usefixtures("originals_kept")


@pytest.fixture
def equal(originals_kept):
    """A function that verifies a model: at every one of Slim's end points, and the same five best classes."""

    def check(path, model=None, size=(224, 224), batch=1, **graph):
        images = noise(batch, *size)
        report = itf.verify(path, model, images=images)
        slims = originals_kept(open_checkpoint(path), images, itf.detect(path), graph=graph)
        assert {row.end_point for row in report.rows} == set(slims)
        assert report.passed and report.worst <= 1e-5 and report.top5 is True, str(report)
        return report

    return check


@pytest.mark.parametrize(
    "network, options",
    [pytest.param(*SMALL[name], marks=pytest.mark.slow if "plain" in name else (), id=name) for name in SMALL],
)
def test_equal(slim_checkpoint, equal, network, options):
    equal(slim_checkpoint(network, **options))


@pytest.mark.slow
@pytest.mark.parametrize("network, options", PUBLISHED.values(), ids=PUBLISHED)
def test_equal_as_published(slim_checkpoint, equal, network, options):
    equal(slim_checkpoint(network, **options), batch=2)


@pytest.mark.parametrize(
    "network, options, size, shape",
    [
        ("inception_v1", {}, (256, 288), (1, 2, 3, 5)),
        pytest.param("inception_v2", {"depth_multiplier": 0.25}, (288, 352), (1, 2, 3, 5), marks=pytest.mark.slow),
        ("alexnet_v2", {}, (227, 259), (1, 2, 3, 5)),
        pytest.param("vgg_16", {}, (256, 288), (1, 2, 3, 5), marks=pytest.mark.slow),
    ],
)
def test_dense_evaluation(slim_checkpoint, equal, network, options, size, shape):
    """A larger image gives a map of logits, the same as TF-Slim's."""
    path = slim_checkpoint(network, **options)
    model = itf.create_model(network, weights=path, spatial_squeeze=False, input_shape=(None, None, 3))
    assert equal(path, model, size, spatial_squeeze=False).rows[-1].shape == shape


@pytest.mark.parametrize(
    "network, options, damaged, end_point",
    [
        ("inception_v1", {}, "Mixed_4d/Branch_2/Conv2d_0b_3x3/BatchNorm/beta", "Mixed_4d"),
        ("inception_v2", {"depth_multiplier": 0.25}, "Conv2d_1a_7x7/bias", "Conv2d_1a_7x7"),
        ("alexnet_v2", {}, "fc6/bias", "fc6"),
        pytest.param("vgg_16", {}, "conv3/conv3_2/bias", "conv3/conv3_2", marks=pytest.mark.slow),
    ],
)
def test_a_wrong_variable_shows_where_it_is(slim_checkpoint, network, options, damaged, end_point):
    path = slim_checkpoint(network, **options)
    model = itf.create_model(network, weights=path)
    (variable,) = [v for v in model.weights if v.path == damaged]
    variable.assign(variable.numpy() + np.float32(0.05))
    report = itf.verify(path, model, batch=1)
    assert not report
    assert next(row.end_point for row in report.rows if not row.passed) == end_point


@pytest.mark.parametrize(
    "network, options",
    [
        ("alexnet_v2", {}),
        pytest.param("inception_v2", {"depth_multiplier": 0.25}, marks=pytest.mark.slow),
        pytest.param("vgg_19", {}, marks=pytest.mark.slow),
    ],
)
def test_tf_slim_restores_what_was_saved(slim_graph, tmp_path, network, options):
    import tensorflow.compat.v1 as tf

    model = itf.create_model(network, classes=5, **options)
    itf.save_slim(model, tmp_path / "model.ckpt")
    with no_deprecations(), tf1_session() as session:
        variables = build_slim(network, **options)
        tf.train.Saver(variables).restore(session, str(tmp_path / "model.ckpt"))
        restored = dict(zip((v.op.name for v in variables), session.run(variables)))
    scope = find_network(network).scope
    ours = {f"{scope}/{name}": v for name, v in zip(specification(network, classes=5, **options), model.get_weights())}
    assert set(ours) == set(restored)
    assert all(np.array_equal(ours[name], restored[name]) for name in ours)


def test_new_heads_and_trunks(slim_checkpoint, tmp_path):
    """Another number of classes keeps the fully connected layers before the classifier; without the top all go."""
    path = slim_checkpoint("alexnet_v2")
    names, model = specification("alexnet_v2", classes=5), itf.create_model("alexnet_v2", weights=path)
    weights = dict(zip(names, model.get_weights()))
    new = itf.create_model("alexnet_v2", weights=path, classes=3)
    assert new.output_shape == (None, 3)
    assert np.array_equal(new.get_layer("fc7").kernel, weights["fc7/weights"])
    trunk = itf.create_model("alexnet_v2", weights=path, include_top=False)
    assert len(trunk.weights) == 10
    assert all(
        np.array_equal(v, weights[n]) for n, v in zip(specification("alexnet_v2", include_top=False), trunk.weights)
    )

    itf.save_slim(trunk, tmp_path / "trunk.ckpt")
    found = itf.detect(tmp_path / "trunk.ckpt")
    assert (found.network, found.classes, found.match) == ("alexnet_v2", None, 1)
    with pytest.raises(MismatchError, match="fc6"):
        itf.create_model("alexnet_v2", weights=tmp_path / "trunk.ckpt", classes=3)
    model = itf.create_model("alexnet_v2", weights=tmp_path / "trunk.ckpt", classes=3, exclude_scopes=["fc6", "fc7"])
    assert np.array_equal(model.get_layer("conv5").kernel, weights["conv5/weights"])


class Names(Checkpoint):
    """A checkpoint of names and shapes alone: detection reads no tensor."""

    def __init__(self, shapes):
        super().__init__("model.ckpt", "none", shapes, {})


@pytest.mark.parametrize("network", ["inception_v1", "inception_v2", "vgg_16", "vgg_19", "alexnet_v2"])
@pytest.mark.parametrize("scope", [None, "backbone/net"])
@pytest.mark.parametrize("classes", [None, 37])
def test_detection(slim_variables, network, scope, classes):
    info = find_network(network)
    shapes = {(scope or info.scope) + n.removeprefix(info.scope): s for n, s in slim_variables(network).items()}
    if classes:
        shapes = {n: (*s[:-1], classes) if s[-1] == info.classes else s for n, s in shapes.items()}
    found = itf.detect(Names(shapes))
    assert (found.network, found.scope, found.classes) == (network, scope or info.scope, classes or info.classes)
    assert found.options == {}


@pytest.mark.parametrize(
    "multiplier, separable",
    [
        (0.5, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.1, True), (0.75, True), (1.4, False))),
    ],
)
def test_detection_of_widths_and_first_convolution(slim_graph, multiplier, separable):
    shapes = slim_graph("inception_v2", depth_multiplier=multiplier, use_separable_conv=separable)
    found = itf.detect(Names(shapes))
    assert found.options == {"depth_multiplier": multiplier} | ({} if separable else {"use_separable_conv": False})


def lenet(path, size=28, channels=1, classes=10):
    """A checkpoint of LeNet as research/slim trains it on images of that size."""
    shapes = golden.load("lenet")["cases"]["default"]["variable_shapes"]
    shapes["LeNet/conv1/weights"][2] = channels
    shapes["LeNet/fc3/weights"][0] = 64 * (size // 4) ** 2
    shapes["LeNet/fc4/weights"][1] = shapes["LeNet/fc4/biases"][0] = classes
    return write_tensors(path, {name: golden.deterministic_weights(name, shape) for name, shape in shapes.items()})


@pytest.mark.parametrize(
    "arguments, options", [({}, {}), ({"size": 32, "channels": 3, "classes": 7}, {"input_shape": (32, 32, 3)})]
)
def test_lenet(tmp_path, arguments, options):
    path = lenet(tmp_path / "lenet.ckpt", **arguments)
    found = itf.detect(path)
    assert (found.network, found.classes, found.options) == ("lenet", arguments.get("classes", 10), options)
    report = itf.verify(path)
    expected = golden.load("lenet")["cases"]["default"]["end_points"]
    assert [row.end_point for row in report.rows] == [*expected, "variables"]
    assert report.passed and report.worst <= 1e-5, str(report)

    model = itf.create_model("lenet", weights=path)
    variable = model.get_layer("conv2").bias
    variable.assign(variable + 0.01)
    report = itf.verify(path, model)
    assert [row.end_point for row in report.rows if not row.passed] == ["variables"]


def test_nin_has_no_reference(tmp_path):
    """Its checkpoints are ours alone: detected and loaded, but there is no graph of TF-Slim's to compare with."""
    for i, options in enumerate(({}, {"convolutions_1x1": 0}, {"layout": "cifar10", "convolutions_1x1": 1})):
        model = itf.NetworkInNetwork(classes=4, input_shape=(32, 32, 3), **options)
        itf.save_slim(model, tmp_path / f"nin{i}.ckpt")
        found = itf.detect(tmp_path / f"nin{i}.ckpt")
        assert (found.network, found.scope, found.classes, found.options) == ("nin", "NiN", 4, options)
    with pytest.raises(UsageError, match="nin"):
        itf.verify(tmp_path / "nin0.ckpt")
