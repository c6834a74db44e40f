"""ResNet v1 and v2 beside TF-Slim's own graphs, on checkpoints that TF-Slim made."""

import numpy as np
import pytest

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.slim.checkpoint import Checkpoint
from inception_tf.slim.verify import noise

NETWORKS = [f"resnet_{version}_{depth}" for version in ("v1", "v2") for depth in (50, 101, 152)]
SMALLEST = ["resnet_v1_50", "resnet_v2_50"]
END_POINTS = ["conv1", "block1", "block2", "block3", "block4"]
TOP = ["global_pool", "logits", "spatial_squeeze", "predictions"]


@pytest.mark.parametrize("network", SMALLEST)
def test_equal(slim_checkpoint, network):
    path = slim_checkpoint(network)
    model = itf.create_model(network, weights=path, input_shape=(65, 98, 3))
    report = itf.verify(path, model)
    assert [row.end_point for row in report.rows] == END_POINTS + TOP
    assert report.passed and report.top5 and report.worst <= 1e-5, str(report)
    with pytest.raises(UsageError, match="takes images of 65×98×3. Received: images of 65×65×3"):
        itf.verify(path, model, noise(1, 65, 65))


@pytest.mark.slow
@pytest.mark.parametrize("network", [name for name in NETWORKS if "101" not in name])
def test_equal_as_published(slim_checkpoint, network):
    classes = 1000 if "v1" in network else 1001
    report = itf.verify(slim_checkpoint(network, classes=classes), batch=1)
    assert [row.end_point for row in report.rows] == END_POINTS + TOP
    assert report.passed and report.top5 and report.worst <= 1e-5, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("network, output_stride", [("resnet_v1_50", 4), ("resnet_v2_50", 8), ("resnet_v1_50", 16)])
def test_equal_with_output_stride(slim_checkpoint, network, output_stride):
    path = slim_checkpoint(network)
    model = itf.create_model(
        network, weights=path, input_shape=(97, 66, 3), output_stride=output_stride, spatial_squeeze=False
    )
    report = itf.verify(path, model)
    assert [row.end_point for row in report.rows] == [*END_POINTS, "logits", "predictions"]
    assert report.rows[-1].shape[1] == -(-97 // output_stride)
    assert report.passed and report.top5, str(report)


@pytest.mark.slow
def test_a_wrong_variable_shows_where_it_is(slim_checkpoint):
    path = slim_checkpoint("resnet_v2_50")
    model = itf.create_model("resnet_v2_50", weights=path, input_shape=(65, 65, 3))
    (variable,) = [v for v in model.weights if v.path.endswith("conv2/BatchNorm/beta") and "block3/unit_4" in v.path]
    variable.assign(variable.numpy() + np.float32(0.01))
    report = itf.verify(path, model)
    assert not report
    assert next(row.end_point for row in report.rows if not row.passed) == "block3"


@pytest.mark.slow
@pytest.mark.parametrize("network", SMALLEST)
def test_tf_slim_restores_what_was_saved(slim_checkpoint, tmp_path, network):
    """Without its top too: TF-Slim's graph has it, the checkpoint not."""
    trunk = itf.create_model(network, weights=slim_checkpoint(network), include_top=False, input_shape=(65, 65, 3))
    itf.save_slim(trunk, tmp_path / "trunk.ckpt")
    report = itf.verify(tmp_path / "trunk.ckpt", trunk)
    assert report.passed and [row.end_point for row in report.rows] == END_POINTS

    model = itf.create_model(network, weights=slim_checkpoint(network), classes=3, input_shape=(65, 65, 3))
    itf.save_slim(model, tmp_path / "three.ckpt", format="v1")
    report = itf.verify(tmp_path / "three.ckpt", model)
    assert report.passed and report.rows[-1].shape == (2, 3)


class Names(Checkpoint):
    """A checkpoint of names and shapes alone: detection reads no tensor."""

    def __init__(self, shapes):
        super().__init__("resnet.ckpt", "none", shapes, {})


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("scope", [None, "backbone/net"])
def test_detection(slim_variables, network, scope):
    facts = slim_variables(network)
    found = itf.detect(Names({(scope or network) + name.removeprefix(network): s for name, s in facts.items()}))
    assert (found.network, found.scope, found.options) == (network, scope or network, {})
    assert found.classes == (1000 if "v1" in network else 1001)
