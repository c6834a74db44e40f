"""OpenVINO's `.xml` and `.bin`, run by OpenVINO."""

import numpy as np
import pytest
from photographs import write_photographs

from inception_tf import files
from inception_tf.errors import ExportError, UsageError
from inception_tf.export.openvino import to_openvino
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.inference.runtimes import OpenVino
from inception_tf.slim.golden import deterministic_images

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def images():
    return deterministic_images(3, 28, 28, 1)


@pytest.mark.parametrize("precision, limit", [("float32", 1e-5), ("float16", 1e-2)])
def test_it_answers_as_the_model(lenet, tmp_path, images, precision, limit):
    path = to_openvino(lenet, tmp_path / "digits.xml", precision=precision)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["digits.bin", "digits.xml"]
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    wanted = lenet.predict_on_batch(images)
    assert np.abs(compiled({"images": images})["probabilities"] - wanted).max() <= limit * wanted.max()
    assert OpenVino(path).card.preprocessing["kind"] == "lenet"


@pytest.mark.slow  # NNCF takes seconds to import
def test_int8(lenet, tmp_path, capfd):
    pytest.importorskip("nncf", reason="NNCF is not installed")
    folder = tmp_path / "photographs"
    folder.mkdir()
    write_photographs(folder, 8)
    whole = to_openvino(lenet, tmp_path / "whole.xml", check=False)
    capfd.readouterr()
    path = to_openvino(lenet, tmp_path / "int8.xml", precision="int8", calibrate=folder, held_out=folder, batch=3)
    assert capfd.readouterr() == ("", "")  # NNCF shows its progress there
    assert path.with_suffix(".bin").stat().st_size < 0.3 * whole.with_suffix(".bin").stat().st_size
    images = preprocessing_of(lenet)(sorted(folder.iterdir()))
    network, wanted = OpenVino(path), lenet.predict_on_batch(images)
    change = np.abs(network(images) - wanted)
    found = network.card.export["verification"]
    assert 1e-6 < change.max() < 0.1 and found["worst_score_change"] == pytest.approx(change.max(), abs=1e-6)
    assert network.batch == 3 and found["images"] == found["calibrated_on"] == 8
    assert found["top1_agreement"] == (network(images).argmax(1) == wanted.argmax(1)).mean()


def test_wrong_use(lenet, tmp_path):
    with pytest.raises(UsageError, match="no precision 'bfloat16'. It has: float32, float16, int8"):
        to_openvino(lenet, tmp_path / "a.xml", precision="bfloat16")
    with pytest.raises(UsageError, match="needs images to calibrate on"):
        to_openvino(lenet, tmp_path / "a.xml", precision="int8")
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced_unasked(lenet, tmp_path):
    (tmp_path / "digits.bin").write_text("mine")
    with pytest.raises(UsageError, match="digits.bin exists"):
        to_openvino(lenet, tmp_path / "digits.xml")
    with pytest.raises(UsageError, match="ends in .xml"):
        to_openvino(lenet, tmp_path / "digits")
    assert [file.name for file in tmp_path.iterdir()] == ["digits.bin"]
    (tmp_path / "digits.bin").unlink()
    (tmp_path / "digits.bin").mkdir()
    with pytest.raises(UsageError, match="digits.bin is a directory"):
        to_openvino(lenet, tmp_path / "digits.xml", overwrite=True)


def test_a_killed_replacement_leaves_no_mixed_pair(lenet, tmp_path, monkeypatch):
    target, replace = tmp_path / "Digits.XML", files.replace
    for old in (target, target.with_suffix(".bin")):
        old.write_text("old")

    def killed(source, target):
        replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        to_openvino(lenet, target, check=False, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["Digits.bin"]


def test_a_full_disk_is_told(lenet, tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("Exception from src/core/src/pass/serialize.cpp:1:\nNo space left.")

    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.raises(ExportError, match=r"OpenVINO cannot write .*other.xml: No space left\."):
        to_openvino(lenet, tmp_path / "other.xml")
    assert not list(tmp_path.iterdir())
