"""The golden form: its recipe, its comparison, and the golden files."""

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from inception_tf.errors import MismatchError, UsageError
from inception_tf.slim import golden

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        return importlib.import_module("golden")


@pytest.mark.parametrize(
    "name, shape, first, last",
    [
        ("InceptionV4/Conv2d_1a_3x3/weights", (3, 3, 3, 32), (-0.076431625, 0.2963632), 0.30179724),
        ("InceptionV4/Conv2d_1a_3x3/BatchNorm/beta", (32,), (0.06902935, -0.08582848), -0.053780973),
        ("InceptionV4/Conv2d_1a_3x3/BatchNorm/moving_mean", (32,), (0.06672501, -0.05952711), 0.052224196),
        ("InceptionV4/Conv2d_1a_3x3/BatchNorm/moving_variance", (32,), (0.5706795, 1.3360136), 0.6105733),
        ("InceptionV2/Conv2d_1a_7x7/depthwise_weights", (7, 7, 3, 8), (-0.0500216, -0.27625978), -0.2892163),
        ("resnet_v2_50/block1/unit_1/bottleneck_v2/preact/gamma", (64,), (0.93986404, 1.0365517), 0.93229586),
        (
            "resnet_v2_50/block1/unit_1/bottleneck_v2/conv3/weights",
            (1, 1, 64, 256),
            (-0.01373047, -0.03788701),
            0.0103050135,
        ),
        ("LeNet/fc4/biases", (10,), (0.026019085, 0.0071285726), -0.054520786),
    ],
)
def test_weights_are_pinned(name, shape, first, last):
    values = golden.deterministic_weights(name, shape)
    assert values.dtype == np.float32 and values.shape == shape
    np.testing.assert_array_equal([*values.ravel()[:2], values.ravel()[-1]], np.float32([*first, last]))


def test_images_are_pinned_and_do_not_depend_on_the_batch():
    images = golden.deterministic_images(2, 20, 33)
    assert images.dtype == np.float32 and images.shape == (2, 20, 33, 3) and np.abs(images).max() <= 1
    np.testing.assert_array_equal(images[0, 0, 0], np.float32([-0.3806584, -0.8208163, -0.08575028]))
    np.testing.assert_array_equal(images[1, 19, 32], np.float32([0.65548533, -0.35658425, -0.037505925]))
    np.testing.assert_array_equal(images[:1], golden.deterministic_images(1, 20, 33))


def test_only_a_layers_variables_have_weights():
    with pytest.raises(UsageError, match="global_step"):
        golden.deterministic_weights("global_step", ())


def test_compare_measures_against_the_largest_value():
    end_points = {"map": np.arange(1000, dtype=np.float32).reshape(1, 10, 10, 10), "few": np.float32([[1, -2]])}
    case = {"end_points": json.loads(json.dumps(golden.record(end_points)))}
    rows = golden.differences(case, {**end_points, "more": np.zeros(3)})
    assert [row[:2] for row in rows] == [("map", (1, 10, 10, 10)), ("few", (1, 2))]
    assert max(row[3] for row in rows) < 1e-7
    _, few = golden.differences(case, {**end_points, "few": np.float32([[1, -2.5]])})
    assert few == ("few", (1, 2), 0.5, 0.25)
    # Not sampled, but the mean, the deviation or the maximum tells.
    unseen = end_points["map"].copy()
    unseen.flat[min(set(range(1000)) - set(case["end_points"]["map"]["indices"]))] += 10
    assert golden.differences(case, {**end_points, "map": unseen})[0][3] > TOLERANCE
    unseen.flat[-1] = np.nan
    assert math.isnan(golden.differences(case, {**end_points, "map": unseen})[0][3])


def test_compare_lists_all_that_does_not_fit():
    case = {"end_points": golden.record({"a": np.zeros((1, 2)), "b": np.zeros(3), "c": np.zeros(4)})}
    with pytest.raises(MismatchError, match=r"a is \(2, 1\), expected \(1, 2\); c is missing"):
        golden.differences(case, {"a": np.zeros((2, 1)), "b": np.zeros(3)})


def test_networks_without_golden_data():
    with pytest.raises(UsageError, match="inception_v3.*inception_resnet_v2, inception_v4, lenet"):
        golden.load("inception_v3")


