"""`inception-tf evaluate --answers`: the figures of plain `evaluate`, of images that stream by, also after a cut."""

import dataclasses
import io
import json
import shutil
import tarfile

import keras
import numpy as np
import pytest
from PIL import Image

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.evaluation.tally import Tally
from inception_tf.images import streams
from inception_tf.images.labels import imagenet_labels
from inception_tf.images.streams import image_tables

pytest.importorskip("fsspec")
pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

CLASSES = ["ant", "bee", "cat", "dog", "eel", "fly", "gnu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six images of each class but one, and a bad file."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name in CLASSES[:-1]:
        (folder / name).mkdir()
        for i in range(6):
            pixels = np.kron(random.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1)))
            Image.fromarray(pixels.astype("uint8")).save(folder / name / f"{i}.png")
    (folder / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A LeNet with its classes in another order than the folders', and the same one without labels."""
    folder = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(3)
    model = itf.create_model("lenet", classes=7)
    model.save(folder / "unnamed.keras")
    model.card = dataclasses.replace(model.card, labels=CLASSES[::-1])
    model.save(folder / "named.keras")
    return folder


@pytest.fixture
def figures(command, monkeypatch):
    """A function that evaluates, five images a table, and returns the JSON."""
    monkeypatch.setattr(streams, "image_tables", lambda inputs, _, labels: image_tables(inputs, 5, labels))

    def run(*arguments):
        code, out, _ = command("evaluate", *arguments, "--json")
        assert code == 0, out
        return json.loads(out)

    return run


def same(found, wanted):
    assert found["confusion"] == wanted["confusion"] and found["classes"] == wanted["classes"]
    for name in ("images", "top1", "calibration_error"):
        assert found[name] == pytest.approx(wanted[name], abs=1e-6), name
    for a, b in zip(found["calibration"], wanted["calibration"], strict=True):
        assert a == pytest.approx(b, abs=1e-6)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_the_figures_are_those_of_evaluate_after_a_cut(models, data, tmp_path, figures, command, monkeypatch, kind):
    arguments = models / "named.keras", "--data", data
    wanted = figures(*arguments)
    assert 0 < wanted["top1"] < wanted["top5"] < 1 and wanted["images"] == 36
    job = *arguments, "--answers", tmp_path / "out", "--format", kind, "--top", 5

    def cut(inputs, _, labels):
        yield from list(image_tables(inputs, 5, labels))[:3]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(streams, "image_tables", cut)
        assert command("evaluate", *job)[0] == 130
    for images, before in ((22, 15), (0, 37)):
        found = figures(*job)
        assert (found["job"]["images"], found["job"]["before"]) == (images, before)
        same(found, wanted)
        assert found["job"]["labeled"] + found["job"]["failed"] == images
        assert found["top5"] == pytest.approx(wanted["top5"])
        assert found["failed"] == 1 and found["skipped"][0]["image"].endswith("broken.jpg")
    if kind == "parquet":
        for row in parquet.read_table(tmp_path / "out").to_pylist():
            assert row["label_name"] == row["path"].split("/")[-2] == CLASSES[::-1][row["label"]]
    code, out, _ = command("evaluate", *job)
    plain = command("evaluate", *arguments)[1]
    assert out.split("\n\n")[0] == plain.split("\n\n")[0] and "36 images: top-1" in out and "Not counted" in out


def manifest(data, folder, label, name):
    paths = sorted(data.glob("*/*"))
    table = pa.table({"file": list(map(str, paths)), "target": [label(path.parent.name) for path in paths]})
    parquet.write_table(table, folder / name)
    return folder / name


def test_other_sources(models, data, tmp_path, figures):
    """Of names, numbers, and numbers that have names; archives; a model without names."""
    wanted = figures(models / "named.keras", "--data", data)
    paths, number = sorted(data.glob("*/*")), CLASSES.index
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for i, path in enumerate(paths):
            for end, content in ((path.suffix, path.read_bytes()), (".cls", str(number(path.parent.name)).encode())):
                info = tarfile.TarInfo(f"{i}{end}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in paths))
    (tmp_path / "names.txt").write_text("\n".join(["none", *CLASSES]))
    (tmp_path / "seven.txt").write_text("\n".join(CLASSES))
    counted = manifest(data, tmp_path, lambda name: number(name) + 1, "counted.parquet")
    names = {"features": {"target": {"names": CLASSES}}}
    hub = parquet.read_table(manifest(data, tmp_path, number, "hub.parquet"))
    hub = hub.replace_schema_metadata({"huggingface": json.dumps({"info": names})})
    parquet.write_table(hub, tmp_path / "hub.parquet")
    for i, arguments in enumerate(
        [
            [tmp_path / "list.csv"],
            [tmp_path / "hub.parquet"],
            [f"{data}/*/*"],
            [counted, "--labels", tmp_path / "names.txt", "--labels-offset", 1],
            [tmp_path / "all.tar", "--labels", tmp_path / "seven.txt"],
        ]
    ):
        same(figures(models / "named.keras", "--data", *arguments, "--answers", tmp_path / f"{i}"), wanted)
    for i, arguments in enumerate(
        [
            [counted, "--labels-offset", 1],
            [tmp_path / "all.tar", "--labels", tmp_path / "seven.txt"],
        ]
    ):
        arguments = models / "unnamed.keras", "--data", *arguments
        same(figures(*arguments, "--answers", tmp_path / f"unnamed{i}"), figures(*arguments))


def test_labels_of_imagenet():
    names = imagenet_labels()  # "crane" twice
    numbered, named = Tally(names, names), Tally(names)
    assert list(map(numbered.truth, range(1001))) == list(map(named.truth, range(1001))) == list(range(1001))
    assert named.truth("n02012849") == 135 and named.truth("goldfish, Carassius auratus") == 2
    with pytest.raises(UsageError, match="several classes called crane"):
        named.truth("crane")


def test_tfrecords(models, data, tmp_path, figures):
    tf = pytest.importorskip("tensorflow")
    for name, text in (("texts", True), ("beside", False)):
        (tmp_path / name).mkdir()
        with tf.io.TFRecordWriter(str(tmp_path / name / "val.tfrecord")) as writer:
            for path in sorted(data.glob("*/*")):
                record, label = tf.train.Example(), path.parent.name
                record.features.feature["image/encoded"].bytes_list.value.append(path.read_bytes())
                record.features.feature["image/class/label"].int64_list.value.append(CLASSES.index(label))
                record.features.feature["image/class/text"].bytes_list.value.extend([label.encode()] * text)
                writer.write(record.SerializeToString())
    (tmp_path / "beside" / "labels.txt").write_text("".join(f"{i}:{name}\n" for i, name in enumerate(CLASSES)))
    for name in ("texts", "beside"):
        arguments = models / "named.keras", "--data", tmp_path / name / "val.tfrecord"
        same(figures(*arguments, "--answers", tmp_path / f"{name}-out"), figures(*arguments))


def test_wrong_use(models, data, tmp_path, command):
    out, shown = tmp_path / "out", ("--answers", tmp_path / "out")
    shutil.copytree(data, tmp_path / "other")
    (tmp_path / "other" / "bee").rename(tmp_path / "other" / "wasp")
    (tmp_path / "list.csv").write_text(f"path,label\n{data}/ant/0.png,wasp\n")
    (tmp_path / "high.csv").write_text(f"path,label\n{data}/ant/0.png,7\n")
    (tmp_path / "several.csv").write_text(f"path,labels\n{data}/ant/0.png,ant|bee\n")
    (tmp_path / "none.csv").write_text(f"path\n{data}/ant/0.png\n")
    for arguments, message in (
        ([tmp_path / "other", *shown], "The model has no wasp; the data has no gnu, bee."),
        ([tmp_path / "list.csv", *shown], "The model has no wasp."),
        ([tmp_path / "high.csv", *shown], "labels up to 7"),
        ([tmp_path / "high.csv", *shown, "--labels-offset", 8], "out of range"),
        ([tmp_path / "several.csv", *shown], "several labels"),
        ([tmp_path / "none.csv", *shown], "no column called label"),
        ([data, *shown, "--out", tmp_path / "report"], "--out and --csv"),
        ([data, "--top", 5], "--answers"),
    ):
        code, _, err = command("evaluate", models / "named.keras", "--data", *arguments)
        assert code == 2 and message in err and not out.exists(), err
    assert command("classify", models / "named.keras", data, "--out", out)[0] == 1
    code, _, err = command("evaluate", models / "named.keras", "--data", data, *shown)
    assert code == 2 and "labeled: None there" in err
    (tmp_path / "bad").mkdir()
    shutil.copytree(data / "cat", tmp_path / "bad" / "cat", ignore=shutil.ignore_patterns("*.png"))
    code, _, err = command("evaluate", models / "named.keras", "--data", tmp_path / "bad", "--answers", tmp_path / "b")
    assert code == 1 and "Not one of the 1 images could be read. " in err and "broken.jpg: " in err


@pytest.mark.slow
def test_on_ray(models, data, tmp_path, figures):
    pytest.importorskip("ray")
    arguments = models / "named.keras", "--data", data
    found = figures(*arguments, "--answers", tmp_path / "out", "--ray", "local", "--ray-workers", 1)
    same(found, figures(*arguments))
    assert found["job"]["images"] == 37 and found["job"]["ray"]["workers_lost"] == 0
