"""`inception-tf dense`, as a user types it."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import inception_tf as itf


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Network in Network as a `.keras` file and as a checkpoint, others that refuse, a photograph of 50×70."""
    folder = tmp_path_factory.mktemp("dense")
    model = itf.NetworkInNetwork(layout="cifar10", input_shape=(32, 32, 3), classes=3)
    model.card = dataclasses.replace(model.card, labels=["cat", "dog", "horse"])
    model.save(folder / "model.keras")
    itf.save_slim(model, folder / "model.ckpt")
    itf.LeNet().save(folder / "lenet.keras")
    itf.NetworkInNetwork(input_shape=(32, 32, 3)).save(folder / "valid.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    return folder


@pytest.fixture
def run(command, folder, tmp_path, monkeypatch):
    """A function that runs `dense` on the photograph in a folder of its own; returns exit code, output, error."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, model="model.keras", image="photo.png": command(
        "dense", folder / model, folder / image, *arguments
    )


@pytest.mark.parametrize(
    "size, resized", [([], [54, 76]), (["--size", "64"], [64, 90]), (["--size", "64x40"], [64, 40])]
)
def test_writes_the_map_and_the_picture(run, tmp_path, size, resized):
    code, out, _ = run(*size, "--json")
    data = json.loads(out)
    assert code == 0 and data["resized"] == resized and data["stride"] == [4, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.dense.npz", "photo.dense.png"]
    with np.load(tmp_path / "photo.dense.npz") as npz:
        assert list(npz["scores"].shape) == data["scores"] and npz["class_names"].tolist() == ["cat", "dog", "horse"]
    assert Image.open(tmp_path / "photo.dense.png").size[0] > 2 * 70


def test_the_photographs_own_size(run, tmp_path):
    code, out, _ = run("--size", "original", "--out", "new/map", "--class", "dog", "--class", "cat")
    assert code == 0 and "50×70 pixels, 4 apart" in out and "new/map.npz, new/map.png" in out
    preprocessing = json.loads(str(np.load(tmp_path / "new" / "map.npz")["preprocessing"]))
    assert preprocessing == {"kind": "inception", "size": [50, 70]}


def test_a_checkpoint(run, folder):
    labels = folder / "labels.txt"
    labels.write_text("one\ntwo\nthree\n")
    code, out, _ = run("--labels", labels, "--top", 2, model="model.ckpt")
    assert code == 0 and sum(line.startswith(("one ", "two ", "three ")) for line in out.splitlines()) == 2


def test_bad_input_leaves_nothing_behind(run, folder, tmp_path):
    for arguments, options, code, said in [
        (["--size", "10"], {"model": "valid.keras"}, 2, "at least 11×11 for a score. Received: 10×14"),
        (["--class", "bird"], {}, 2, "No classes are called 'bird'"),
        (["--crops"], {}, 2, "stand for no crops"),
        (["--top", 0], {}, 2, "top must be"),
        ([], {"model": "lenet.keras"}, 2, "fully connected layers for images of one size"),
        ([], {"model": "none.keras"}, 1, "There is no model"),
        ([], {"image": "none.png"}, 1, "none.png"),
        ([], {"image": "model.keras"}, 1, "Not an image"),
    ]:
        found, _, err = run(*arguments, **options)
        assert (found, said in err) == (code, True), err
    assert not list(tmp_path.iterdir())


def test_files_are_not_replaced(run, tmp_path):
    for name in ("photo.dense.npz", "photo.dense.png"):
        (tmp_path / name).touch()
        code, _, err = run()
        assert code == 2 and name in err
        assert [path.stat().st_size for path in tmp_path.iterdir()] == [0]
        (tmp_path / name).unlink()