@pytest.mark.parametrize("network", ["inception_resnet_v2", "inception_v4", "lenet"])
def test_golden_files_follow_the_recipe(network):
    data = golden.load(network)
    assert data["network"] == network and data["recipe"] == golden.RECIPE
    for case in data["cases"].values():
        for name, recorded in case["end_points"].items():
            assert recorded["indices"] == golden.record({name: np.zeros(recorded["shape"])})[name]["indices"]
            assert recorded["shape"][0] == case["images"][0]
            # Neither dead nor blown up: only then does the comparison mean something.
            assert 0 < recorded["std"] < 100
            assert len(set(recorded["values"])) > min(len(recorded["values"]) // 4, 5)


@pytest.mark.parametrize("network", ["inception_resnet_v2", "inception_v4"])
def test_golden_graphs_have_the_reference_variables(slim_variables, network):
    shapes = slim_variables(network)
    case = golden.load(network)["cases"]["default"]
    assert case["variables"] == len(shapes)
    assert case["parameters"] == sum(math.prod(shape) for shape in shapes.values())


@pytest.mark.parametrize("case", ["default", "colour"])
def test_lenet_golden_equals_its_layers_written_out(case):
    import tensorflow as tf

    case = golden.load("lenet")["cases"][case]
    shapes = case["variable_shapes"]
    weights = {name[6:]: golden.deterministic_weights(name, shape) for name, shape in shapes.items()}

    def layer(operation, inputs, name):
        return operation(inputs, weights[f"{name}/weights"]) + weights[f"{name}/biases"]

    def convolution(inputs, kernel):
        return tf.nn.conv2d(inputs, kernel, 1, "SAME")

    found = {"conv1": tf.nn.relu(layer(convolution, golden.deterministic_images(*case["images"]), "conv1"))}
    found["pool1"] = tf.nn.max_pool2d(found["conv1"], 2, 2, "VALID")
    found["conv2"] = tf.nn.relu(layer(convolution, found["pool1"], "conv2"))
    found["pool2"] = tf.nn.max_pool2d(found["conv2"], 2, 2, "VALID")
    found["Flatten"] = tf.reshape(found["pool2"], (case["images"][0], -1))
    found["fc3"] = found["dropout3"] = tf.nn.relu(layer(tf.matmul, found["Flatten"], "fc3"))
    found["Logits"] = layer(tf.matmul, found["dropout3"], "fc4")
    found["Predictions"] = tf.nn.softmax(found["Logits"])
    rows = golden.differences(case, found)
    assert len(rows) == 9 and max(row[3] for row in rows) < TOLERANCE


def test_tf_slims_graph_equals_its_stored_golden_form(tool):
    case = json.loads((ROOT / "tests/golden/inception_v3.json").read_text())["cases"]["default"]
    end_points, variables = tool.run(tool.slim_graph("inception_v3", case["arguments"]), case["images"])
    assert len(variables) == case["variables"]
    rows = golden.differences(case, end_points)
    assert [row[0] for row in rows] == list(case["end_points"])
    assert max(row[3] for row in rows) < TOLERANCE


@pytest.mark.slow
def test_one_wrong_number_of_one_variable_shows_where_it_is(tool, monkeypatch):
    case = json.loads((ROOT / "tests/golden/inception_v3.json").read_text())["cases"]["default"]
    right = golden.deterministic_weights

    def wrong(name, shape):
        values = right(name, shape)
        if name == "InceptionV3/Mixed_6c/Branch_1/Conv2d_0b_1x7/BatchNorm/beta":
            values[0] += 0.1
        return values

    monkeypatch.setattr(golden, "deterministic_weights", wrong)
    end_points, _ = tool.run(tool.slim_graph("inception_v3", case["arguments"]), case["images"])
    failed = [name for name, _, _, relative in golden.differences(case, end_points) if not relative < TOLERANCE]
    assert failed[0] == "Mixed_6c" and failed[-1] == "Predictions"


def test_a_written_file_reads_back(tool, tmp_path):
    cases = {"only": {"arguments": {}, "end_points": golden.record({"a": np.float32([0.1, 1e-8, 3])})}}
    tool.write(tmp_path / "net.json", "net", {"graph": "none"}, cases)
    read = json.loads((tmp_path / "net.json").read_text())
    assert read["cases"] == cases and read["recipe"] == golden.RECIPE
    assert np.float32(read["cases"]["only"]["end_points"]["a"]["values"][0]) == np.float32(0.1)
