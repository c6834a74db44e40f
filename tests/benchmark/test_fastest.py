"""Engine and precision chosen by measurement. Which is fastest is the machine's affair: the table is held to itself."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from random_weights import randomized

from inception_tf.benchmark import fastest
from inception_tf.errors import ExportError, ImageError, UsageError
from inception_tf.exports.formats import export
from inception_tf.images.files import find_images
from inception_tf.inference.engines import KerasEngine, open_engine
from inception_tf.slim.golden import deterministic_images
from inception_tf.zoo import create_model

BRIEF = {"batch": 4, "rounds": 1, "seconds": 0.01}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for i, pixels in enumerate(deterministic_images(24, 40, 48)):
        Image.fromarray(np.uint8((pixels + 1) * 127.5)).save(folder / f"{i:02}.png")
    return find_images(folder)


@pytest.fixture(scope="module")
def lenet(files):
    """One that gives the files several classes: its biases make up for what all have in common."""
    model = randomized(create_model("lenet", classes=3))
    engine, bias = KerasEngine(model), model.weights[-1]
    bias.assign(bias - np.log(engine(engine.preprocessing(files, decoder=engine.decoder))).mean(0))
    return model


@pytest.fixture(scope="module")
def photographs(lenet, files, tmp_path_factory):
    """The files in folders of the classes that the model answers, so that it is right on every one."""
    folder, engine = tmp_path_factory.mktemp("photographs"), KerasEngine(lenet)
    for file in files:
        best = engine(engine.preprocessing([file], decoder=engine.decoder)).argmax()
        (folder / engine.labels[best]).mkdir(exist_ok=True)
        shutil.copy(file, folder / engine.labels[best])
    assert len(list(folder.iterdir())) > 1
    return folder


def fastest_within(candidates):
    """The names of those that the table allows, best first."""
    within = [row for row in candidates if not row["failed"] and row["within"]]
    return [row["candidate"] for row in sorted(within, key=lambda row: -row["ratio"]["median"])]


def test_the_fastest_within_the_bound_is_written(lenet, photographs, tmp_path, monkeypatch):
    """One candidate is another network's, one fails: both are in the table, and neither is chosen."""
    pytest.importorskip("ai_edge_litert")
    planted = (("litert", "float32"), ("litert", "float16"), ("onnx", "float32"))
    other = randomized(create_model("lenet", classes=3), seed=7)

    def exporting(model, target, form, **options):
        if form == "onnx":
            raise ExportError("a planted failure")
        options.pop("held_out")
        return export(other if options["precision"] == "float16" else model, target, form, **options)

    monkeypatch.setattr(fastest, "CANDIDATES", planted)
    monkeypatch.setattr(fastest, "export", exporting)
    found = fastest.export_fastest(lenet, tmp_path / "digits", photographs, **BRIEF)
    right, wrong, failing = found.candidates
    assert [row["candidate"] for row in found.candidates] == [" ".join(pair) for pair in planted]
    assert right["accuracy"] == right["same_best_class"] == 1 and right["score_change"] < 1e-5 and right["within"]
    assert not wrong["within"] and wrong["change"] == 1 - wrong["accuracy"] > 0.005 and wrong["images_per_second"] > 0
    assert failing["failed"] == "a planted failure" and "a planted failure" in found.text()
    assert found.chosen == "litert float32" == fastest_within(found.candidates)[0]
    assert found.photographs == 12 and found.measure == "accuracy lost" and found.notes == []

    assert found.path == tmp_path / "digits.tflite" and [found.path] == list(tmp_path.iterdir())
    engine = open_engine(found.path)
    assert engine.card.export["fastest"] == {key: value for key, value in found.data().items() if key != "path"}
    files = find_images(photographs)
    images = engine.preprocessing(files, decoder=engine.decoder)
    assert [engine.labels[best] for best in engine(images).argmax(1)] == [file.parent.name for file in files]


