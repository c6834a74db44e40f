import json
import math

import numpy as np
import pytest
from slim_files import write_frozen, write_tensors

import inception_tf as itf
from inception_tf.cli.main import main
from inception_tf.errors import UsageError
from inception_tf.slim.diff import diff, diff_text

WEIGHTS = {
    "InceptionV3/Conv2d_1a_3x3/weights": np.arange(864, dtype=np.float32).reshape(3, 3, 3, 32),
    "InceptionV3/Conv2d_1a_3x3/BatchNorm/beta": np.linspace(-1, 1, 32, dtype=np.float32),
    "InceptionV3/Mixed_5b/Branch_0/Conv2d_0a_1x1/weights": np.ones((1, 1, 32, 8), np.float32),
    "InceptionV3/Logits/Conv2d_1c_1x1/biases": np.zeros(5, np.float32),
}


@pytest.fixture
def write(tmp_path):
    """A function that writes tensors as a checkpoint in a folder of its own."""

    def make(name, tensors, format="v2"):
        (tmp_path / name).mkdir()
        return write_tensors(tmp_path / name / "model.ckpt", tensors, format)

    return make


def changed(**values):
    """WEIGHTS with some values changed, by the names' beginning."""
    return WEIGHTS | {name: value for begin, value in values.items() for name in WEIGHTS if f"/{begin}" in name}


def test_identical_whatever_the_container_and_the_scope(write, tmp_path):
    renamed = {name.replace("InceptionV3", "tower/Mine"): value for name, value in WEIGHTS.items()}
    paths = [
        write("v1", WEIGHTS | {"global_step": np.int64(3), "beta1_power": np.float32(1)}, "v1"),
        write("v2", WEIGHTS),
        write("renamed", renamed),
        write("bare", {name.removeprefix("InceptionV3/"): value for name, value in WEIGHTS.items()}),
        write_frozen(tmp_path / "frozen.pb", WEIGHTS),
    ]
    for path in paths:
        found = diff(paths[0], path)
        assert found["identical"] and diff_text(found).endswith("identical: 4 variables"), diff_text(found)
        assert found["a"] | {"path": ""} == {
            "path": "", "container": "V1", "scope": "InceptionV3", "weights": 4, "besides": 2
        }  # fmt: skip
        assert [scope["scope"] for scope in found["scopes"]] == ["Conv2d_1a_3x3", "Logits", "Mixed_5b"]


def test_differences_by_scope(write):
    beta = WEIGHTS["InceptionV3/Conv2d_1a_3x3/BatchNorm/beta"].copy()
    beta[7] += 0.25
    found = diff(write("a", WEIGHTS), write("b", changed(**{"Conv2d_1a_3x3/BatchNorm": beta})))
    assert not found["identical"]
    assert list(found["scopes"][0].values()) == ["Conv2d_1a_3x3", 2, 1, 0.25]
    assert [scope["different"] for scope in found["scopes"]] == [1, 0, 0]
    text = diff_text(found)
    assert "0.25" in text and text.endswith("NOT identical: 1 of 4 in both differ")


def test_variables_of_one_side_and_of_other_shapes(write):
    other = changed(Logits=np.zeros(7, np.float32))
    other["InceptionV3/AuxLogits/Conv2d_2b_1x1/weights"] = np.zeros((1, 1, 8, 5), np.float32)
    del other["InceptionV3/Mixed_5b/Branch_0/Conv2d_0a_1x1/weights"]
    found = diff(write("a", WEIGHTS), write("b", other))
    assert found["only_a"] == ["Mixed_5b/Branch_0/Conv2d_0a_1x1/weights"]
    assert found["only_b"] == ["AuxLogits/Conv2d_2b_1x1/weights"]
    assert found["shapes"] == {"Logits/Conv2d_1c_1x1/biases": ((5,), (7,))}
    text = diff_text(found)
    assert "Logits/Conv2d_1c_1x1/biases: 5 in A, 7 in B" in text
    assert text.endswith("NOT identical: 1 have another shape, 1 only in A, 1 only in B")


