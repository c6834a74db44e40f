"""Every network beside its original graph: TF-Slim's own, or where that lacks it, golden data of research/slim's."""

import numpy as np
import pytest
from slim_files import build_slim, read_tensors, slow, tf1_session, write_tensors

import inception_tf as itf
from inception_tf.errors import MismatchError, UsageError
from inception_tf.models import inception_v4
from inception_tf.models.model import build_model
from inception_tf.models.registry import find_network
from inception_tf.quiet import no_deprecations
from inception_tf.slim import golden
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.names import model_variables, scoped
from inception_tf.slim.verify import noise, run_keras

pytestmark = pytest.mark.usefixtures("cached_originals")

NARROW = {"depth_multiplier": 0.1}
RESNETS = [f"resnet_{version}_{depth}" for version in ("v1", "v2") for depth in (50, 152)]
CONV2 = "block3/unit_4/bottleneck_v2/conv2"
BLOCKS = ["conv1", "block1", "block2", "block3", "block4"]


@pytest.fixture
def equal(cached_originals):
    """A function that verifies a model: at every one of Slim's end points, and the same five best classes."""

    def check(path, model=None, size=(224, 224), batch=1, end_points=None, **graph):
        images = noise(batch, *size)
        report = itf.verify(path, model, images=images)
        if end_points is None:
            end_points = cached_originals(open_checkpoint(path), images, itf.detect(path), graph=graph)
        assert {row.end_point for row in report.rows} == set(end_points)
        assert report.passed and report.worst <= 1e-5 and report.top5 is True, str(report)
        return report

    return check


@pytest.mark.parametrize(
    "network, options",
    [
        ("inception_v1", {}),
        ("inception_v2", NARROW),
        slow("inception_v2", NARROW | {"use_separable_conv": False}),
        ("alexnet_v2", {}),
    ],
)
def test_equal(slim_checkpoint, equal, network, options):
    equal(slim_checkpoint(network, **options))


@pytest.mark.parametrize("network", ["resnet_v1_50", "resnet_v2_50"])
def test_equal_resnets(slim_checkpoint, equal, network):
    path = slim_checkpoint(network)
    report = equal(path, itf.create_model(network, weights=path, input_shape=(65, 98, 3)), (65, 98), 2)
    assert len(report.rows) == 77


@pytest.mark.slow
@pytest.mark.parametrize("network", ["inception_v1", "inception_v2", "alexnet_v2", "vgg_16", "vgg_19", *RESNETS])
def test_equal_as_published(slim_checkpoint, equal, network):
    info = find_network(network)
    path = slim_checkpoint(network, classes=info.classes)
    equal(path, None, (info.input_size,) * 2, 1 if network in RESNETS else 2)


@pytest.mark.parametrize(
    "network, options, size",
    [
        ("inception_v1", {}, (256, 288)),
        slow("inception_v2", NARROW, (288, 352)),
        ("alexnet_v2", {}, (227, 259)),
        slow("vgg_16", {}, (256, 288)),
    ],
)
def test_dense_evaluation(slim_checkpoint, equal, network, options, size):
    """A larger image gives a map of logits, the same as TF-Slim's."""
    path = slim_checkpoint(network, **options)
    model = itf.create_model(network, weights=path, spatial_squeeze=False, input_shape=(None, None, 3))
    assert equal(path, model, size, spatial_squeeze=False).rows[-1].shape == (1, 2, 3, 5)


