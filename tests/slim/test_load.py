import shutil

import numpy as np
import pytest
from slim_files import build_slim, read_tensors, tf1_session, train_and_save, write_tensors

import inception_tf as itf
from inception_tf.errors import CheckpointError, MismatchError, UsageError
from inception_tf.slim.load import load_slim
from inception_tf.slim.names import model_variables

SMALL = {"depth_multiplier": 0.1, "classes": 5, "aux_logits": True}


@pytest.fixture(scope="module")
def model():
    """A small Inception-v3 that the tests load into; each starts from its `reset` values."""
    return itf.create_model("inception_v3", **SMALL)


@pytest.fixture(autouse=True)
def reset(model):
    for variable in model.weights:
        variable.assign(np.full(variable.shape, 0.5, "float32"))


@pytest.fixture(scope="module")
def plain(trained, tmp_path_factory):
    """The weights of `trained` alone, without shadows and slots."""
    return write_tensors(tmp_path_factory.mktemp("plain") / "model.ckpt", trained.weights)


def holds(model, tensors, but=()):
    """Whether the model's variables are the tensors under InceptionV3, bit for bit, but for some as they were."""
    for name, variable in model_variables(model).items():
        expected = 0.5 if any(name.startswith(scope) for scope in but) else tensors[f"InceptionV3/{name}"]
        np.testing.assert_array_equal(variable.numpy(), expected, err_msg=name)
    return True


def untouched(model):
    return holds(model, {}, but=[""])


def test_loads_every_variable(model, plain, trained):
    report = load_slim(model, plain)
    assert holds(model, trained.weights)
    assert len(report.sources) == len(trained.weights) == len(model.weights) and not report.ignored
    assert str(report) == f"{len(trained.weights)} loaded"


def test_moving_averages(model, trained):
    report = load_slim(model, trained.path)
    assert holds(model, trained.shadows)
    assert report.ema == len(trained.weights) and not report.warnings
    assert set(report.ignored) | set(report.sources.values()) == set(read_tensors(trained.path))
    reasons = set(report.ignored.values())
    assert reasons == {"optimizer slot", "training step", "its moving average was loaded"}
    load_slim(model, trained.path, ema="ignore")
    assert holds(model, trained.weights)
    load_slim(model, trained.path, ema="require")
    assert holds(model, trained.shadows)


def test_moving_averages_alone_and_none(model, plain, trained, tmp_path):
    shadows = {f"{name}/ExponentialMovingAverage": value for name, value in trained.shadows.items()}
    path = write_tensors(tmp_path / "m.ckpt", shadows)
    load_slim(model, path)
    assert holds(model, trained.shadows)
    with pytest.raises(MismatchError, match="missing in the checkpoint"):
        load_slim(model, path, ema="ignore")
    with pytest.raises(MismatchError) as raised:
        load_slim(model, plain, ema="require")
    assert len(raised.value.report.missing) == sum(v.trainable for v in model.weights)


def test_moving_averages_of_some(model, trained, tmp_path):
    moving = ("moving_mean", "moving_variance")
    shadows = {f"{n}/ExponentialMovingAverage": value for n, value in trained.shadows.items() if not n.endswith(moving)}
    path = write_tensors(tmp_path / "a" / "m.ckpt", trained.weights | shadows)
    report = load_slim(model, path, ema="require")
    assert not report.warnings and report.ema == len(shadows)
    expected = {n: trained.weights[n] if n.endswith(moving) else v for n, v in trained.shadows.items()}
    assert holds(model, expected)

    del shadows["InceptionV3/Mixed_6b/Branch_0/Conv2d_0a_1x1/weights/ExponentialMovingAverage"]
    path = write_tensors(tmp_path / "b" / "m.ckpt", trained.weights | shadows)
    with pytest.warns(UserWarning, match="have a moving average, the rest have none"):
        load_slim(model, path)
    # A frozen layer's weights are to have theirs too.
    model.get_layer("Mixed_6b").trainable = False
    try:
        with pytest.raises(MismatchError, match="Mixed_6b/Branch_0/Conv2d_0a_1x1/weights/ExponentialMovingAverage"):
            load_slim(model, path, ema="require")
    finally:
        model.get_layer("Mixed_6b").trainable = True


