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


def test_a_directory_to_the_bottom(folder):
    assert found(["."]) == ["a.JPEG", "b.jpg", "photo[1].jpg", "sub/c.png", "sub/deep/d.webp"]
    assert found(str(folder)) == [str(folder / name) for name in found(".")]


def test_a_named_file_counts_whatever_its_name(folder):
    assert found(["raw.dat", ".hidden.jpg", Path("photo[1].jpg")]) == ["raw.dat", ".hidden.jpg", "photo[1].jpg"]


def test_patterns_match_as_in_the_shell(folder):
    assert found(["*.jpg"]) == ["b.jpg", "photo[1].jpg"]
    assert found(["sub/**/*.*"]) == ["sub/c.png", "sub/deep/d.webp"]
    assert found(["*"]) == sorted([*found(["."]), "notes.txt", "raw.dat"])
    assert found([str(folder / "?.jpg")]) == [str(folder / "b.jpg")]


def test_arguments_keep_their_order_and_a_file_comes_once(folder):
    assert found(["sub", "b.jpg", "./sub/c.png", str(folder / "b.jpg"), "*.jpg"]) == [
        "sub/c.png",
        "sub/deep/d.webp",
        "b.jpg",
        "photo[1].jpg",
    ]


def test_the_home_directory(folder, monkeypatch):
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
