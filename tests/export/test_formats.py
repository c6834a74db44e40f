import argparse
import importlib
import inspect

import pytest

from inception_tf.cli import export as command
from inception_tf.errors import UsageError
from inception_tf.export.formats import FORMATS, export


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_its_writer(format):
    module, function = FORMATS[format].writer.split(":")
    writer = getattr(importlib.import_module(f"inception_tf.export.{module}"), function)
    parameters = list(inspect.signature(writer).parameters)
    assert parameters[0] == "model" and "check" in parameters


def test_export_passes_on_the_options_given(lenet, tmp_path):
    path = export(lenet, tmp_path / "digits", labels=None, batch="dynamic", top=3, check=False, overwrite=None)
    assert path == tmp_path / "digits" / "1"
    assert (path / "saved_model.pb").is_file()


def test_wrong_use(lenet, tmp_path):
    with pytest.raises(UsageError, match="no format 'caffe'.*savedmodel.*timm"):
        export(lenet, tmp_path / "a", "caffe")
    with pytest.raises(UsageError, match="timm has no option top. It has: background, check, overwrite"):
        export(lenet, tmp_path / "a.safetensors", "timm", top=5, labels=None)
    assert not list(tmp_path.iterdir())


def test_the_command(lenet, tmp_path):
    lenet.save(tmp_path / "digits.keras")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = [str(tmp_path / "digits.keras"), str(tmp_path / "served")]
    outcome = command.run(parser.parse_args([*arguments, "--no-check"]))
    assert outcome.data["path"] == str(tmp_path / "served" / "1")
    assert outcome.data["format"] == "savedmodel" and not outcome.data["checked"]
    with pytest.raises(UsageError, match="overwrite"):
        command.run(parser.parse_args([*arguments, "--force"]))
    assert all(name in command.__doc__ for name in FORMATS)


def test_the_command_tells_what_it_found(lenet, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    lenet.save(tmp_path / "digits.keras")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = [str(tmp_path / "digits.keras"), str(tmp_path / "Digits.TFLITE"), "--format", "litert"]
    outcome = command.run(parser.parse_args(arguments))
    assert "largest difference over the largest value, on noise: " in outcome.text
    assert outcome.data["verification"]["difference"] <= 1e-5
