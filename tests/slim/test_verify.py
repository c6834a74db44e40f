"""Verification must be able to fail, and at the right place."""

import keras
import numpy as np
import pytest
from PIL import Image
from slim_files import read_tensors, write_tensors

import inception_tf as itf
from inception_tf.errors import CheckpointError, MismatchError, UsageError
from inception_tf.models.model import end_points, feature_extractor
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.detect import detect
from inception_tf.slim.golden import deterministic_weights
from inception_tf.slim.names import model_variables, specification
from inception_tf.slim.verify import compare_end_points, noise, same_top5, verify

pytestmark = pytest.mark.usefixtures("cached_originals")

END_POINTS = [
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_3a_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3",
    "MaxPool_5a_3x3", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e",
    "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool_1a", "PreLogits", "Logits", "AuxLogits", "Predictions",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(trained):
    return itf.create_model("inception_v3", weights=trained.path)


@pytest.fixture(scope="module")
def images():
    return noise(2, 299, 299)


@pytest.fixture(scope="module")
def original(cached_originals, trained, images):
    """What TF-Slim's graph gives for the model's checkpoint, at every end point."""
    return cached_originals(open_checkpoint(trained.path), images, detect(trained.path))


def answers(model, images):
    """What a model gives at every end point, without the time that compiling it takes."""
    outputs = feature_extractor(model, list(end_points(model)))(images, training=False)
    return {name: output.numpy() for name, output in outputs.items()}


@pytest.fixture
def corrupt(model, images, original):
    """A function that changes a variable of the model, compares it with the original and changes it back."""

    def run(name, change):
        variable = model_variables(model)[name]
        value = variable.numpy()
        variable.assign(change(value.copy()))
        try:
            return compare_end_points("inception_v3", "TF-Slim", answers(model, images), original)
        finally:
            variable.assign(value)

    return run


def failures(report):
    return [row.end_point for row in report.rows if not row.passed]


def test_equal_at_every_end_point(model, trained):
    """The moving averages, from a V2 checkpoint with everything that training leaves."""
    report = verify(trained.path, model)
    assert report and report.passed and report.top5
    assert [row.end_point for row in report.rows] == END_POINTS
    assert report.worst < 1e-5 and report.images == 2
    text = str(report)
    assert text.count("ok") == len(END_POINTS) and "FAILED" not in text
    assert report.summary().startswith("equal: inception_v3 and TF-Slim's graph of inception_v3, 23 end points")


def test_other_formats_scopes_and_paths(tmp_path):
    """V1 under another scope, in a folder whose name TensorFlow's Saver takes for a pattern."""
    options = {"depth_multiplier": 0.1, "classes": 5, "aux_logits": True, "input_shape": (128, 128, 3)}
    shapes = specification("inception_v3", **options)
    tensors = {f"a/net/{name}": deterministic_weights(name, shape) for name, shape in shapes.items()}
    report = verify(write_tensors(tmp_path / "run[1] *?" / "model.ckpt-3", tensors, "v1"))
    assert report and report.worst < 1e-5 and [row.end_point for row in report.rows] == END_POINTS
    # Any size that gives the auxiliary head its name will do.
    assert report.rows[14].shape in [(2, side, side, 76) for side in (5, 6, 7)]


def test_no_scope_the_backbone_alone_and_images_given(slim_checkpoint, tmp_path):
    tensors = {n: value for n, value in read_tensors(slim_checkpoint(scope="")).items() if "Logits/" not in n}
    report = verify(write_tensors(tmp_path / "m[0].ckpt", tensors, shards=2), images=noise(1, 150, 201))
    assert report and [row.end_point for row in report.rows] == END_POINTS[:18] and report.top5 is None
    assert report.rows[-1].shape == (1, 3, 4, 203) and report.images == 1


def shift(value):
    return value * 1.01 + 0.01


def shift_one_number(value):
    value[0, 0, 3, 5] += 1e-2
    return value


@pytest.mark.parametrize(
    "name, change, failed",
    [
        ("Conv2d_1a_3x3/weights", shift, "Conv2d_1a_3x3"),
        ("Mixed_5c/Branch_0/Conv2d_0a_1x1/BatchNorm/moving_variance", shift, "Mixed_5c"),
        ("Mixed_6b/Branch_0/Conv2d_0a_1x1/BatchNorm/beta", shift, "Mixed_6b"),
        ("Mixed_7c/Branch_0/Conv2d_0a_1x1/BatchNorm/moving_mean", shift, "Mixed_7c"),
        ("Mixed_6c/Branch_2/Conv2d_0c_1x7/weights", shift_one_number, "Mixed_6c"),
        ("Mixed_5d/Branch_0/Conv2d_0a_1x1/BatchNorm/beta", lambda value: value + np.float32(np.nan), "Mixed_5d"),
        ("Mixed_5d/Branch_0/Conv2d_0a_1x1/BatchNorm/beta", lambda value: value + np.float32(np.inf), "Mixed_5d"),
        ("AuxLogits/Conv2d_2b_1x1/biases", lambda value: value + 0.01, "AuxLogits"),
        ("Logits/Conv2d_1c_1x1/biases", lambda value: value[::-1] * 3, "Logits"),
    ],
)
def test_a_corrupted_variable_fails_where_it_is(corrupt, name, change, failed):
    report = corrupt(name, change)
    assert not report and not report.worst <= 1e-5 and failures(report)[0] == failed
    assert report.summary().startswith(f"NOT EQUAL, first at {failed}: ")
    alone = {"AuxLogits": ["AuxLogits"], "Logits": ["Logits", "Predictions"]}  # no other end point sees a head
    assert failures(report) == alone.get(failed, failures(report))


def test_a_layer_computed_otherwise_fails(trained, original, images):
    """The same weights with another epsilon in a block's batch norms."""
    model = itf.create_model("inception_v3", weights=trained.path)
    for layer in model.get_layer("Mixed_6d")._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = 1e-2
    report = compare_end_points("inception_v3", "TF-Slim", answers(model, images), original)
    assert failures(report)[0] == "Mixed_6d"


def test_arguments_out_of_range(model, trained, slim_variables, tmp_path):
    with pytest.raises(UsageError, match="The model takes images of 299×299×3. Received: images of 150×150×3"):
        verify(trained.path, model, images=noise(1, 150, 150))
    with pytest.raises(UsageError, match="The model takes images of 299×299×3. Received"):
        verify(trained.path, model, images=noise(1, 299, 299)[0])
    with pytest.raises(CheckpointError, match="There is no checkpoint at"):
        verify(tmp_path / "nothing.ckpt")
    vgg = {name: np.zeros(shape, "float32") for name, shape in slim_variables("vgg_16").items() if "fc" not in name}
    with pytest.raises(MismatchError):
        verify(write_tensors(tmp_path / "vgg.ckpt", vgg), model)


def test_comparing():
    ours = {"a": np.ones((1, 2)), "b": np.zeros((1, 2)), "mine": np.ones(1)}
    report = compare_end_points("inception_v3", "x", ours, {"b": np.zeros((1, 2)), "a": np.full((1, 2), 1 + 9e-6)})
    assert report and [row.end_point for row in report.rows] == ["a", "b"]
    assert report.rows[0].relative == pytest.approx(9e-6, rel=1e-3) and report.rows[1].relative == 0
    for theirs in (np.full((1, 2), 1.1), np.ones((1, 3))):
        assert not compare_end_points("inception_v3", "x", ours, {"a": theirs})
    assert compare_end_points("inception_v3", "x", ours, {"a": np.full((1, 2), 1.1)}, tolerance=0.2)
    nan = {"b": np.full((1, 2), np.nan)}
    assert failures(compare_end_points("inception_v3", "x", ours | nan, ours | nan)) == ["b"]
    with pytest.raises(UsageError, match="no end point in common"):
        compare_end_points("inception_v3", "x", ours, {"z": np.ones(1)})


def test_the_five_best():
    scores = np.array([[0.5, 0.2, 0.1, 0.08, 0.07, 0.05]])
    swapped = scores[:, [1, 0, 2, 3, 4, 5]]
    assert same_top5(scores, scores) and not same_top5(swapped, scores)
    close = scores + [[0, 0, 0, -0.01 + 1e-7, 0, 0]]  # a tie within the tolerance may fall either way
    assert same_top5(close, close[:, [0, 1, 2, 4, 3, 5]])


@pytest.mark.slow
def test_really_trained_weights_on_photographs(shared):
    photographs = sorted((shared / "data/images").glob("*.jpg"))
    images = [
        np.asarray(Image.open(file).convert("RGB").resize((299, 299)), "float32") / 127.5 - 1 for file in photographs
    ]
    report = verify(shared / "data/inception_v3_trunk.ckpt", images=np.stack(images))
    assert report and report.worst < 1e-5 and len(report.rows) == 18 and report.images == 2


@pytest.mark.slow
def test_the_published_size_and_format(slim_checkpoint):
    report = verify(slim_checkpoint(depth_multiplier=1.0, classes=1001, aux_logits=True, format="v1"))
    assert report and report.worst < 1e-5 and [row.end_point for row in report.rows] == END_POINTS
    assert report.rows[-1].shape == (2, 1001) and report.top5
