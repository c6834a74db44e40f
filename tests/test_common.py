"""What all rooms use: whole files, errors, tables, progress; and that importing stays cheap."""

import inspect
import io
import re
from pathlib import Path

import pytest

from inception_tf import tables
from inception_tf.errors import InceptionTFError, UsageError, reason
from inception_tf.files import atomic_write, refuse_existing
from inception_tf.progress import Progress


def test_a_file_is_written_whole(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with atomic_write(target) as part:
        part.write_text("new")
        assert not target.exists() and part.suffix == ".txt"
    assert target.read_text() == "new"
    with pytest.raises(UsageError, match="exists"), atomic_write(target):
        pass
    with atomic_write(target, overwrite=True) as part:
        part.write_text("newer")
    assert target.read_text() == "newer"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(error), atomic_write(target, overwrite=True) as part:
        part.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("old", ["directory", "file", "nothing"])
def test_a_directory_replaces_what_was_there(tmp_path, old):
    target = tmp_path / "model"
    if old == "directory":
        (target / "stale").mkdir(parents=True)
    elif old == "file":
        target.touch()
    with atomic_write(target, overwrite=True) as part:
        part.mkdir()
        (part / "fresh").touch()
    assert sorted(tmp_path.rglob("*")) == [target, target / "fresh"]


def test_a_file_never_replaces_a_directory(tmp_path):
    target = tmp_path / "results"
    (target / "mine").mkdir(parents=True)
    with pytest.raises(UsageError, match="is a directory"):
        refuse_existing(target, overwrite=True)
    refuse_existing(target, overwrite=True, directory=True)
    with pytest.raises(UsageError, match="is a directory"), atomic_write(target, overwrite=True) as part:
        part.write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["results", "mine"]


def test_the_operating_systems_errors_are_ours(tmp_path):
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(InceptionTFError, match="Cannot write"), atomic_write(blocker / "below"):
        pass
    with pytest.raises(InceptionTFError, match="No space left"), atomic_write(tmp_path / "x"):
        raise OSError(28, "No space left on device")


def test_tables_align_numbers_right():
    text = tables.render([("a", 1, None), ("long", 20, 0.5)], ("name", "n", "x"))
    assert text.splitlines() == ["name   n    x", "----  --  ---", "a      1", "long  20  0.5"]
    assert tables.render([]) == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("unit, shown", [("images", "40/100 0.0 images/s"), ("B", "40/100 bytes")])
def test_progress_is_for_terminals_only(monkeypatch, unit, shown):
    for name, value in {"TERM": "xterm", "TTY_COMPATIBLE": "1", "NO_COLOR": "1", "COLUMNS": "120"}.items():
        monkeypatch.setenv(name, value)
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr("sys.stderr", stream)
        with Progress("Reading", 100, unit) as progress:
            progress.label = "Writing"
            progress.advance(40)
            if progress.bar:
                progress.bar.refresh()
        text = stream.getvalue()
        assert all(word in text for word in ("Reading", "0/100", "Writing", shown)) if stream.isatty() else text == ""


def test_every_public_name_is_there():
    import inception_tf

    readme = Path(__file__).parents[1].joinpath("README.md").read_text("utf-8")
    assert set(re.findall(r"\bitf\.(\w+)", readme)) <= set(inception_tf.__all__)

    for name in inception_tf.__all__:
        found = getattr(inception_tf, name)
        assert callable(found) or inspect.ismodule(found), name
        assert getattr(inception_tf, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = inception_tf.nothing


def test_what_other_libraries_say_in_a_line():
    place = "Exception from src/cpp/core.cpp:92:"
    for message, line in [
        (f"{place}\nCheck 'file' failed at src/a.cpp:1:\n\nNo weights.\nAt all.", "No weights."),
        (place, place),
        ("{{function_node x}} /tmp/part; No space left on device [Op:SaveV2]", "No space left on device"),
        ("x" * 300, "x" * 200),
        ("", "RuntimeError"),
    ]:
        assert reason(RuntimeError(message)) == line
