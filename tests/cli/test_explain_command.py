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
    peaks = {(60, 230): blue["classes"][0]["peak"]}
    if not options:
        (peaks[140, 90],) = (entry["peak"] for entry in white["classes"] if entry["name"] == "bright")
    for (y, x), peak in peaks.items():
        assert abs(peak["y"] - y) < 25 and abs(peak["x"] - x) < 25
    assert {image["method"] for image in data["images"]} == {"Grad-CAM" if options else "class activation map"}


def test_classes_by_name_and_by_index(run, folder, tmp_path):
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
    lenet = itf.LeNet(classes=4)
    lenet.save(folder / "lenet.keras")
    lenet.layers[-3].kernel.assign(np.full(lenet.layers[-3].kernel.shape, np.nan))
    lenet.save(folder / "nan.keras")
    for model, image, options, code, said in [
        ("model", "white", ["--at", "Mixed_6e"], 2, "NiN has no end point Mixed_6e. It has: mlpconv1"),
        ("model", "white", ["--at", "Logits"], 2, "has no feature map of several positions at Logits"),
        ("model", "white", ["--class", "cat"], 2, "No classes are called 'cat'"),
        ("model", "white", ["--class", "3"], 2, "from 0 to 2"),
        ("model", "white", ["--class", "b"], 2, "2 classes are called 'b'"),
        ("model", "white", ["--top", 0], 2, "top must be"),
        ("model", "white", ["--out", "a.gif"], 2, "written as .png"),
        ("model", "broken", [], 1, "Not an image"),
        ("model", "none", [], 2, "none.png"),
        ("none", "white", [], 1, "There is no model"),
        ("lenet", "white", [], 2, "no class activation maps. Grad-CAM works at any end point: --at pool2"),
        ("nan", "white", ["--at", "pool1"], 1, "answers NaN"),
    ]:
        found, _, err = run(folder / f"{image}.png", *options, model=f"{model}.keras")
        assert (found, said in err) == (code, True), err
    assert not list(tmp_path.iterdir())
    assert run(folder / "white.png", "--at", "pool2", model="lenet.keras")[0] == 0


def test_a_map_of_one_position_is_not_drawn(run, folder, tmp_path):
    model = itf.NetworkInNetwork(classes=3, input_shape=(32, 32, 3), depth_multiplier=0.1)
    model.save(folder / "tiny.keras")
    code, out, _ = run(folder / "white.png", model="tiny.keras")
    assert code == 0 and "has one position for images of 32×32" in out and "--at" in out
    data = json.loads(run(folder / "white.png", "--json", model="tiny.keras")[1])
    assert data["picture"] is None and {one["peak"] for one in data["images"][0]["classes"]} == {None}
    assert not list(tmp_path.iterdir())


def test_an_export_has_no_maps(folder):
    from inception_tf.analysis.explain import explain
    from inception_tf.inference.engines import SavedModelEngine

    with pytest.raises(itf.errors.UsageError, match="does not show its feature maps"):
        explain(SavedModelEngine.__new__(SavedModelEngine), [folder / "white.png"])