def row(name, speed, within=True, failed=None):
    ratio = {"median": speed}
    return {"candidate": name, "ratio": ratio, "within": within, "change": 0.02, "failed": failed}


def test_choose():
    rows = [row("a", 1), row("b", 3), row("c", 9, within=False), row("d", 9, failed="no"), row("e", 2)]
    assert fastest.choose(rows)["candidate"] == "b"
    with pytest.raises(ExportError, match="(?s)No candidate is within.*c: 2.00%.*d: no"):
        fastest.choose(rows[2:4])


def test_photographs_are_judged_on_or_calibrated_on(lenet, files, photographs):
    notes = []
    truth, judged, calibrated = fastest._photographs(photographs, KerasEngine(lenet).labels, None, notes)
    assert len(judged) == len(calibrated) == 12 and not set(judged) & set(calibrated) and len(truth) == 24
    fastest._photographs(files[0].parent, KerasEngine(lenet).labels, None, notes)
    assert len(notes) == 1 and notes[0].startswith("No accuracy: ")


def test_photographs_of_a_pattern_and_of_the_home_directory_keep_their_classes(lenet, photographs, monkeypatch):
    """Else nothing is right, nothing can be lost, and every candidate is within the bound."""
    monkeypatch.setenv("HOME", str(photographs.parent))
    for data in (f"{photographs.parent}/{photographs.name[:-1]}[{photographs.name[-1]}]", f"~/{photographs.name}"):
        truth, judged, _ = fastest._photographs(data, KerasEngine(lenet).labels, None, [])
        assert {str(path) for path in judged} <= set(truth)


def test_what_is_refused(lenet, photographs, tmp_path):
    (tmp_path / "taken.onnx").touch()
    (tmp_path / "file").touch()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    one = tmp_path / "one.png"
    Image.new("L", (28, 28)).save(one)
    for target, options, said in [
        ("digits.onnx", {}, "give one without .onnx"),
        ("taken", {}, "taken.onnx exists"),
        ("file", {}, "file is not a directory"),
        ("saved", {}, "is a SavedModel itself"),
        ("..", {}, "needs a name"),
        ("digits", {"batch": 0}, "batch and rounds at least 1"),
        ("digits", {"max_change": 1.0}, "max_change must be"),
        ("digits", {"seconds": np.inf}, "seconds a number above 0"),
        ("digits", {"data": one}, "cannot both calibrate and judge"),
        ("digits", {"data": tmp_path / "none"}, "No such file"),
    ]:
        with pytest.raises(UsageError, match=said):
            fastest.export_fastest(lenet, tmp_path / target, **options)
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("a.png", "b.png"):
        (broken / name).write_bytes(b"no image")
    with pytest.raises(ImageError, match="Not one of 1 images could be read"):
        fastest.export_fastest(lenet, tmp_path / "digits", broken)


@pytest.mark.slow
def test_every_candidate(lenet, photographs, tmp_path):
    for package in ("ai_edge_litert", "onnxruntime", "openvino", "nncf", "tf2onnx"):
        pytest.importorskip(package)
    found = fastest.export_fastest(lenet, tmp_path / "digits", photographs, max_change=0.1, **BRIEF)
    assert [(row["engine"], row["precision"]) for row in found.candidates] == list(fastest.CANDIDATES)
    assert found.chosen == fastest_within(found.candidates)[0]
    for row in found.candidates:
        if row["failed"]:  # of a processor without it
            assert row["precision"] == "bfloat16" and "no instructions" in row["failed"]
        else:
            assert row["peak_memory"] > 0 and row["first_answer"] > 0 and row["bytes"] > 0 and row["ratio"]
            assert row["precision"] != "float32" or row["score_change"] < 1e-5
    card = open_engine(found.path).card
    assert card.export["fastest"]["chosen"] == found.chosen
    assert dataclasses.asdict(card)["export"]["fastest"]["candidates"] == json.loads(json.dumps(found.candidates))
