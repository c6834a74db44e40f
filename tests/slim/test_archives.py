import gzip
import io
import os
import re
import tarfile

import numpy as np
import pytest
from slim_files import holds, write_tensors

from inception_tf.errors import CheckpointError, UsageError
from inception_tf.slim import archives
from inception_tf.slim.archives import check_archive, extract_checkpoint, find_checkpoint, is_archive
from inception_tf.slim.checkpoint import open_checkpoint

VALUES = {"InceptionV3/a/weights": np.arange(600, dtype=np.float32), "global_step": np.int64(7)}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A directory with real checkpoints: V1 `v1.ckpt`, and two of V2 in a training directory."""
    folder = tmp_path_factory.mktemp("real")
    write_tensors(folder / "v1.ckpt", VALUES, "v1")
    for step in (90, 1000):
        write_tensors(folder / f"train/model.ckpt-{step}", VALUES)
    write_state(folder / "train", "model.ckpt-1000")
    return folder


def write_state(folder, path):
    """Writes `checkpoint` as TensorFlow does."""
    from google.protobuf import text_format
    from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

    (folder / "checkpoint").write_text(text_format.MessageToString(CheckpointState(model_checkpoint_path=str(path))))


def same(path):
    return holds(open_checkpoint(path), VALUES)


def pack(path, *members):
    """A tar of (name or TarInfo, bytes) pairs, compressed as the name says."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for info, data in members:
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def table(size=1000):
    """Bytes that look like a V1 checkpoint from outside."""
    return os.urandom(size) + bytes.fromhex("57fb808b247547db")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_v1_in_an_archive(real, tmp_path, suffix):
    # As published: the checkpoint with a graph beside it, some of them in a directory.
    archive = pack(
        tmp_path / f"a{suffix}", ("x/v1.ckpt", (real / "v1.ckpt").read_bytes()), ("x/train.graph", b"g" * 5000)
    )
    assert is_archive(archive)
    files = extract_checkpoint(archive, tmp_path / "out")
    assert not is_archive(real / "v1.ckpt") and not is_archive(tmp_path / "none")
    assert files == [tmp_path / "out/v1.ckpt"] == list((tmp_path / "out").iterdir())
    assert find_checkpoint(files) == find_checkpoint(tmp_path / "out") == tmp_path / "out/v1.ckpt"
    assert same(tmp_path / "out/v1.ckpt")


def test_v2_in_an_archive(real, tmp_path):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        tar.add(real / "train", "run")
    files = extract_checkpoint(tmp_path / "a.tgz", tmp_path / "out")
    assert sorted(file.name for file in files) == sorted(os.listdir(real / "train"))
    assert find_checkpoint(files) == tmp_path / "out/model.ckpt-1000"
    assert same(find_checkpoint(files))
    assert find_checkpoint(real / "train") == real / "train/model.ckpt-1000"
    assert find_checkpoint(real) == real / "v1.ckpt"


def test_leaves_existing_files_alone(tmp_path):
    archive = pack(tmp_path / "a.tar", ("other.ckpt", table()), ("model.ckpt", table()))
    (tmp_path / "model.ckpt").write_text("mine")
    with pytest.raises(UsageError, match="model.ckpt exists"):
        extract_checkpoint(archive, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "model.ckpt"]


