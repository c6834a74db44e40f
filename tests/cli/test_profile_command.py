"""`inception-tf profile`, as a user types it."""

import functools
import json

import pytest

import inception_tf as itf


@pytest.fixture
def run(command):
    return functools.partial(command, "profile")


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    """A LeNet for 20×24 images, as a `.keras` file and as a Slim checkpoint."""
    folder = tmp_path_factory.mktemp("lenet")
    model = itf.LeNet(input_shape=(20, 24, 1), classes=7)
    model.save(folder / "lenet.keras")
    itf.save_slim(model, folder / "lenet.ckpt")
    return model, folder


def test_the_arithmetic_of_googlenet_3a(run):
    code, out, _ = run("inception_v1", "--json")
    data = json.loads(out)
    block = next(block for block in data["naive"] if block["block"] == "Mixed_3b")
    assert code == 0
    assert (block["weights"]["naive"], block["weights"]["paper"]) == (387072, 157184)
    assert (block["channels"]["unprojected"], block["channels"]["built"]) == (416, 256)
    for part in ("end_points", "kernels", "layers"):
        assert sum(entry["parameters"] for entry in data[part]) == data["parameters"] == 6633209
        assert sum(entry["multiply_adds"] for entry in data[part]) == data["multiply_adds"]
        assert sum(entry["activation_bytes"] for entry in data[part]) == data["activation_bytes"]
    mixed = next(entry for entry in data["end_points"] if entry["end_point"] == "Mixed_3b")
    assert sum(branch["parameters"] for branch in mixed["branches"]) == mixed["parameters"]
    assert sum(branch["output"][-1] for branch in mixed["branches"]) == mixed["output"][-1] == 256

    out = run("inception_v1")[1]
    line = next(line for line in out.splitlines() if line.startswith("Mixed_3b") and "387,072" in line)
    assert "157,184" in line
    out = run("inception_v1", "--block", "Mixed_3b")[1]
    assert "1×1×192×16 + 5×5×16×32" in out and "416 channels out" in out


def test_another_size(run):
    data = {size: json.loads(run("inception_v3", "--input", size, "--json")[1]) for size in ("299", "150x171")}
    assert data["150x171"]["input"] == [150, 171, 3]
    assert data["150x171"]["parameters"] == data["299"]["parameters"]
    assert data["150x171"]["multiply_adds"] < data["299"]["multiply_adds"] / 3
    fields = [{e["end_point"]: e["receptive_field"] for e in data[size]["end_points"][:-4]} for size in data]
    assert fields[0] == fields[1]


@pytest.mark.parametrize("name", ["lenet.keras", "lenet.ckpt"])
def test_a_models_file(run, lenet, name):
    model, folder = lenet
    code, out, _ = run(folder / name, "--json", "--input", "20x24")
    data = json.loads(out)
    assert code == 0 and data["input"] == [20, 24, 1] and "naive" not in data
    assert data["parameters"] == model.count_params()
    assert data["end_points"][-1]["output"] == [7]
    code, _, err = run(folder / name, "--classes", 3)
    assert code == 2 and "its own" in err


def test_the_size_of_a_file_whose_layers_depend_on_it(run, lenet):
    """A `.keras` file tells it, a checkpoint may not."""
    assert json.loads(run(lenet[1] / "lenet.keras", "--json")[1])["input"] == [20, 24, 1]
    for arguments in (["lenet.keras", "--input", 28], ["lenet.ckpt"]):
        code, _, err = run(lenet[1] / arguments[0], *arguments[1:])
        assert code == 2 and "not for images of 28×28: fc3/weights" in err


def test_a_checkpoint_without_a_classifier(run, tmp_path):
    backbone = itf.LeNet(include_top=False)
    itf.save_slim(backbone, tmp_path / "backbone.ckpt")
    data = json.loads(run(tmp_path / "backbone.ckpt", "--json")[1])
    assert data["end_points"][-1]["end_point"] == "pool2" and data["parameters"] == backbone.count_params()
    assert data["input"] == [28, 28, 1]


def test_side_by_side(run):
    code, out, _ = run("--compare", "alexnet_v2", "inception_v1", "nin", "--classes", 1000)
    assert code == 0
    alexnet, inception, nin = [line.split() for line in out.splitlines()[2:5]]
    assert alexnet[3:5] == ["50,303,912", "×1"] and alexnet[-1] == "–"
    assert inception[3:5] == ["6,632,184", "÷7.58"] and inception[-1] == "69.8"
    assert nin[3] == "7,595,176"  # the authors' own, of Caffe's model zoo
    data = json.loads(run("inception_v1", "--compare", "--json")[1])
    assert [row["network"] for row in data][:2] == ["inception_v1", "alexnet_v2"] and len(data) == 10
    assert {row["network"]: row["receptive_field"][0] for row in data}["inception_v3"] == 1311


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "Which network?"),
        (["there/is/none.keras"], "There is no model"),
        (["incept_v1"], "Did you mean inception_v"),
        (["vgg_16", "--block", "Mixed_3b"], "vgg_16 has no mixed blocks"),
        (["inception_v1", "--block", "Mixed_3a"], "It has: Mixed_3b, Mixed_3c"),
        (["inception_v3", "--input", "74"], "at least 75×75"),
        (["inception_v1", "--classes", "0"], "classes must be"),
        (["--compare", "lenet", "--block", "Mixed_3b"], "about one network"),
    ],
)
def test_wrong_use(run, arguments, said):
    code, _, err = run(*arguments)
    assert code == (1 if "no model" in said else 2) and said in err
