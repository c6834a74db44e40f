import gzip
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from inception_tf.errors import ImageError, UsageError
from inception_tf.images.labels import imagenet_labels
from inception_tf.images.sources import open_examples, open_training_data


def record(image, label, text=None, filename=None, **others):
    """A serialized tf.train.Example with the features that research/slim/datasets writes."""
    values = {"image/encoded": image, "image/format": b"png", "image/class/label": label, "image/height": 48}
    values |= {"image/class/text": text, "image/filename": filename, **others}

    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        values = value if isinstance(value, list) else [value]
        if any(isinstance(value, float) for value in values):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    features = {key: feature(value) for key, value in values.items() if value is not None}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write(path, records, compression=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for one in records:
            writer.write(one)
    return path


@pytest.fixture(scope="module")
def images(encode):
    """Thirty encoded images that differ."""
    return [encode(np.full((2 + i, 5, 3), i, np.uint8), ("PNG", "JPEG", "BMP")[i % 3]) for i in range(30)]


@pytest.fixture
def slim(tmp_path, images):
    """Three training shards of ten images and one validation shard of five, labels 0 to 4, without names."""
    for shard in range(3):
        rows = range(10 * shard, 10 * shard + 10)
        write(tmp_path / f"train-{shard:05d}-of-00003", [record(images[i], i % 5) for i in rows])
    write(tmp_path / "validation-00000-of-00001", [record(images[i], i % 5) for i in range(5)])
    return tmp_path


def test_shards_are_read_in_any_order(slim, images):
    examples = open_examples(f"{slim}/train-*")
    assert len(examples) == 30 and examples.class_names == [f"class {i}" for i in range(5)]
    assert examples.labels.tolist() == [i % 5 for i in range(30)]
    assert examples.names[9:11] == ["train-00000-of-00003:9", "train-00001-of-00003:0"]
    for i in np.random.default_rng(0).permutation(30):
        assert examples.read(i) == images[i]
    part = examples.subset([29, 4])
    assert part.read(0) == images[29]
    assert len(examples.checked()) == 30 and examples.skipped == {}
    assert examples.fingerprint() != part.fingerprint()


def test_files_of_one_name_in_several_folders(tmp_path, images):
    paths = [write(tmp_path / name / "data.tfrecord", [record(images[i], i)]) for i, name in enumerate("ab")]
    assert open_examples(paths).names == ["a/data.tfrecord:0", "b/data.tfrecord:0"]
    assert len(open_examples([str(tmp_path / "?/*"), paths[0]])) == 2


def test_training_and_validation_shards(slim):
    train, val = open_training_data(f"{slim}/train-*", f"{slim}/validation-*")
    assert (len(train), len(val)) == (30, 5) and train.class_names == val.class_names
    train, val = open_training_data([f"{slim}/train-*"], val_fraction=0.3)
    assert np.bincount(val.labels).tolist() == [2] * 5 and not set(train.names) & set(val.names)
    with pytest.raises(UsageError, match="validation images too: validation-00000-of-00001"):
        open_training_data(f"{slim}/*", f"{slim}/val*")


def test_the_split_goes_by_the_files_names_where_records_have_them(tmp_path, images):
    rows = [(images[i], i % 2, None, f"/photos/n{i % 2}/{i}.JPEG".encode()) for i in range(20)]
    held = []
    for name, order in (("one", rows), ("other", rows[::-1])):
        path = write(tmp_path / name, [record(*row) for row in order])
        _, val = open_training_data(path)
        held.append({val.read(i) for i in range(len(val))})
    assert held[0] == held[1] and len(held[0]) == 4


def test_class_names(slim, tmp_path, images):
    names = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    (tmp_path / "labels.txt").write_text("".join(f"{i}:{name}\n" for i, name in enumerate(names)))
    assert open_examples(f"{slim}/train-*").class_names == names
    assert open_examples(f"{slim}/train-*", [*"abcdef"]).class_names == [*"abcdef"]
    with pytest.raises(UsageError, match=r"0 to 2, the 3 classes of the labels.*: 3, train-00000-of-00003:3"):
        open_examples(f"{slim}/train-*", [*"abc"])
    (tmp_path / "labels.txt").write_text("0:a\n1:b\n")
    with pytest.raises(UsageError, match=r"0 to 1, the 2 classes of .*labels.txt.*: 2, "):
        open_examples(f"{slim}/train-*")
    # Records of label 1 and up, as Slim's ImageNet has them; class 0 has no image.
    texts = ["", "tench", "goldfish", "crane", "crane"]
    path = write(tmp_path / "text/r", [record(images[i], i, texts[i].encode()) for i in range(1, 5)])
    assert open_examples(path).class_names == ["class 0", "tench", "goldfish", "crane", "crane"]
    assert open_examples(path, labels_offset=1).class_names == texts[1:]
    mixed = [record(images[i], i % 2, f"text {i}".encode()) for i in range(4)]
    assert open_examples(write(tmp_path / "text/mixed", mixed)).class_names == ["class 0", "class 1"]
    same = [record(images[i], i, b"flower") for i in range(4)]
    assert open_examples(write(tmp_path / "text/same", same)).class_names == [f"class {i}" for i in range(4)]


def test_labels_offset(tmp_path, images):
    path = write(tmp_path / "validation", [record(images[i], label) for i, label in enumerate((1, 500, 1000))])
    examples = open_examples(path, imagenet_labels(background=False), labels_offset=1)
    assert examples.labels.tolist() == [0, 499, 999] and len(examples.class_names) == 1000
    assert open_examples(path, imagenet_labels()).labels.tolist() == [1, 500, 1000]
    # A labels file names the labels of the data.
    (tmp_path / "labels.txt").write_text("".join(f"{i}:name {i}\n" for i in range(1001)))
    for labels in (None, tmp_path / "labels.txt"):
        examples = open_examples(path, labels, labels_offset=1)
        assert [examples.class_names[label] for label in examples.labels] == ["name 1", "name 500", "name 1000"]
    with pytest.raises(UsageError, match="after labels_offset 2.*: -1, validation:0, the first of 1"):
        open_examples(path, labels_offset=2)
    with pytest.raises(UsageError, match="1000 classes.*: 1000, validation:2"):
        open_examples(path, imagenet_labels(background=False))


def test_records_that_lack_something_are_skipped(tmp_path, images):
    bad = {
        "no image/encoded": [record(None, 0), record(b"", 1)],
        "no image/class/label": [record(images[1], None), record(images[2], 1.0), record(images[2], b"1")],
        "has 2 image/class/label": [record(images[2], [1, 2])],
        "no tf.train.Example": [b"no example"],
        "": [b""],
    }
    records = [record(images[0], 0), *sum(bad.values(), []), record(images[3], 1), record(b"no image", 1)]
    examples = open_examples(write(tmp_path / "r", records))
    assert examples.names == ["r:0", "r:9", "r:10"] and examples.read(1) == images[3]
    reasons = [reason for reason, several in bad.items() for _ in several]
    assert all(reason in examples.skipped[f"r:{i}"] for i, reason in enumerate(reasons, 1))
    assert "Not an image" in examples.checked().skipped["r:10"]


def record_ends(path):
    """Where every record ends, its framing included."""
    data, ends = path.read_bytes(), []
    while (start := ends[-1] if ends else 0) < len(data):
        ends.append(start + 16 + struct.unpack("<Q", data[start : start + 8])[0])
    return ends


DAMAGES = {
    "truncated": lambda data, start, end: data[: end - 5],
    "truncated in the length": lambda data, start, end: data[: start + 3],
    "data": lambda data, start, end: data[: start + 30] + bytes([data[start + 30] ^ 1]) + data[start + 31 :],
    "length": lambda data, start, end: data[: start + 1] + bytes([data[start + 1] ^ 1]) + data[start + 2 :],
    "zeros": lambda data, start, end: data[:start] + bytes(len(data) - start),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_broken_shard_keeps_the_records_before(slim, images, damage):
    path = slim / "train-00001-of-00003"
    path.write_bytes(damage(path.read_bytes(), *record_ends(path)[3:5]))
    examples = open_examples(f"{slim}/train-*")
    assert len(examples) == 24 and [examples.read(i) for i in (13, 14, 23)] == [images[i] for i in (13, 20, 29)]
    assert list(examples.skipped) == [path.name] and "breaks off after record 3" in examples.skipped[path.name]


def test_files_that_are_no_records_among_others(slim):
    (slim / "train-list.txt").write_text("0\n" * 50)
    (slim / "train-empty").touch()
    examples = open_examples(f"{slim}/train-*")
    assert len(examples) == 30
    assert list(examples.skipped) == ["train-empty", "train-list.txt"]
    with pytest.raises(UsageError, match="2 TFRecord files.*train-empty: holds no records.*train-list.txt: not a TF"):
        open_examples([slim / "train-empty", slim / "train-list.txt"])


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_compressed_shards(tmp_path, images, compression):
    path = write(tmp_path / "r.gz", [record(images[0], 0), record(images[1], 1)], compression)
    with pytest.raises(UsageError, match="r.gz is compressed.*gunzip"):
        open_examples(path)
    if compression == "GZIP":
        (tmp_path / "r").write_bytes(gzip.decompress(path.read_bytes()))
        assert len(open_examples(tmp_path / "r")) == 2


def test_a_shard_that_changes_under_way(slim):
    examples = open_examples(f"{slim}/val*")
    path = slim / "validation-00000-of-00001"
    # As much as the last image has: where in its record it lies, protobuf does not promise.
    path.write_bytes(path.read_bytes()[: -len(examples.read(4))])
    with pytest.raises(ImageError, match="shorter than it was"):
        examples.read(4)
    path.unlink()
    with pytest.raises(ImageError, match="Cannot read .*validation-00000-of-00001"):
        examples.read(0)


def test_labels_that_are_no_class_numbers(tmp_path, images):
    for labels, message in (((0, 10**12), "0 to 99999.*: 1000000000000, "), ((0, 0), "one class")):
        path = write(tmp_path / "r", [record(images[i], label) for i, label in enumerate(labels)])
        for opens in (open_examples, open_training_data):
            with pytest.raises(UsageError, match=message):
                opens(path)
    path = write(tmp_path / "r", [record(images[0], 3), record(images[1], 3)])
    assert open_examples(path).labels.tolist() == [3, 3]  # to evaluate on, but not to train on
    with pytest.raises(UsageError, match="All training images are of one class, 'class 3'"):
        open_training_data(path)


def test_records_are_what_the_original_reader_reads(slim):
    """TensorFlow's own TFRecordDataset and parser, with the features of research/slim/datasets/flowers.py."""
    features = {
        "image/encoded": tf.io.FixedLenFeature((), tf.string, ""),
        "image/class/label": tf.io.FixedLenFeature((), tf.int64, 0),
    }
    paths = sorted(map(str, slim.glob("train-*")))
    rows = tf.data.TFRecordDataset(paths).map(lambda data: tf.io.parse_single_example(data, features))
    expected = [(row["image/encoded"], row["image/class/label"]) for row in rows.as_numpy_iterator()]
    examples = open_examples(paths)
    assert [(examples.read(i), label) for i, label in enumerate(examples.labels)] == expected


def test_tensorflow_starts_without_a_word(slim):
    script = f"from inception_tf.images.sources import open_examples; print(len(open_examples({str(slim)!r} + '/t*')))"
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("30\n", "")