def test_a_long_list_is_cut_in_the_text(write):
    more = {f"InceptionV3/Mixed_6a/Conv2d_{i}/weights": np.zeros(2, np.float32) for i in range(40)}
    found = diff(write("a", WEIGHTS | more), write("b", WEIGHTS))
    assert len(found["only_a"]) == 40 and "30 more" in diff_text(found)


def test_values_that_are_not_finite(write):
    a, b = (write(str(value), changed(Logits=np.full(5, value, np.float32))) for value in (np.nan, np.inf))
    assert diff(a, a)["identical"]
    scopes = {scope["scope"]: scope for scope in diff(a, b)["scopes"]}
    assert scopes["Logits"]["different"] == 1 and math.isnan(scopes["Logits"]["max_difference"])
    scopes = {scope["scope"]: scope for scope in diff(b, write("c", WEIGHTS))["scopes"]}
    assert scopes["Logits"]["max_difference"] == math.inf


def test_dtypes(write):
    half = {name: value.astype("float16") for name, value in WEIGHTS.items()}
    found = diff(write("a", WEIGHTS), write("b", half))
    differences = {scope["scope"]: scope["max_difference"] for scope in found["scopes"]}
    beta = WEIGHTS["InceptionV3/Conv2d_1a_3x3/BatchNorm/beta"]
    expected = np.abs(beta.astype("f8") - beta.astype("f2").astype("f8")).max()
    assert differences == {"Conv2d_1a_3x3": expected, "Mixed_5b": 0, "Logits": 0}


def test_moving_averages_stand_for_their_weights(write):
    shadows = {f"{name}/ExponentialMovingAverage": value + 1 for name, value in WEIGHTS.items()}
    slots = {f"{name}/RMSProp": value for name, value in WEIGHTS.items()}
    trained, plain = write("a", WEIGHTS | shadows | slots), write("b", WEIGHTS)
    assert [scope["max_difference"] for scope in diff(trained, plain)["scopes"]] == pytest.approx([1, 1, 1])
    assert diff(trained, plain, ema="ignore")["identical"]
    assert diff(trained, plain)["a"]["besides"] == 8


def test_a_resnets_longest_block_is_no_scope(write):
    names = [f"resnet_v1_101/block3/unit_{i}/conv/weights" for i in range(23)]
    names += ["resnet_v1_101/conv1/weights", "resnet_v1_101/block4/conv/weights", "resnet_v1_101/logits/weights"]
    a = write("a", {name: np.ones(2, np.float32) for name in names})
    assert [scope["scope"] for scope in diff(a, a)["scopes"]] == ["block3", "block4", "conv1", "logits"]


def test_nothing_in_common(write):
    other = write("b", {"vgg_16/conv1/kernel": np.zeros(2, np.float32)})
    with pytest.raises(UsageError, match="no variable in common: Conv2d_1a_3x3/.*, and "):
        diff(write("a", WEIGHTS), other)


def test_a_checkpoint_and_its_keras_file(slim_checkpoint, tmp_path, capsys):
    model = itf.create_model("inception_v3", weights=slim_checkpoint())
    model.save(tmp_path / "model.keras")
    assert diff(slim_checkpoint(), tmp_path / "model.keras")["identical"]
    layer = model.get_layer("Mixed_6a").weights[0]
    layer.assign(layer + 0.5)
    model.save(tmp_path / "other.keras")
    assert main(["inspect", str(slim_checkpoint()), str(tmp_path / "other.keras"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    different = [scope for scope in data["scopes"] if scope["different"]]
    assert not data["identical"] and data["b"]["container"] == "Keras"
    assert [(scope["scope"], scope["different"]) for scope in different] == [("Mixed_6a", 1)]
    assert different[0]["max_difference"] == pytest.approx(0.5)
    assert main(["inspect", str(slim_checkpoint()), str(tmp_path / "model.keras")]) == 0
    assert "identical: 378 variables" in capsys.readouterr().out
