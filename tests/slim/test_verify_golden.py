"""Inception-v4 and Inception-ResNet-v2 beside golden data of research/slim's own graphs."""

import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.models import inception_v4
from inception_tf.models.model import build_model
from inception_tf.models.registry import find_network
from inception_tf.slim import golden
from inception_tf.slim.checkpoint import Checkpoint
from inception_tf.slim.names import model_variables, scoped, specification
from inception_tf.slim.verify import run_keras

CASES = [
    ("inception_v4", "default", {"aux_logits": True}),
    ("inception_v4", "small", {"aux_logits": True, "classes": 7}),
    ("inception_resnet_v2", "default", {"aux_logits": True}),
    ("inception_resnet_v2", "small", {"aux_logits": True, "classes": 7}),
    ("inception_resnet_v2", "relu6", {"activation": "relu6"}),
    ("inception_resnet_v2", "output_stride_16_aligned", {"include_top": False, "align_feature_maps": True}),
    ("inception_resnet_v2", "output_stride_8", {"include_top": False, "output_stride": 8}),
    (
        "inception_resnet_v2",
        "output_stride_8_aligned",
        {"include_top": False, "output_stride": 8, "align_feature_maps": True},
    ),
]


def test_all_cases_are_here():
    for network in {network for network, _, _ in CASES}:
        assert list(golden.load(network)["cases"]) == [case for name, case, _ in CASES if name == network]


@pytest.mark.slow
@pytest.mark.parametrize("network, case, options", CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_equal(network, case, options):
    info, case = find_network(network), golden.load(network)["cases"][case]
    model = build_model(info, input_shape=case["images"][1:], **options)
    assert len(model.weights) == case["variables"]
    assert model.count_params() == case["parameters"]
    for name, variable in model_variables(model).items():
        variable.assign(golden.deterministic_weights(scoped(info.scope, name), variable.shape))
    rows = golden.compare(case, run_keras(model, golden.deterministic_images(*case["images"])))
    assert [name for name, *_ in rows] == list(case["end_points"])
    for name, _, _, relative in rows:
        assert relative <= 1e-5, name


class Names(Checkpoint):
    """A checkpoint of names and shapes alone: detection reads no tensor."""

    def __init__(self, shapes):
        super().__init__("inception.ckpt", "none", shapes, {})


@pytest.mark.parametrize("network", ["inception_v4", "inception_resnet_v2"])
@pytest.mark.parametrize("scope", [None, "backbone/net"])
@pytest.mark.parametrize("aux", [True, False])
def test_detection(slim_variables, network, scope, aux):
    own = find_network(network).scope
    facts = {n: shape for n, shape in slim_variables(network).items() if aux or "AuxLogits" not in n}
    found = itf.detect(Names({(scope or own) + n.removeprefix(own): shape for n, shape in facts.items()}))
    assert (found.network, found.scope, found.classes) == (network, scope or own, 1001)
    assert found.options == ({"aux_logits": True} if aux else {})


@pytest.mark.parametrize("network, size", [("inception_v4", 448), ("inception_resnet_v2", 150)])
def test_detection_of_the_image_size(network, size):
    shape = (size, size, 3)
    shapes = specification(network, aux_logits=True, input_shape=shape)
    found = itf.detect(Names({f"net/{name}": shape for name, shape in shapes.items()}))
    assert found.options["aux_logits"]
    assert specification(network, **found.options) == shapes  # the size itself, or one that gives the same head


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of Inception-v4 with classes of its own, and its checkpoint."""
    model = itf.InceptionV4(classes=4, input_shape=(139, 139, 3))
    path = tmp_path_factory.mktemp("v4") / "model.ckpt"
    itf.save_slim(model, path)
    return model, path


@pytest.mark.slow
def test_verify(saved):
    model, path = saved
    report = itf.verify(path, model)
    assert report.passed and report.worst <= 1e-5, str(report)
    assert [row.end_point for row in report.rows] == [
        *golden.load("inception_v4")["cases"]["default"]["end_points"],
        "variables",
    ]
    assert report.rows[-1].shape == (len(model.weights),) and report.rows[-1].difference == 0
    assert "golden data of research/slim/nets/inception_v4.py (tensorflow/models at d4eedbb)" in str(report)

    variable = model.weights[100]
    variable.assign(variable.numpy() * np.float32(1 + 2**-23))
    report = itf.verify(path, model)
    assert [row.end_point for row in report.rows if not row.passed] == ["variables"]


@pytest.mark.slow
def test_another_architecture_fails(saved, monkeypatch):
    model, path = saved
    monkeypatch.setitem(inception_v4.BATCH_NORM, "epsilon", 2e-3)
    report = itf.verify(path, model)
    assert not report
    assert next(row.end_point for row in report.rows if not row.passed) == "Conv2d_1a_3x3"


@pytest.mark.slow
def test_options_without_golden_data(tmp_path):
    model = itf.InceptionResNetV2(classes=2, input_shape=(75, 75, 3), activation_scales=(0.1, 0.1, 0.1))
    itf.save_slim(model, tmp_path / "model.ckpt")
    with pytest.raises(
        UsageError, match=r"no golden data of inception_resnet_v2 with these options: .*\[0.1, 0.1, 0.1\]"
    ):
        itf.verify(tmp_path / "model.ckpt", model)
