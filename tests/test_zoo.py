import numpy as np
import pytest
from slim_files import write_tensors

import inception_tf as itf
from inception_tf.errors import CheckpointError, DownloadError, MismatchError, UsageError
from inception_tf.models.model import end_points
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.load import load_slim
from inception_tf.slim.names import model_variables
from inception_tf.zoo import resolve

HEADS = ("Logits", "AuxLogits")


@pytest.fixture(scope="module")
def thousand(slim_checkpoint, tmp_path_factory):
    """A small network's checkpoint with 1001 classes, its auxiliary head and a `global_step`; and its tensors."""
    from slim_files import read_tensors

    tensors = read_tensors(slim_checkpoint(classes=1001, aux_logits=True)) | {"global_step": np.int64(7)}
    return write_tensors(tmp_path_factory.mktemp("thousand") / "model.ckpt-7", tensors), tensors


def compare(model, tensors, new=(), scope="InceptionV3"):
    """The model's variables are the tensors bit for bit, but for those of `new`, which are none of them."""
    for name, variable in model_variables(model).items():
        value = tensors.get(f"{scope}/{name}")
        if name.split("/")[0] in new:
            assert value is None or value.shape != variable.shape or not np.array_equal(value, variable)
        else:
            np.testing.assert_array_equal(variable.numpy(), value, err_msg=name)
    return True


def test_what_is_not_given_is_read_from_the_checkpoint(thousand):
    path, tensors = thousand
    model = itf.create_model("inception_v3", weights=path)
    options = model.card.options
    assert (options["classes"], options["depth_multiplier"], options["aux_logits"]) == (1001, 0.1, True)
    assert compare(model, tensors) and len(model.weights) == len(tensors) - 1
    weights = model.card.weights
    assert (weights.source, weights.step, weights.complete) == ("model.ckpt-7", 7, True) and "loaded" in weights.report
    for given in (str(path), open_checkpoint(path)):
        assert compare(itf.InceptionV3(weights=given), tensors)


def test_moving_averages_through_create_model(trained):
    assert compare(itf.create_model("inception_v3", weights=trained.path), trained.shadows)
    assert compare(itf.create_model("inception_v3", weights=trained.path, ema="ignore"), trained.weights)


@pytest.mark.parametrize(
    "options, new, classes, aux",
    [
        ({"classes": 5}, ["Logits"], 5, False),
        ({"classes": 5, "aux_logits": True}, HEADS, 5, True),
        ({"classes": 1000, "exclude_scopes": HEADS}, HEADS, 1000, False),
        ({"aux_logits": False}, [], 1001, False),
        ({"exclude_scopes": ["InceptionV3/Mixed_7c"]}, ["Mixed_7c"], 1001, True),
        ({"classes": 5, "exclude_scopes": "Mixed_7b,Mixed_7c"}, ["Mixed_7b", "Mixed_7c", "Logits"], 5, False),
        ({"include_top": False, "pooling": "avg"}, [], 203, False),
        ({"input_shape": (160, 160, 3), "aux_logits": False}, [], 1001, False),
        ({"input_shape": (None, None, 3)}, [], 1001, True),
    ],
)
def test_options_beside_the_checkpoints(thousand, options, new, classes, aux):
    """Other classes start new heads, what is excluded is new, and all else is the checkpoint's."""
    path, tensors = thousand
    model = itf.create_model("inception_v3", weights=path, **options)
    assert compare(model, tensors, new) and model.output.shape == (None, classes)
    assert ("AuxLogits" in end_points(model)) == aux
    if options.get("input_shape") == (None, None, 3):
        assert model(np.zeros((1, 160, 100, 3), "float32")).shape == (1, 1001)
    new = [value for name, value in model_variables(model).items() if "Mixed_7c" in name and name.endswith("/weights")]
    assert len(new) == 9 and all(np.std(value) > 0 for value in new)


@pytest.mark.parametrize(
    "network, options, error, message",
    [
        ("inception_v3", {"classes": 1000}, UsageError, '1001 .*Received: classes=1000.*background="drop"'),
        ("inception_v3", {"exclude_scopes": ["Mixed_9"]}, UsageError, "'Mixed_9'"),
        ("inception_v3", {"input_shape": (160, 160, 3)}, MismatchError, "AuxLogits/Conv2d_2a_2x2/weights"),
        ("inception_v3", {"depth_multiplier": 0.2}, MismatchError, "Conv2d_4a_3x3/weights"),
        ("resnet_v1_50", {}, MismatchError, "does not hold resnet_v1_50|holds no network"),
    ],
)
def test_options_that_do_not_fit(thousand, network, options, error, message):
    path, _ = thousand
    with pytest.raises(error, match=message) as raised:
        itf.create_model(network, weights=path, **options)
    if "depth_multiplier" in options:
        assert len(raised.value.report.mismatched) > 100


