"""`inception-tf evaluate`, on class folders and TFRecords of images that tell their class by their brightness."""

import csv
import dataclasses
import functools
import json
import shutil
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import inception_tf as itf

CLASSES = ["dark", "gray", "light"]


@pytest.fixture
def evaluate(command):
    return functools.partial(command, "evaluate")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve images of each class."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for level, name in zip((40, 130, 215), CLASSES):
        (folder / name).mkdir()
        for i in range(12):
            pixels = np.clip(level + random.normal(scale=20) + random.normal(size=(40, 30, 3)) * 20, 0, 255)
            Image.fromarray(pixels.astype("uint8")).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A LeNet with its classes in another order than the folders', and the same one without labels."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(3)
    model = itf.create_model("lenet", classes=3)
    model.save(folder / "unnamed.keras")
    model.card = dataclasses.replace(model.card, labels=CLASSES[::-1])
    (folder / "run").mkdir()
    model.save(folder / "run" / "best.keras")
    return folder


def test_the_numbers_are_those_of_classify(models, data, tmp_path, evaluate, command):
    from sklearn.metrics import confusion_matrix, top_k_accuracy_score

    code, out, _ = evaluate(models / "run", "--data", data, "--json", "--batch", 7, "--out", tmp_path / "e")
    result = json.loads(out)
    assert code == 0 and result["images"] == 36 and result["skipped"] == []
    code, out, _ = command("classify", models / "run", data, "--top", 3, "--json")
    truth, scores = [], []
    for image in json.loads(out)["images"]:
        truth.append(CLASSES[::-1].index(image["image"].split("/")[-2]))
        scores.append([entry["score"] for entry in sorted(image["classes"], key=lambda entry: entry["index"])])
    assert result["confusion"] == confusion_matrix(truth, np.argmax(scores, axis=1), labels=range(3)).tolist()
    assert result["top1"] == pytest.approx(top_k_accuracy_score(truth, scores, k=1))
    assert [entry["name"] for entry in result["classes"]] == CLASSES[::-1]

    files = {path.name for path in (tmp_path / "e").iterdir()}
    assert files == {"evaluation.json", "predictions.csv", "confusion.png", "confident_errors.png"}
    assert {path.rsplit("/")[-1] for path in result.pop("written")} == files
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text()) == result
    rows = list(csv.DictReader((tmp_path / "e" / "predictions.csv").read_text("utf-8").splitlines()))
    right = [row for row in rows if row["label"] == row["predicted"]]
    assert len(rows) == 36 and len(right) / 36 == result["top1"]
    assert all(row["image"].startswith(row["label"] + "/") for row in rows)


def test_fast_decode(models, data, tmp_path, evaluate, command):
    for name in CLASSES[::2]:
        (tmp_path / name).mkdir()
        Image.new("RGB", (400, 300), "white").save(tmp_path / name / "a.jpg")
    for name, arguments, said in (
        ("evaluate", ("--data", tmp_path), "; large JPEGs decoded scaled down"),
        ("classify", (tmp_path,), "Large JPEGs were decoded scaled down"),
    ):
        code, out, _ = command(name, models / "run", *arguments, "--fast-decode")
        assert code == 0 and said in out
        code, out, _ = command(name, models / "run", *arguments, "--json")
        assert code == 0 and not json.loads(out)["fast_decode"]


def test_text_and_a_bad_file(models, data, tmp_path, evaluate):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "gray" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    shutil.rmtree(tmp_path / "data" / "dark")  # a data set may lack a class
    code, out, err = evaluate(models / "run", "--data", tmp_path / "data", "--csv", tmp_path / "p.csv")
    assert code == 0 and not err
    assert "24 images: top-1 " in out and "1 of 3 classes have no images" in out and "published" not in out
    assert "could not be read: 1\n  gray/broken.jpg: " in out and f"Written: {tmp_path / 'p.csv'}" in out
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 25


