"""Bad input at the command line: a line or two, the exit code, and nothing left behind."""

import os

import numpy as np
import pytest
from PIL import Image
from slim_files import write_tensors

import inception_tf as itf
from inception_tf import quiet
from inception_tf.slim.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    """A checkpoint of LeNet, quick to load."""
    path = tmp_path_factory.mktemp("lenet") / "model.ckpt"
    itf.save_slim(itf.create_model("lenet"), path)
    return path


@pytest.mark.parametrize("name", ["a.keras", "a.weights.h5", "a.ckpt", "savedmodel", "export"])
def test_a_full_disk_leaves_nothing_behind(lenet, command, tmp_path, full_disk, name):
    action, *options = ("export",) if name == "export" else ("convert", "--no-verify")
    code, _, err = command(action, lenet, tmp_path / "new" / name, *options)
    assert code == 1 and "large" in err and "{{" not in err and "[Op:" not in err
    assert not list(tmp_path.iterdir())


def test_force_does_not_replace_a_directory_of_other_things(lenet, command, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    for target in (tmp_path / "photos", tmp_path / "photos" / ".." / "photos"):
        code, _, err = command("convert", lenet, target, "--force", "--no-verify")
        assert code == 2 and "no SavedModel" in err
    (tmp_path / "a.keras").mkdir()
    code, _, err = command("convert", lenet, tmp_path / "a.keras", "--force", "--no-verify")
    assert code == 2 and "is a directory" in err
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["holiday.jpg"]


def test_what_cannot_be_written_is_found_before_any_work(lenet, command, tmp_path):
    for name in ("model.h5", "model.pb"):
        code, _, err = command("convert", "there is none", tmp_path / name)
        assert code == 2 and ".weights.h5" in err and not list(tmp_path.iterdir())
    code, _, err = command("convert", "there is none", lenet)
    assert code == 2 and "model.ckpt.index exists" in err


def test_nan_weights_are_a_failure_of_classify_not_wrong_use(lenet, command, tmp_path):
    weights = dict(open_checkpoint(lenet))
    weights["LeNet/fc4/weights"] = np.full_like(weights["LeNet/fc4/weights"], np.nan)
    path = write_tensors(tmp_path / "nan.ckpt", weights)
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    code, _, err = command("classify", path, tmp_path / "a.png")
    assert code == 1 and "LeNet/fc4/weights holds NaN" in err and "answers NaN" in err


def test_a_name_that_is_no_text_is_printed(lenet, tmp_path, command):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    Image.new("RGB", (30, 30)).save(path)
    code, out, _ = command("classify", lenet, path)
    assert code == 0 and "\\udcff.png" in out


def test_an_interrupt_prints_nothing_but_itself(capfd):
    for error, shown in ((KeyboardInterrupt, ""), (ImportError, "chatter")):
        with pytest.raises(error), quiet.suppress_stderr():
            os.write(2, b"chatter")
            raise error
        assert capfd.readouterr().err == shown
