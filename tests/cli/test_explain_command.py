"""`inception-tf explain`: a network whose one class is brightness, and photographs that are bright in one spot."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from PIL import Image

import inception_tf as itf


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """model.keras, a Network in Network: "bright", "dark" and "blue" are what they say, by weights set by hand; its
    checkpoint; photographs of 200×320 with a bright square."""
    folder = tmp_path_factory.mktemp("explain")
    model = itf.NetworkInNetwork(layout="cifar10", classes=3, input_shape=(64, 64, 3), rectified_logits=False)
    model.card.preprocessing["size"] = [64, 64]
    model.card = dataclasses.replace(model.card, labels=["bright", "dark", "blue"])
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Conv2D):
            kernel, bias = np.zeros(layer.kernel.shape), np.zeros(layer.filters)
            if layer.name == "Conv2d_0a_5x5" and layer.kernel.shape[2] == 3:
                kernel[..., 0] = 1 / 75  # brightness, from 0 to 2
                kernel[:, :, 2, 1], bias[0] = 1 / 25, 1
                kernel[:, :, :2, 1] = -1 / 50
            elif layer.filters == 3:
                kernel[0, 0, 0], kernel[0, 0, 1] = (4, -4, 0), (0, 0, 20)
            else:
                middle = tuple(side // 2 for side in layer.kernel_size)
                kernel[(*middle, 0, 0)] = kernel[(*middle, 1, 1)] = 1
            layer.kernel.assign(kernel)
            layer.bias.assign(bias)
    model.save(folder / "model.keras")
    for name, (y, x), color in (("white", (140, 90), (255, 255, 255)), ("blue", (60, 230), (0, 0, 255))):
        image = np.full((200, 320, 3), 40, "uint8")
        image[y - 20 : y + 20, x - 20 : x + 20] = color
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def run(command, folder, tmp_path, monkeypatch):
    """A function that runs `explain` on the model in a folder of its own; returns exit code, output, error."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, model="model.keras": command("explain", folder / model, *arguments)


@pytest.mark.parametrize("options", [[], ["--at", "pool1"]])
def test_the_heat_is_where_the_class_is(run, folder, tmp_path, options):
    code, out, _ = run(folder / "white.png", folder / "blue.png", "--top", 2, *options, "--json")
    data = json.loads(out)
    assert code == 0 and Image.open(tmp_path / "white.explain.png").size[0] > 3 * 320
    assert data["picture"] == "white.explain.png"
    white, blue = data["images"]
    assert blue["classes"][0]["name"] == "blue"
    bright = next(entry for entry in white["classes"] if entry["name"] == "bright") if not options else None
    for peak, (y, x) in ((bright and bright["peak"], (140, 90)), (blue["classes"][0]["peak"], (60, 230))):
        if peak:
            assert abs(peak["y"] - y) < 25 and abs(peak["x"] - x) < 25
    assert {image["method"] for image in data["images"]} == {"Grad-CAM" if options else "class activation map"}


def test_a_class_of_ones_own(run, folder, tmp_path):
    code, out, _ = run(folder / "white.png", "--class", "bright", "--class", "2", "--out", "new/a.png")
    assert code == 0 and (tmp_path / "new" / "a.png").is_file()
    assert [line.split()[-4] for line in out.splitlines()[2:4]] == ["bright", "blue"]


def test_the_picture_is_not_replaced(run, folder, tmp_path):
    (tmp_path / "white.explain.png").touch()
    code, _, err = run(folder / "white.png")
    assert code == 2 and "exists" in err
    assert run(folder / "white.png", "--force")[0] == 0 and (tmp_path / "white.explain.png").stat().st_size


def test_wrong_use_leaves_nothing_behind(run, folder, tmp_path):
    (folder / "broken.png").write_bytes(b"none")
    photograph = folder / "white.png"
    for arguments, code, said in [
        ([photograph, "--at", "Mixed_6e"], 2, "NiN has no end point Mixed_6e. It has: mlpconv1"),
        ([photograph, "--at", "Logits"], 2, "has no feature map of several positions at Logits"),
        ([photograph, "--class", "cat"], 2, "No classes are called 'cat'"),
        ([photograph, "--class", "3"], 2, "from 0 to 2"),
        ([photograph, "--class", "b"], 2, "2 classes are called 'b'"),
        ([photograph, "--top", 0], 2, "top must be"),
        ([photograph, "--out", "a.gif"], 2, "written as .png"),
        ([folder / "broken.png"], 1, "Not an image"),
        ([folder / "none.png"], None, "none.png"),
    ]:
        found, _, err = run(*arguments)
        assert found in (1, 2) if code is None else found == code
        assert said in err
    code, _, err = run(photograph, model="none.keras")
    assert code == 1 and "There is no model" in err
    assert not list(tmp_path.iterdir())


def test_a_model_with_fully_connected_layers(run, folder, tmp_path):
    itf.LeNet(classes=4).save(tmp_path / "lenet.keras")
    code, _, err = run(folder / "white.png", model=tmp_path / "lenet.keras")
    assert code == 2 and "no class activation maps. Grad-CAM works at any end point: --at pool2" in err
    assert run(folder / "white.png", "--at", "pool2", model=tmp_path / "lenet.keras")[0] == 0


def test_nan_weights(run, folder, tmp_path):
    model = itf.LeNet(classes=4)
    model.layers[-3].kernel.assign(np.full(model.layers[-3].kernel.shape, np.nan))
    model.save(tmp_path / "nan.keras")
    code, _, err = run(folder / "white.png", "--at", "pool1", model=tmp_path / "nan.keras")
    assert code == 1 and "answers NaN" in err


def test_a_savedmodel_has_no_maps(run, folder, tmp_path):
    from inception_tf.analysis.explain import explain
    from inception_tf.inference.engines import SavedModelEngine

    with pytest.raises(itf.errors.UsageError, match="does not show its feature maps"):
        explain(SavedModelEngine.__new__(SavedModelEngine), [folder / "white.png"])
