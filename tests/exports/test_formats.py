"""The registry of formats, the options, the driver, and the command."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from inception_tf.cli import export as command
from inception_tf.errors import ExportError, UsageError
from inception_tf.exports import formats
from inception_tf.exports.driver import Format
from inception_tf.exports.formats import FORMATS, Entry, export, implementation, validate


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_registered_under_its_name(name):
    format = implementation(name)
    assert isinstance(format, Format) and format.name == name and "check" in format.options


def test_export_passes_on_the_options_given(lenet, tmp_path):
    path = export(lenet, tmp_path / "digits", labels=None, batch="dynamic", top=3, check=False, overwrite=None)
    assert path == tmp_path / "digits" / "1"
    assert (path / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("format", "given", "message"),
    [
        ("timm", {"top": 5, "labels": None}, "timm has no option top. It has: background, check, overwrite"),
        ("savedmodel", {"precision": "int8"}, "no precision 'int8'. It has: float32, float16, bfloat16"),
        ("onnx", {"precision": "bfloat16"}, "no precision 'bfloat16'. It has: float32, float16, int8"),
        ("litert", {"precision": "int8"}, "needs images to calibrate on"),
        ("litert", {"calibrate": "photographs"}, "needs images to calibrate on"),
        ("litert", {"full_integer": True}, "for the precision int8"),
        ("litert", {"batch": (1, 8)}, "one number"),
        ("openvino", {"batch": 0}, "one number"),
        ("savedmodel", {"batch": []}, "up to 100 sizes of at least 1"),
        ("savedmodel", {"batch": [0, 8]}, "up to 100 sizes of at least 1"),
        ("savedmodel", {"batch": range(1, 200)}, "up to 100 sizes of at least 1"),
        ("savedmodel", {"batch": "8"}, "up to 100 sizes of at least 1"),
        ("savedmodel", {"top": 0}, "`top` must be at least 1. Received: 0"),
        ("savedmodel", {"max_pixels": 0}, "`max_pixels` must be at least 1. Received: 0"),
        ("keras-applications", {"background": "remove"}, "background"),
    ],
)
def test_options_out_of_their_range(format, given, message):
    with pytest.raises(UsageError, match=message):
        validate(implementation(format), given)


@pytest.mark.parametrize(
    ("format", "given", "batch", "precision", "fuse"),
    [
        ("savedmodel", {}, (1, 8, 32), None, True),
        ("savedmodel", {"batch": [4, 1, 4], "precision": "float16"}, (1, 4), "float16", True),
        ("savedmodel", {"batch": 2, "fuse": False}, (2,), None, False),
        ("litert", {}, None, "float32", True),
        ("litert", {"batch": (3,), "precision": "int8", "calibrate": "photographs"}, 3, "int8", False),
        ("onnx", {"batch": 1, "precision": "int8", "calibrate": "photographs", "fuse": True}, 1, "int8", True),
    ],
)
def test_what_is_decided_where_it_is_not_given(format, given, batch, precision, fuse):
    options = validate(implementation(format), given)
    assert (options.batch, options.precision, options.fuse) == (batch, precision, fuse)


def test_there_is_no_such_format(lenet, tmp_path):
    with pytest.raises(UsageError, match="no format 'caffe'.*savedmodel.*timm"):
        export(lenet, tmp_path / "a", "caffe")
    assert not list(tmp_path.iterdir())


def test_the_suffix_says_the_format(lenet, tmp_path):
    found = [formats.format_of(name) for name in ("serving/v1.5", "a.TFLITE", "a.weights.h5", Path("a.xml"))]
    assert found == ["savedmodel", "litert", "keras-applications", "openvino"]
    with pytest.raises(UsageError, match=r"No format writes .*a\.keras.*\.onnx"):
        export(lenet, tmp_path / "a.keras")
    assert not list(tmp_path.iterdir())


class Text(Format):
    """A format as CONTRIBUTING explains how to add one: the weights as text. `wrong` is added to what is read back."""

    name = "text"
    wrong = iter(())

    def convert(self, export):
        return "\n".join(str(value) for weight in export.model.get_weights() for value in weight.flat)

    def save(self, export, network, path):
        path.write_text(network)

    def check(self, export, network, path):
        if path.read_text() != network:
            raise ExportError("read back otherwise")
        return {"values": network.count("\n") + 1}

    def add_card(self, export, network, path, card):
        path.write_text(card.to_json() + path.read_text())

    def outputs_on_noise(self, export, path):
        return np.float32([len(path.read_text().rpartition("}\n")[2]), next(self.wrong, 0)])


@pytest.fixture
def text(monkeypatch):
    monkeypatch.setitem(formats.FORMATS, "text", Entry("new:Text", "the file TARGET.txt", "read back", ".txt"))


def test_a_new_format(text, lenet, tmp_path, monkeypatch):
    monkeypatch.setattr(formats.importlib, "import_module", lambda name: argparse.Namespace(Text=Text))
    path = export(lenet, tmp_path / "weights.txt")
    assert f'"values": {lenet.count_params()}' in path.read_text()
    with pytest.raises(UsageError, match="ends in .txt"):
        export(lenet, tmp_path / "weights.TXT", "text")
    with pytest.raises(UsageError, match="exists"):
        export(lenet, path, "text")
    assert '"verification": null' in export(lenet, path, "text", check=False, overwrite=True).read_text()


def test_the_file_with_its_card_gives_the_same_outputs(text, lenet, tmp_path, monkeypatch):
    monkeypatch.setattr(Text, "wrong", iter([0, 1e-6]))
    with pytest.raises(ExportError, match="other outputs once its card is in it"):
        Text().export(lenet, tmp_path / "weights.txt")
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing(text, lenet, tmp_path, monkeypatch):
    monkeypatch.setattr(Text, "packages", ("no_such_package",))
    with pytest.raises(UsageError, match=r"needs no_such_package.*pip install 'inception-tf\[text\]'"):
        Text().export(lenet, tmp_path / "weights.txt")


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(map(str, arguments))))


def test_the_command(lenet, tmp_path):
    lenet.save(tmp_path / "digits.keras")
    outcome = run(tmp_path / "digits.keras", tmp_path / "served", "--no-check")
    assert outcome.data["path"] == str(tmp_path / "served" / "1")
    assert outcome.data["format"] == "savedmodel" and not outcome.data["checked"]
    with pytest.raises(UsageError, match="no option overwrite"):
        run(tmp_path / "digits.keras", tmp_path / "served", "--force")
    assert all(name in command.__doc__ for name in FORMATS)


def test_the_command_reports_what_it_found(lenet, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    lenet.save(tmp_path / "digits.keras")
    outcome = run(tmp_path / "digits.keras", tmp_path / "Digits.TFLITE", "--no-fuse")
    assert "largest difference over the largest value, on noise: " in outcome.text
    assert outcome.data["verification"]["difference"] <= 1e-5
