"""`open_image_set`: what people point FID at."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from inception_tf.errors import UsageError
from inception_tf.images.image_sets import open_image_set
from inception_tf.images.streams import image_tables


def png(gray):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (gray, gray, gray)).save(file, "PNG")
    return file.getvalue()


def grays(source):
    images = open_image_set(source)
    return [int(images.read(i)[0, 0, 0]) for i in range(len(images))]


@pytest.fixture
def photos(tmp_path):
    for gray, name in enumerate(("cat/0.png", "cat/deep/1.png", "faces-of-people/2.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(gray))
    return tmp_path


def test_folders_in_patterns_and_lists(photos):
    pytest.importorskip("pyarrow")
    assert sum(map(len, image_tables(f"{photos}/**/*"))) == 3
    (photos / "README.txt").write_text("no path")
    assert grays(f"{photos}/*") == [0, 1, 2]  # the text beside the folders is no manifest
    assert grays([photos / "cat/deep", photos / "cat/0.png"]) == [1, 0]
    assert grays(photos / "faces-of-people") == [2]
    assert grays(f"{photos}/**/*") == [0, 1, 2]


def test_a_list_of_paths(photos):
    (photos / "list.txt").write_bytes(b"cat/0.png \n \r\nfaces-of-people/2.png\r\n")
    assert grays(photos / "list.txt") == [0, 2]


def test_parquet(tmp_path):
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    data = [png(1), png(2)]
    for i, columns in enumerate(
        [
            {"filename": ["a.png", "b.png"], "img": data},
            {"url": ["https://x/a.jpg"] * 2, "jpg": data, "error": ["", ""]},
            {"image": [{"bytes": one, "path": "same.png"} for one in data]},
            {"anything": data},
        ]
    ):
        parquet.write_table(pa.table(columns), tmp_path / f"{i}.parquet")
        assert grays(tmp_path / f"{i}.parquet") == [1, 2]
    assert len(set(open_image_set(tmp_path / "2.parquet").names)) == 2
    assert grays(tmp_path) == 4 * [1, 2]
    (tmp_path / "preview.png").write_bytes(png(3))
    with pytest.raises(UsageError, match="images and Parquet"):
        open_image_set(tmp_path)


def test_what_is_behind_a_url_is_not_kept(photos):
    (photos / "urls.txt").write_text(f"{(photos / 'cat/0.png').as_uri()}\n")
    assert open_image_set(photos / "cat").stamp and not open_image_set(photos / "urls.txt").stamp


def test_damaged_files(photos):
    with tarfile.open(photos / "whole.tar.gz", "w:gz") as tar:
        tar.add(photos / "cat/0.png", "0.png")
    assert grays(photos / "whole.tar.gz") == [0]
    (photos / "broken.tar").write_bytes(b"\xfd7zXZ\x00\x00\x04" + bytes(100))
    (photos / "broken.npz").write_bytes(b"PK\x03\x04" + bytes(100))
    for name in ("broken.tar", "broken.npz"):
        with pytest.raises(UsageError):
            open_image_set(photos / name)
    np.save(photos / "one.npy", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UsageError, match=r"\(8, 8, 3\)"):
        open_image_set(photos / "one.npy")