def test_an_auxiliary_head_that_the_checkpoint_lacks(slim_checkpoint):
    without = slim_checkpoint()
    assert "AuxLogits" not in end_points(itf.create_model("inception_v3", weights=without))
    with pytest.raises(MismatchError, match="InceptionV3/AuxLogits") as raised:
        itf.create_model("inception_v3", weights=without, aux_logits=True)
    assert len(raised.value.report.missing) == 10 and "exclude_scopes" in str(raised.value)
    model = itf.create_model("inception_v3", weights=without, aux_logits=True, exclude_scopes=["AuxLogits"])
    assert "AuxLogits" in end_points(model)


@pytest.mark.parametrize("options", [{"classes": 1000}, {}])
def test_imagenets_thousand_classes(thousand, options):
    path, tensors = thousand
    model = itf.create_model("inception_v3", weights=path, background="drop", **options)
    assert model.output.shape == (None, 1000)
    kernel = model_variables(model)["Logits/Conv2d_1c_1x1/weights"]
    np.testing.assert_array_equal(kernel, tensors["InceptionV3/Logits/Conv2d_1c_1x1/weights"][..., 1:])


def test_a_backbone_that_ends_early(thousand, tmp_path):
    _, tensors = thousand
    some = {n: v for n, v in tensors.items() if not any(s in n for s in ("Mixed_7b", "Mixed_7c", *HEADS))}
    path = write_tensors(tmp_path / "m.ckpt", some)
    with pytest.raises(UsageError, match="holds no classifier: give classes= for a new one, or include_top=False"):
        itf.create_model("inception_v3", weights=path)
    with pytest.raises(MismatchError, match="missing in the checkpoint: InceptionV3/Mixed_7b") as raised:
        itf.create_model("inception_v3", weights=path, classes=5)
    assert {name.split("/")[1] for name in raised.value.report.missing} == {"Mixed_7b", "Mixed_7c"}
    model = itf.create_model("inception_v3", weights=path, classes=5, exclude_scopes=["Mixed_7[bc]"])
    assert compare(model, some, new=["Mixed_7b", "Mixed_7c", "Logits"])


def test_the_backbone_alone(shared):
    path = shared / "data/inception_v3_trunk.ckpt"
    tensors = dict(open_checkpoint(path))
    assert len(tensors) == 376
    model = itf.create_model("inception_v3", weights=path, classes=5, aux_logits=True)
    assert compare(model, tensors, new=HEADS)


def test_keras_files_are_checkpoints(thousand, tmp_path):
    path, tensors = thousand
    itf.create_model("inception_v3", weights=path).save(tmp_path / "a.keras")
    assert compare(itf.create_model("inception_v3", weights=tmp_path / "a.keras"), tensors)
    assert compare(itf.create_model("inception_v3", weights=tmp_path / "a.keras", classes=5), tensors, new=["Logits"])
    model = itf.create_model("inception_v3", depth_multiplier=0.1, classes=1001, aux_logits=True)
    load_slim(model, tmp_path / "a.keras")
    assert compare(model, tensors)


def test_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").mkdir()
    for source in (tmp_path / "imagenet", "./imagenet", "nothing.ckpt-3", "slim.tar.gz", "a/b"):
        assert resolve(source).kind == "checkpoint"
    assert resolve("imagenet").kind == "published" and resolve("nothing").kind == "network"
    (tmp_path / "model.index").write_bytes(b"")
    assert resolve("model").kind == "checkpoint"
    with pytest.raises(CheckpointError, match="There is no checkpoint at nothing.ckpt-3"):
        itf.create_model("inception_v3", weights="nothing.ckpt-3")
    with pytest.raises(UsageError, match="The path of a checkpoint is taken too. Received: weights='nothing'"):
        itf.create_model("inception_v3", weights="nothing")


def test_a_name_without_weights_classifies_nothing():
    for name in ("inception_v3", "nothing"):
        with pytest.raises(CheckpointError, match=f"There is no model at {name}"):
            itf.open_engine(name)
    with pytest.raises(UsageError, match="network="):
        itf.load_model("lenet.weights.h5")
    with pytest.raises(UsageError, match="a.keras is a Keras model.* Received: ema, network"):
        itf.load_model("a.keras", network="lenet", ema="auto")


def test_published_weights_without_a_network(tmp_path, monkeypatch):
    """A folder called imagenet is no checkpoint: the name means the published one, which cannot be had here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCEPTION_TF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("INCEPTION_TF_MIRROR", "http://127.0.0.1:9/")
    monkeypatch.setattr("time.sleep", lambda _: None)
    (tmp_path / "imagenet").mkdir()
    with pytest.raises(DownloadError, match="inception_v3"):
        itf.create_model("inception_v3", weights="imagenet")
