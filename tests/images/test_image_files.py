import os
from pathlib import Path

import pytest

from inception_tf.errors import UsageError
from inception_tf.images.files import find_images


@pytest.fixture
def folder(tmp_path, monkeypatch):
    names = "b.jpg a.JPEG notes.txt .hidden.jpg sub/c.png sub/deep/d.webp .git/e.png empty/f.txt photo[1].jpg raw.dat"
    for name in names.split():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(paths):
    return [os.fspath(path) for path in find_images(paths)]


@pytest.mark.parametrize(
    "paths, expected",
    [
        (".", "a.JPEG b.jpg photo[1].jpg sub/c.png sub/deep/d.webp"),  # to the bottom
        # A named file counts whatever its name.
        (["raw.dat", ".hidden.jpg", Path("photo[1].jpg")], "raw.dat .hidden.jpg photo[1].jpg"),
        # Patterns match as in the shell.
        ("*.jpg", "b.jpg photo[1].jpg"),
        ("sub/**/*.*", "sub/c.png sub/deep/d.webp"),
        ("*", "a.JPEG b.jpg notes.txt photo[1].jpg raw.dat sub/c.png sub/deep/d.webp"),
        # Arguments keep their order, and a file comes once.
        (["sub", "b.jpg", "./sub/c.png", "sub/../b.jpg", "*.jpg"], "sub/c.png sub/deep/d.webp b.jpg photo[1].jpg"),
    ],
)
def test_finds_images(folder, paths, expected):
    assert found(paths) == expected.split()


def test_absolute_paths_and_the_home_directory(folder, monkeypatch):
    assert found(str(folder)) == [str(folder / name) for name in found(".")]
    assert found([str(folder / "?.jpg")]) == [str(folder / "b.jpg")]
    assert found(["b.jpg", str(folder / "b.jpg")]) == ["b.jpg"]
    monkeypatch.setenv("HOME", str(folder))
    assert found("~/b.jpg") == [str(folder / "b.jpg")]


@pytest.mark.parametrize(
    "paths, message",
    [
        (["b.jpg", "absent.jpg"], "No such file.*'absent.jpg'"),
        (["*.tiff"], r"No such file.*'\*.tiff'"),
        (["empty"], "No images in 'empty'.*jpg"),
        ([""], "No such file"),
        ([], "No images given"),
    ],
)
def test_what_matches_nothing(folder, paths, message):
    with pytest.raises(UsageError, match=message):
        find_images(paths)