def test_strict_both_ways_and_lists_it_all(model, trained, tmp_path):
    tensors = dict(trained.weights)
    absent = [n for n in tensors if "Mixed_5b/Branch_0" in n]
    for name in absent:
        del tensors[name]
    tensors["InceptionV3/Mixed_5b/SE/weights"] = np.zeros((1, 1, 2, 2), "float32")
    odd = "InceptionV3/Conv2d_2a_3x3/weights"
    tensors[odd] = np.zeros((1, 1, 16, 16), "float32")
    with pytest.raises(MismatchError) as raised:
        load_slim(model, write_tensors(tmp_path / "m.ckpt", tensors))
    report = raised.value.report
    assert sorted(report.missing) == sorted(absent)
    assert report.unexpected == ["InceptionV3/Mixed_5b/SE/weights"]
    assert report.mismatched == {"Conv2d_2a_3x3/weights": ((3, 3, 16, 16), (1, 1, 16, 16))}
    text = str(raised.value)
    for name in (*absent, "InceptionV3/Mixed_5b/SE/weights", "Conv2d_2a_3x3/weights is (1, 1, 16, 16), expected"):
        assert name in text
    assert "exclude_scopes" in text and untouched(model)


@pytest.mark.parametrize(
    "scopes",
    [
        ["Logits", "AuxLogits", "Mixed_7*"],
        ["InceptionV3/Logits", "InceptionV3/AuxLogits/", "InceptionV3/Mixed_7?"],
        ["*Logits", "Mixed_7[abc]/*"],
        "InceptionV3/Logits,InceptionV3/AuxLogits,Mixed_7*",
    ],
)
def test_excludes_scopes(model, plain, trained, scopes):
    report = load_slim(model, plain, exclude_scopes=scopes)
    but = ("Logits", "AuxLogits", "Mixed_7")
    assert holds(model, trained.weights, but)
    assert all(name.startswith(but) for name in report.excluded) and set(report.ignored.values()) == {"excluded"}
    assert len(report.excluded) == len(report.ignored) == len(model.weights) - len(report.sources)


def test_excludes_what_one_side_lacks(model, trained, tmp_path):
    tensors = {n: v for n, v in trained.weights.items() if "Mixed_7c" not in n and "Logits" not in n}
    tensors["InceptionV3/Extra/weights"] = np.zeros((3,), "float32")
    path = write_tensors(tmp_path / "m.ckpt", tensors)
    load_slim(model, path, exclude_scopes=["Mixed_7c", "*Logits", "Extra"])
    assert holds(model, trained.weights, ("Mixed_7c", "Logits", "AuxLogits"))


def test_a_scope_that_is_not_there_is_an_error(model, plain):
    for scopes in (["Logit"], ["Logits", "Mixed_9*"], ["logits"], ["Mixed_7"], [""]):
        with pytest.raises(UsageError, match="exclude_scopes: nothing matches .*The scopes are: .*Mixed_5b"):
            load_slim(model, plain, exclude_scopes=scopes)
    assert untouched(model)


@pytest.mark.parametrize("scope", ["net", "", "a/InceptionV3"])
def test_another_scope(model, trained, tmp_path, scope):
    renamed = {n.replace("InceptionV3", scope, 1).lstrip("/"): value for n, value in trained.weights.items()}
    renamed["global_step"] = np.int64(3)
    path = write_tensors(tmp_path / "m.ckpt", renamed)
    report = load_slim(model, path)
    assert holds(model, trained.weights) and report.ignored == {"global_step": "training step"}
    load_slim(model, path, scope=scope, exclude_scopes=["Logits"])
    with pytest.raises(MismatchError, match="missing in the checkpoint: elsewhere/"):
        load_slim(model, path, scope="elsewhere")


def test_two_networks_in_a_file(model, trained, tmp_path):
    other = {n.replace("InceptionV3", "teacher"): value + 1 for n, value in trained.weights.items()}
    path = write_tensors(tmp_path / "m.ckpt", trained.weights | other)
    report = load_slim(model, path)
    assert holds(model, trained.weights)
    assert set(report.ignored.values()) == {"outside the scope InceptionV3"}
    load_slim(model, path, scope="teacher")
    assert holds(model, {n: value + 1 for n, value in trained.weights.items()})


