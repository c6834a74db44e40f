import gzip
import os
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from slim_files import holds, read_tensors, tf1_session, train_and_save, write_tensors

from inception_tf.errors import CheckpointError
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.containers.saver import SaverCheckpoint

FORMATS = ["v1", "v2", "sharded_v1", "sharded_v2"]
# Names that mean something to a shell, to glob and to TensorFlow's own pattern matching.
ODD_NAMES = ["with space", "ünïcødé 名", "run[1]", "a*b?", "{x,y}", "back\\slash", "percent%20", "-dash", "it's"]
TENSORS = {
    "InceptionV3/Conv2d_1a_3x3/weights": np.arange(864, dtype=np.float32).reshape(3, 3, 3, 32),
    "InceptionV3/Conv2d_1a_3x3/BatchNorm/beta": np.linspace(-1, 1, 32, dtype=np.float32),
    "double": np.array([1e300, -0.0]),
    "global_step": np.int64(1234),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A convolution of TF-Slim with RMSProp's slots and moving averages, in every format of TensorFlow 1's Saver."""
    import tensorflow.compat.v1 as tf

    from inception_tf.slim.reference import import_tf_slim

    slim = import_tf_slim()
    with tf1_session(devices=3) as session:
        slim.conv2d(tf.zeros((1, 9, 9, 3)), 8, 3, normalizer_fn=slim.batch_norm, scope="InceptionV3/Conv2d_1a_3x3")
        results = train_and_save(session, tf.global_variables(), tmp_path_factory.mktemp("saved"), FORMATS)
    paths, weights, shadows, others = results
    return SimpleNamespace(**paths, weights=weights, shadows=shadows, others=others)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder of one small checkpoint in each format: v1, v2, sharded_v2."""
    folder = tmp_path_factory.mktemp("small")
    write_tensors(folder / "v1" / "m.ckpt", TENSORS, "v1")
    write_tensors(folder / "v2" / "m.ckpt", TENSORS)
    write_tensors(folder / "sharded_v2" / "m.ckpt", TENSORS, shards=3)
    return folder


@pytest.mark.parametrize("format", FORMATS)
def test_reads_what_tensorflows_saver_wrote(saved, format):
    path = getattr(saved, format)
    checkpoint = open_checkpoint(path)
    assert checkpoint.container == {"v1": "V1", "v2": "V2"}.get(format, f"V{format[-1]}, 3 shards")
    assert holds(checkpoint, read_tensors(saved.v2)) and set(checkpoint) == set(saved.weights) | set(saved.others)
    assert open_checkpoint(checkpoint) is checkpoint and checkpoint.step == 20000
    for name, value in saved.weights.items():
        np.testing.assert_array_equal(checkpoint[name], value)
        np.testing.assert_array_equal(checkpoint[f"{name}/ExponentialMovingAverage"], saved.shadows[name])
    assert "InceptionV3" not in checkpoint and checkpoint.get("nothing") is None
    with pytest.raises(KeyError):
        checkpoint["nothing"]


@pytest.mark.parametrize("format", FORMATS)
def test_each_file_of_a_checkpoint_stands_for_it(saved, format):
    path = getattr(saved, format)
    files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
    assert len(files) == {"v1": 1, "v2": 2, "sharded_v1": 3, "sharded_v2": 4}[format]
    for file in [*files, path.parent, path.parent / "checkpoint", str(path), f"{path}.meta"]:
        assert open_checkpoint(file).step == 20000, file


@pytest.mark.parametrize("format", ["v1", "v2", "sharded_v2"])
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_reads_archives(small, tmp_path, format, suffix):
    archive = tmp_path / f"slim{suffix}"
    with tarfile.open(archive, "w" if suffix == ".tar" else "w:gz") as tar:
        tar.add(small / format, "nested/model")
    checkpoint = open_checkpoint(archive)
    assert holds(checkpoint, TENSORS)
    assert checkpoint.container.endswith("in a tar archive")
    assert checkpoint.path == archive


def test_an_archives_unpacked_files_go_with_it(small, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(small / "v1", "model")
    checkpoint = open_checkpoint(tmp_path / "a.tar")
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    del checkpoint
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("format", ["v1", "v2", "sharded_v2"])
def test_odd_paths(small, tmp_path, name, format):
    shutil.copytree(small / format, tmp_path / name / name)
    for file in (tmp_path / name / name).iterdir():
        file.rename(file.with_name(file.name.replace("m.ckpt", name)))
    assert holds(open_checkpoint(tmp_path / name / name / name), TENSORS)
    assert holds(open_checkpoint(str(tmp_path / name / name)), TENSORS)


@pytest.mark.parametrize("pattern", ["m[1].ckpt", "m*.ckpt"])
def test_a_pattern_does_not_open_its_neighbors(small, tmp_path, pattern):
    shutil.copy(small / "v1/m.ckpt", tmp_path / "m1.ckpt")
    assert "There is no checkpoint at" in error(tmp_path / pattern)


@pytest.mark.parametrize("format", ["v1", "v2"])
def test_relative_paths(small, monkeypatch, format):
    monkeypatch.chdir(small / format)
    assert holds(open_checkpoint("m.ckpt"), TENSORS)
    assert holds(open_checkpoint("."), TENSORS)
    assert holds(open_checkpoint(Path("../v2/m.ckpt")), TENSORS)


def test_reads_no_tensor_before_it_is_asked(saved, monkeypatch):
    read = []
    real = SaverCheckpoint.read
    monkeypatch.setattr(SaverCheckpoint, "read", lambda self, name: read.append(name) or real(self, name))
    checkpoint = open_checkpoint(saved.v2)
    assert len(checkpoint) > 10 and "global_step" in checkpoint and checkpoint.shapes["global_step"] == ()
    assert read == []
    checkpoint["global_step"]
    assert read == ["global_step"]


def test_reads_variables_that_were_partitioned(tmp_path):
    import tensorflow.compat.v1 as tf

    with tf1_session() as session:
        with tf.variable_scope("net", partitioner=tf.fixed_size_partitioner(3)):
            parts = tf.get_variable("weights", (10, 4))
        session.run(tf.global_variables_initializer())
        value = session.run(parts.as_tensor())
        tf.train.Saver().save(session, str(tmp_path / "m.ckpt"))
    assert holds(open_checkpoint(tmp_path / "m.ckpt"), {"net/weights": value})


def test_reads_half_precision(tmp_path):
    import tensorflow as tf

    tensors = {"a": tf.cast([1.0, 0.1], tf.bfloat16).numpy(), "b": np.array([1, 0.1], np.float16)}
    write_tensors(tmp_path / "m.ckpt", tensors)
    assert holds(open_checkpoint(tmp_path / "m.ckpt"), tensors)


def error(path):
    """The message of the CheckpointError of opening and reading: a line or two, naming the path."""
    with pytest.raises(CheckpointError) as raised:
        for _ in open_checkpoint(path).values():
            pass
    text = str(raised.value)
    assert len(text) < 600 and text.count("\n") < 2 and Path(path).name in text, text
    return text


def test_nothing_there(tmp_path):
    assert "There is no checkpoint at" in error(tmp_path / "model.ckpt")
    write_tensors(tmp_path / "model.ckpt-100", TENSORS)
    assert "model.ckpt-100.index" in error(tmp_path / "model.ckpt")
    assert "There is no checkpoint at" in error(tmp_path / "no" / "such" / "folder" / "model.ckpt")
    assert "File name too long" in error(tmp_path / ("n" * 300))


def test_what_holds_no_checkpoint(small, tmp_path):
    assert "holds no TF-Slim checkpoint" in error(tmp_path)
    os.mkfifo(tmp_path / "fifo")  # which is not waited for
    assert "There is no checkpoint at" in error(tmp_path / "fifo")
    (tmp_path / "readme.txt").write_text("hello")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "readme.txt", "readme.txt")
    assert "holds no checkpoint. It holds: readme.txt" in error(tmp_path / "a.tar.gz")
    (tmp_path / "m.ckpt.gz").write_bytes(gzip.compress((small / "v1/m.ckpt").read_bytes()))
    assert "gunzip" in error(tmp_path / "m.ckpt.gz")
    (tmp_path / "a.keras").write_bytes(b"PK\x03\x04 not really")
    assert "a.keras is no Keras model, or damaged" in error(tmp_path / "a.keras")
    assert "There is no model at" in error(tmp_path / "b.keras")


@pytest.mark.parametrize(
    "content, what",
    [
        (b"", "is empty"),
        (b"x", "a file of another kind"),
        (b"<!DOCTYPE html><html><body>404</body></html>" * 30, "an HTML page"),
        (b"\n <HTML>", "an HTML page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "JPEG"),
        (b"PK\x03\x04" + bytes(100), "a zip file (unpack it first"),
        (b"BZh9" + bytes(100), "bzip2"),
        (bytes(1000), "another kind"),
    ],
)
@pytest.mark.parametrize("name", ["model.ckpt", "model.tar.gz", "model.tar"])
def test_a_file_that_is_no_checkpoint(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    text = error(tmp_path / name)
    assert what in text or name != "model.ckpt"


@pytest.mark.parametrize(
    "format, missing, message",
    [
        ("sharded_v2", "m.ckpt.data-00001-of-00003", "m.ckpt.data-00001-of-00003 missing"),
        ("v2", "m.ckpt.data-00000-of-00001", "m.ckpt.data-00000-of-00001 missing"),
        ("v2", "m.ckpt.index", "m.ckpt.index is missing"),
        ("sharded_v1", "model.ckpt-20000-00001-of-00003", "model.ckpt-20000-00001-of-00003 missing"),
    ],
)
def test_missing_parts(saved, small, tmp_path, format, missing, message):
    shutil.copytree(saved.sharded_v1.parent if format == "sharded_v1" else small / format, tmp_path / "a")
    (tmp_path / "a" / missing).unlink()
    assert message in error(tmp_path / "a" / ("model.ckpt-20000" if format == "sharded_v1" else "m.ckpt"))


def test_shards_of_an_older_sharding_are_no_shards(small, tmp_path):
    shutil.copytree(small / "sharded_v2", tmp_path / "a")
    (tmp_path / "a/m.ckpt.data-00000-of-00001").write_bytes(b"older")
    (tmp_path / "a/m.ckpt.data-00000-of-00007").write_bytes(b"older")
    assert holds(open_checkpoint(tmp_path / "a/m.ckpt"), TENSORS)
    (tmp_path / "a/m.ckpt.data-00002-of-00003").unlink()
    error(tmp_path / "a/m.ckpt")


def truncated(data):
    return {
        f"cut to {n}": data[:n] for n in (0, 1, 7, 48, len(data) // 3, len(data) // 2, len(data) - 9, len(data) - 1)
    }


def flipped(data):
    """One bit flipped at places all over, and at every byte of the last 60, where the footer is."""
    places = {*range(0, len(data), max(1, len(data) // 40)), *range(max(0, len(data) - 60), len(data))}
    return {f"bit at {n}": data[:n] + bytes([data[n] ^ 16]) + data[n + 1 :] for n in places}


def reads(path):
    """Whether the tensors are read, every one of them right; False where the checkpoint is refused."""
    try:
        return holds(open_checkpoint(path), TENSORS)
    except CheckpointError as e:
        assert len(str(e)) < 600 and str(e).count("\n") < 2, e
        return False


@pytest.mark.parametrize("file", ["v1/m.ckpt", "v2/m.ckpt.index", "v2/m.ckpt.data-00000-of-00001", "tar/m.tar.gz"])
def test_a_damaged_file_is_refused_or_reads_as_it_was(small, tmp_path, file):
    folder, name = tmp_path / "a", Path(file).name
    if file.startswith("tar"):
        folder.mkdir()
        with tarfile.open(folder / name, "w:gz") as tar:
            tar.add(small / "v1/m.ckpt", "m.ckpt")
    else:
        shutil.copytree(small / Path(file).parent, folder)
    data = (folder / name).read_bytes()
    for how, bad in (truncated(data) | flipped(data)).items():
        (folder / name).write_bytes(bad)
        # A flipped bit may hit bytes that nothing depends on; a wrong value must never come out, nor half a file.
        assert not reads(folder / (name if file.startswith("tar") else "m.ckpt")) or how.startswith("bit"), how