@pytest.mark.slow
@pytest.mark.parametrize("network, output_stride", [("resnet_v1_50", 4), ("resnet_v2_50", 8), ("resnet_v1_50", 16)])
def test_output_stride(slim_checkpoint, equal, network, output_stride):
    path, options = slim_checkpoint(network), {"output_stride": output_stride, "spatial_squeeze": False}
    model = itf.create_model(network, weights=path, input_shape=(97, 66, 3), **options)
    report = equal(path, model, (97, 66), 2, **options)
    assert report.rows[-1].shape[1] == -(-97 // output_stride)


@pytest.mark.parametrize(
    "network, options, damaged, end_point",
    [
        ("inception_v1", {}, "Mixed_4d/Branch_2/Conv2d_0b_3x3/BatchNorm/beta", "Mixed_4d"),
        ("inception_v2", NARROW, "Conv2d_1a_7x7/bias", "Conv2d_1a_7x7"),
        ("alexnet_v2", {}, "fc6/bias", "fc6"),
        slow("vgg_16", {}, "conv3/conv3_2/bias", "conv3/conv3_2"),
        slow(
            "resnet_v2_50", {}, "block3/unit_4/bottleneck_v2/conv2/BatchNorm/beta", "block3/unit_4/bottleneck_v2/conv2"
        ),
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
    "network, options", [("alexnet_v2", {}), slow("inception_v2", NARROW), slow("vgg_19", {}), slow("resnet_v1_50", {})]
)
def test_tf_slim_restores_what_was_saved(tmp_path, network, options):
    import tensorflow.compat.v1 as tf

    model = itf.create_model(network, classes=5, **options)
    itf.save_slim(model, tmp_path / "model.ckpt")
    with no_deprecations(), tf1_session() as session:
        variables = build_slim(network, **options)
        tf.train.Saver(variables).restore(session, str(tmp_path / "model.ckpt"))
        restored = dict(zip((v.op.name for v in variables), session.run(variables)))
    ours = {scoped(model.card.scope, name): v.numpy() for name, v in model_variables(model).items()}
    assert set(ours) == set(restored)
    assert all(np.array_equal(ours[name], restored[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet_v1_50", "resnet_v2_50"])
def test_without_the_top(slim_checkpoint, tmp_path, network):
    """TF-Slim's graph has it, the checkpoint not."""
    model = itf.create_model(network, weights=slim_checkpoint(network), include_top=False, input_shape=(65, 65, 3))
    itf.save_slim(model, tmp_path / "model.ckpt", format="v1")
    report = itf.verify(tmp_path / "model.ckpt", model)
    assert report.passed and [row.end_point for row in report.rows if row.end_point in BLOCKS] == BLOCKS
    assert len(report.rows) == 73


GOLDEN = {
    "inception_v4": {
        "default": {"aux_logits": True},
        "small": {"aux_logits": True, "classes": 7},
    },
    "inception_resnet_v2": {
        "default": {"aux_logits": True},
        "small": {"aux_logits": True, "classes": 7},
        "relu6": {"activation": "relu6"},
        "output_stride_16_aligned": {"include_top": False, "align_feature_maps": True},
        "output_stride_8": {"include_top": False, "output_stride": 8},
        "output_stride_8_aligned": {"include_top": False, "output_stride": 8, "align_feature_maps": True},
    },
}


@pytest.mark.parametrize("network", GOLDEN)
def test_all_golden_cases_are_here(network):
    assert list(golden.load(network)["cases"]) == list(GOLDEN[network])


@pytest.mark.slow
@pytest.mark.parametrize("network, case", [(network, case) for network in GOLDEN for case in GOLDEN[network]])
def test_equal_to_golden_data(network, case):
    info, options, case = find_network(network), GOLDEN[network][case], golden.load(network)["cases"][case]
    model = build_model(info, input_shape=case["images"][1:], **options)
    assert len(model.weights) == case["variables"]
    assert model.count_params() == case["parameters"]
    for name, variable in model_variables(model).items():
        variable.assign(golden.deterministic_weights(scoped(info.scope, name), variable.shape))
    rows = golden.differences(case, run_keras(model, golden.deterministic_images(*case["images"])))
    assert [name for name, *_ in rows] == list(case["end_points"])
    for name, _, _, relative in rows:
        assert relative <= 1e-5, name


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of Inception-v4 with classes of its own, and its checkpoint."""
    model = itf.InceptionV4(classes=4, input_shape=(139, 139, 3))
    path = tmp_path_factory.mktemp("v4") / "model.ckpt"
    itf.save_slim(model, path)
    return model, path


@pytest.mark.slow
def test_a_model_with_golden_data(saved):
    model, path = saved
    report = itf.verify(path, model)
    assert report.passed and report.worst <= 1e-5, str(report)
    expected = golden.load("inception_v4")["cases"]["default"]["end_points"]
    assert [row.end_point for row in report.rows] == [*expected, "variables"]
    assert report.rows[-1].shape == (len(model.weights),) and report.rows[-1].difference == 0
    assert "research/slim/nets/inception_v4.py (tensorflow/models at d4eedbb)" in str(report)

    variable = model.weights[100]
    variable.assign(variable.numpy() * np.float32(1 + 2**-23))
    report = itf.verify(path, model)
    assert [row.end_point for row in report.rows if not row.passed] == ["variables"]


@pytest.mark.slow
def test_another_architecture_fails_on_golden_data(saved, monkeypatch):
    model, path = saved
    monkeypatch.setitem(inception_v4.BATCH_NORM, "epsilon", 2e-3)
    report = itf.verify(path, model)
    assert not report
    assert next(row.end_point for row in report.rows if not row.passed) == "Conv2d_1a_3x3"


@pytest.mark.slow
def test_options_without_golden_data(tmp_path):
    model = itf.InceptionResNetV2(classes=2, input_shape=(75, 75, 3), activation_scales=(0.1, 0.1, 0.1))
    itf.save_slim(model, tmp_path / "model.ckpt")
    with pytest.raises(UsageError, match=r"no golden data of inception_resnet_v2 .*\[0.1, 0.1, 0.1\]"):
        itf.verify(tmp_path / "model.ckpt", model)


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


def test_new_heads_and_backbones(slim_checkpoint, tmp_path):
    """Another number of classes keeps the fully connected layers before the classifier; without the top all go."""
    path = slim_checkpoint("alexnet_v2")
    tensors = read_tensors(path)

    def loaded(model):
        return {n for n, v in model_variables(model).items() if np.array_equal(v, tensors.get(f"alexnet_v2/{n}", ()))}

    everything = loaded(itf.create_model("alexnet_v2", weights=path))
    assert loaded(itf.create_model("alexnet_v2", weights=path, classes=3)) == everything - {"fc8/weights", "fc8/biases"}
    backbone = itf.create_model("alexnet_v2", weights=path, include_top=False)
    convolutions = {name for name in everything if name.startswith("conv")}
    assert loaded(backbone) == convolutions and len(convolutions) == len(backbone.weights) == 10

    path = tmp_path / "backbone.ckpt"
    itf.save_slim(backbone, path)
    found = itf.detect(path)
    assert (found.network, found.classes, found.match) == ("alexnet_v2", None, 1)
    with pytest.raises(MismatchError, match="fc6"):
        itf.create_model("alexnet_v2", weights=path, classes=3)
    new = itf.create_model("alexnet_v2", weights=path, classes=3, exclude_scopes=["fc6", "fc7"])
    assert loaded(new) >= convolutions