def test_drops_the_background(trained, plain, tmp_path):
    four = itf.create_model("inception_v3", **{**SMALL, "classes": 4})
    with pytest.raises(MismatchError, match='background="drop" leaves out class 0'):
        load_slim(four, plain)
    load_slim(four, plain, background="drop")
    variables = model_variables(four)
    for name, value in trained.weights.items():
        value = value[..., 1:] if name.endswith(("Conv2d_1c_1x1/biases", "Conv2d_1c_1x1/weights")) else value
        value = value[..., 1:] if "AuxLogits/Conv2d_2b_1x1" in name else value
        np.testing.assert_array_equal(variables[name.removeprefix("InceptionV3/")].numpy(), value)


def test_no_background_to_drop(model, plain):
    with pytest.raises(UsageError, match="one class less than the checkpoint"):
        load_slim(model, plain, background="drop")
    three = itf.create_model("inception_v3", **{**SMALL, "classes": 3})
    with pytest.raises(MismatchError, match="Logits/Conv2d_1c_1x1/biases is .5,., expected .3,."):
        load_slim(three, plain, background="drop")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_warns_of_what_is_not_finite(model, trained, tmp_path, value):
    bad = "InceptionV3/Conv2d_2a_3x3/weights"
    tensors = trained.weights | {bad: np.where(np.arange(16) == 3, np.float32(value), trained.weights[bad])}
    with pytest.warns(UserWarning, match=f"{bad} holds NaN or infinite values"):
        report = load_slim(model, write_tensors(tmp_path / "m.ckpt", tensors))
    assert report.warnings and holds(model, tensors)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_precisions(model, trained, tmp_path, dtype):
    import tensorflow as tf

    tensors = {name: tf.cast(value, dtype).numpy() for name, value in trained.weights.items()}
    load_slim(model, write_tensors(tmp_path / "m.ckpt", tensors))
    assert holds(model, {name: value.astype("float32") for name, value in tensors.items()})


@pytest.mark.parametrize("keep", [0.1, 0.6, 0.999])
def test_a_damaged_checkpoint_leaves_the_model_as_it_was(model, plain, tmp_path, keep):
    for file in plain.parent.iterdir():
        shutil.copy(file, tmp_path)
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[: int(data.stat().st_size * keep)])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        load_slim(model, tmp_path / "model.ckpt")
    assert untouched(model)


def test_a_checkpoint_of_another_width(trained, plain):
    wide = itf.create_model("inception_v3", depth_multiplier=0.2, classes=5, aux_logits=True)
    with pytest.raises(MismatchError) as raised:
        load_slim(wide, plain)
    assert len(raised.value.report.mismatched) > 100
    assert "see the error's report" in str(raised.value) and "classes=" in str(raised.value)


def test_options_out_of_range(model, plain):
    for option in ({"ema": "yes"}, {"background": True}):
        with pytest.raises(UsageError, match=f"{next(iter(option))} must be"):
            load_slim(model, plain, **option)
    with pytest.raises(CheckpointError, match="There is no checkpoint at"):
        load_slim(model, plain.parent / "no.ckpt")


def test_into_a_model_that_is_not_ours(model, plain, trained, tmp_path):
    """A Keras model of the same layer names, such as a feature extractor, has no card and loads all the same."""
    features = itf.feature_extractor(model, ["Mixed_5b"])
    report = load_slim(features, plain, exclude_scopes=["Mixed_5[cd]", "Mixed_6*", "Mixed_7*", "*Logits"])
    assert len(report.sources) == len(features.weights)
    np.testing.assert_array_equal(features.weights[0], trained.weights["InceptionV3/Conv2d_1a_3x3/weights"])


@pytest.mark.slow
@pytest.mark.parametrize("format", ["v1", "v2", "sharded_v1", "sharded_v2"])
def test_what_tensorflow_1_trained_and_saved(model, training_run, format):
    """TF-Slim's graph, TensorFlow 1's RMSProp, moving averages and Saver."""
    paths, weights, shadows, others = training_run
    report = load_slim(model, paths[format])
    assert holds(model, shadows) and set(report.ignored) == set(weights) | others - set(report.sources.values())
    load_slim(model, paths[format].parent, ema="ignore")
    assert holds(model, weights)


@pytest.fixture(scope="module")
def training_run(tmp_path_factory):
    with tf1_session(devices=3) as session:
        formats = ["v1", "v2", "sharded_v1", "sharded_v2"]
        return train_and_save(session, build_slim(aux_logits=True), tmp_path_factory.mktemp("run"), formats)