@pytest.fixture(scope="module")
def records(data, tmp_path_factory):
    """The images as Slim's TFRecords, two shards, labels from 1."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("records")
    paths = sorted(data.glob("*/*.png"))
    for shard in range(2):
        with tf.io.TFRecordWriter(str(folder / f"validation-{shard}")) as writer:
            for path in paths[shard::2]:
                record = tf.train.Example()
                record.features.feature["image/encoded"].bytes_list.value.append(path.read_bytes())
                label = 1 + CLASSES.index(path.parent.name)
                record.features.feature["image/class/label"].int64_list.value.append(label)
                writer.write(record.SerializeToString())
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in ["background", *CLASSES]))
    return folder


def test_tfrecords_and_labels_offset(models, data, records, evaluate):
    pattern, names = records / "validation-*", ("--labels", records / "names.txt")
    _, out, _ = evaluate(models / "run", "--data", data, "--json")
    expected = json.loads(out)
    offset = ("--labels-offset", 1)
    code, out, _ = evaluate(models / "run", "--data", pattern, *offset, *names, "--json")
    result = json.loads(out)
    assert code == 0 and result["confusion"] == expected["confusion"]
    assert result["log_loss"] == pytest.approx(expected["log_loss"])
    # A model without names counts as the records do, or takes theirs.
    for arguments in (offset, (*offset, *names)):
        code, out, _ = evaluate(models / "unnamed.keras", "--data", pattern, *arguments, "--json")
        assert code == 0 and json.loads(out)["images"] == 36
    assert [entry["name"] for entry in json.loads(out)["classes"]] == CLASSES

    code, _, err = evaluate(models / "unnamed.keras", "--data", pattern)
    assert code == 2 and "labels up to 3" in err and "--labels-offset 1" in err
    code, _, err = evaluate(models / "unnamed.keras", "--data", pattern, "--labels-offset", 2)
    assert code == 2 and "-1, validation-0:0" in err


def test_without_matplotlib_the_numbers_are_there(models, data, tmp_path, evaluate, monkeypatch):
    for module in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, _ = evaluate(models / "run", "--data", data, "--out", tmp_path / "e")
    assert code == 0 and "pip install 'inception-tf[plots]'" in out and "36 images: top-1" in out
    assert {path.name for path in (tmp_path / "e").iterdir()} == {"evaluation.json", "predictions.csv"}


def test_wrong_use(models, data, tmp_path, evaluate):
    (tmp_path / "p.csv").write_text("mine")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    shutil.copytree(data, tmp_path / "other")
    (tmp_path / "other" / "gray").rename(tmp_path / "other" / "red")
    cases = [
        (["--data", data, "--csv", tmp_path / "p.csv"], "exists"),
        (["--data", data, "--csv", tmp_path / "other", "--force"], "is a directory"),
        (["--data", tmp_path / "other"], "The model has no red; the data has no gray."),
        (["--data", tmp_path / "nowhere"], "nowhere"),
        (["--data", data, "--labels", tmp_path / "labels.txt"], "do not agree"),
        (["--data", data, "--labels-offset", 1], "labels_offset"),
    ]
    for arguments, message in cases:
        code, _, err = evaluate(models / "run", *arguments)
        assert (code, message in err) == (2, True), err
    assert (tmp_path / "p.csv").read_text() == "mine"
    itf.create_model("lenet", include_top=False).save(tmp_path / "backbone.keras")
    code, _, err = evaluate(tmp_path / "backbone.keras", "--data", data)
    assert code == 2 and "no classifier" in err
    code, _, err = evaluate(tmp_path / "other", "--data", data)
    assert code == 1 and "other" in err
    code, _, _ = evaluate(models / "run", "--data", data, "--csv", tmp_path / "p.csv", "--force")
    assert code == 0 and (tmp_path / "p.csv").read_text().startswith("image,label,")


def test_a_model_that_answers_nan(models, data, tmp_path, evaluate):
    model = keras.saving.load_model(models / "run" / "best.keras")
    model.weights[-1].assign(np.full(3, np.nan))
    model.save(tmp_path / "nan.keras")
    code, out, err = evaluate(tmp_path / "nan.keras", "--data", data, "--out", tmp_path / "e")
    assert code == 1 and "NaN" in err and not out and not (tmp_path / "e").exists()