def member(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


UNSAFE = {
    "parent": ("../x.ckpt", table()),
    "parent inside": ("a/../../x.ckpt", table()),
    "symlink": (member("x.ckpt", tarfile.SYMTYPE, "/etc/passwd"), b""),
    "hard link": (member("x.ckpt", tarfile.LNKTYPE, "model.ckpt"), b""),
    "device": (member("x.ckpt", tarfile.CHRTYPE), b""),
    "fifo": (member("x.ckpt", tarfile.FIFOTYPE), b""),
}


@pytest.mark.parametrize("unsafe", UNSAFE.values(), ids=UNSAFE)
def test_unsafe_archives_unpack_to_nothing(tmp_path, unsafe):
    archive = pack(tmp_path / "a.tar.gz", ("model.ckpt", table()), unsafe)
    with pytest.raises(CheckpointError, match="unsafe"):
        extract_checkpoint(archive, tmp_path / "in/out")
    assert os.listdir(tmp_path / "in/out") == []
    assert sorted(os.listdir(tmp_path)) == ["a.tar.gz", "in"]


def test_same_names_stay_apart_and_absolute_paths_inside(tmp_path):
    archive = pack(tmp_path / "a.tar", ("/a/model.ckpt", table()), ("b/model.ckpt", table()))
    files = extract_checkpoint(archive, tmp_path / "out")
    assert files == [tmp_path / "out/a/model.ckpt", tmp_path / "out/b/model.ckpt"]
    with pytest.raises(CheckpointError, match="a/model.ckpt.*b/model.ckpt"):
        find_checkpoint(files)


def test_bombs(tmp_path, monkeypatch):
    bomb = pack(tmp_path / "bomb.tgz", ("model.ckpt", table()), ("zeros", bytes(3 << 20)))
    with pytest.raises(CheckpointError, match="unpacks to more than 1,000,000 bytes"):
        extract_checkpoint(bomb, tmp_path / "out", max_bytes=1_000_000)
    assert len(extract_checkpoint(bomb, tmp_path / "out", max_bytes=4 << 20)) == 1

    # Zeros after the end of the archive.
    (tmp_path / "tail.tgz").write_bytes(bomb.read_bytes() + gzip.compress(bytes(3 << 20)))
    with pytest.raises(CheckpointError, match="unpacks to more"):
        check_archive(tmp_path / "tail.tgz", max_bytes=4 << 20)

    # A header that says it is 100 MB long: tarfile reads headers whole.
    header = member("./pax", tarfile.XHDTYPE)
    header.size = 100 << 20
    (tmp_path / "header.tgz").write_bytes(gzip.compress(header.tobuf() + bytes(1 << 20)))
    with pytest.raises(CheckpointError, match="header of 104,857,600 bytes"):
        check_archive(tmp_path / "header.tgz")

    monkeypatch.setattr(archives, "MAX_MEMBERS", 20)
    many = pack(tmp_path / "many.tar", *[(f"model.ckpt-{i}", b"") for i in range(21)])
    with pytest.raises(CheckpointError, match="more than 20 files"):
        check_archive(many)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME], ids=["file", "long name"])
def test_a_header_of_negative_size_ends(tmp_path, kind):
    block = bytearray(member("x", kind).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (-512).to_bytes(12, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(block * 3)
    with pytest.raises(CheckpointError):
        check_archive(tmp_path / "a.tar")


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
def test_truncated_everywhere(tmp_path, suffix):
    whole = pack(tmp_path / f"a{suffix}", ("a.graph", b"g" * 700), ("model.ckpt", table(3000))).read_bytes()
    end = len(whole) if suffix == ".tgz" else 512 + 1024 + 512 + 3008
    for size in [0, 1, 10, 300, 600, 1400, 2600, end - 9, end - 1]:
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            extract_checkpoint(cut, tmp_path / "out")
        assert os.listdir(tmp_path / "out") == []


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize(
    "named", ["model.ckpt-5", "/elsewhere/model.ckpt-5", "C:\\run\\model.ckpt-5", '../run/mod"èl ü.ckpt-5']
)
def test_the_state_file_names_the_one_beside_it(tmp_path, named):
    name = re.split(r"[/\\]", named)[-1]
    touch(tmp_path, f"{name}.index", "model.ckpt-10.index")
    write_state(tmp_path, named)
    assert find_checkpoint(tmp_path) == find_checkpoint(list(tmp_path.iterdir())) == tmp_path / name


def test_state_file_that_points_elsewhere(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    other.mkdir()
    touch(other, "model.ckpt-5.index")
    write_state(run, other / "model.ckpt-5")
    assert find_checkpoint(run) == other / "model.ckpt-5"
    # Out of an archive, it must not.
    with pytest.raises(CheckpointError, match="names .*model.ckpt-5, which is not there"):
        find_checkpoint(list(run.iterdir()))


def test_state_file_whose_checkpoint_is_gone(tmp_path):
    touch(tmp_path, "model.ckpt-5.index")
    write_state(tmp_path, "model.ckpt-20")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"(?s)names model.ckpt-20, which is not there.*model.ckpt-5"):
            find_checkpoint(tmp_path)
        touch(tmp_path, "model.ckpt-10.index")


def test_without_a_state_file(tmp_path):
    with pytest.raises(CheckpointError, match="no TF-Slim checkpoint"):
        find_checkpoint(tmp_path)
    touch(tmp_path, "model.ckpt-9.data-00000-of-00001", "._model.ckpt-7.index", "photo.jpg")
    with pytest.raises(CheckpointError, match="data-00000-of-00001 is there without its .index"):
        find_checkpoint(tmp_path)
    touch(tmp_path, "model.ckpt-9.index", "model.ckpt-100.index")
    assert find_checkpoint(tmp_path) == tmp_path / "model.ckpt-100"
    touch(tmp_path, "best.ckpt.index")
    with pytest.raises(CheckpointError, match=r"(?s)several.*best.ckpt, .*model.ckpt-100, .*model.ckpt-9"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="Cannot read"):
        find_checkpoint(tmp_path / "none")
