"""Tables, archives and data sets of other packages, written by what writes them elsewhere."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest

from inception_tf.errors import UsageError
from inception_tf.images.decoding import decode_image
from inception_tf.images.sources import open_examples, open_training_data

NAMES = ["rose", "daisy", "tulip", "daisy", "rose", "tulip", "rose", "daisy"]
NUMBERS = [["daisy", "rose", "tulip"].index(name) for name in NAMES]


@pytest.fixture
def files(tmp_path, encode):
    """Eight images, the gray value of each its number, in a folder `photos`."""
    (tmp_path / "photos").mkdir()
    for i in range(len(NAMES)):
        (tmp_path / f"photos/{i}.png").write_bytes(encode(np.full((6, 5, 3), i, np.uint8), "PNG"))
    return tmp_path


def write_csv(path, rows, header=("path", "label"), delimiter=","):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([header, *rows])
    return path


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def assert_is(examples, labels=NUMBERS, classes=("daisy", "rose", "tulip")):
    assert examples.class_names == list(classes) and examples.labels.tolist() == labels
    assert [decode_image(examples.read(i))[0, 0, 0] for i in range(len(examples))] == list(range(len(NAMES)))
    train, held_out = examples.checked().split(0.3)
    assert len(train) + len(held_out) == len(NAMES) and set(held_out.labels) == {0, 1, 2}


def test_csv(files):
    rows = [(f"photos/{i}.png", name) for i, name in enumerate(NAMES)]
    examples = open_examples(write_csv(files / "all.csv", [*rows, ("photos/9.png", "")]))
    assert_is(examples)
    assert examples.names[3] == "photos/3.png" and examples.described() == "all.csv"
    assert examples.skipped == {"photos/9.png": "its row has no image or no label"}
    assert_is(open_examples(write_csv(files / "all.tsv", rows, ("File", "class"), "\t")))
    classes = ["tulip", "rose", "daisy"]
    assert_is(open_examples(files / "all.tsv", classes), [2 - number for number in NUMBERS], classes)
    numbers = write_csv(files / "numbers.csv", [(path, NUMBERS[i] + 1) for i, (path, _) in enumerate(rows)])
    assert_is(open_examples(numbers, ["daisy", "rose", "tulip"], labels_offset=1))
    with pytest.raises(UsageError, match="Training images cannot be validation images too: 0.png"):
        open_training_data(files / "all.csv", write_csv(files / "val.csv", rows[:1]))


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (("picture", "label"), [], "no column called image, path.*Received: picture, label"),
        (("path", "name"), [], "no column called label"),
        (("path", "label"), [], "no row with an image"),
        (("path", "label"), [("a.png", "a")], "one class only, 'a'"),
        (("path", "label"), [("a.png", "a"), ("b.png", "7")], "not among the 2 classes .x, y.: 7, a"),
        (("path", "label"), [("a.png", "1"), ("b.png", "2")], "Expected 0 to 1.*counts from 1.*--labels-offset 1"),
    ],
)
def test_tables_that_are_none(tmp_path, header, rows, message):
    with pytest.raises(UsageError, match=message):
        open_examples(write_csv(tmp_path / "a.csv", rows, header), ["x", "y"] if len(rows) > 1 else None)


def test_parquet(files):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table({"image": [f"photos/{i}.png" for i in range(8)], "label": NAMES})
    parquet.write_table(table, files / "paths.parquet")
    assert_is(open_examples(files / "paths.parquet"))
    table = pa.table({"image": [f"photos/{i}.png" for i in range(8)], "labels": NUMBERS})
    parquet.write_table(table, files / "numbers.parquet")
    assert_is(open_examples(files / "numbers.parquet", ["daisy", "rose", "tulip"]))


def test_hugging_face(files):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["daisy", "rose", "tulip"])}
    )
    images = [{"bytes": (files / f"photos/{i}.png").read_bytes(), "path": None} for i in range(8)]
    dataset = datasets.Dataset.from_dict({"image": images, "label": NUMBERS}, features)
    assert_is(open_examples(dataset))
    dataset.to_parquet(files / "all.parquet")
    assert_is(open_examples(files / "all.parquet"))
    dataset.save_to_disk(files / "saved")
    assert_is(open_examples(f"hf:{files}/saved"))
    with pytest.raises(UsageError, match="Cannot open hf:.*nowhere"):
        open_examples(f"hf:{files}/nowhere")
    with pytest.raises(UsageError, match="Received: DatasetDict"):
        open_examples(datasets.DatasetDict(train=dataset))
    with pytest.raises(UsageError, match="Several labels"):
        open_examples(dataset.remove_columns("label").add_column("labels", [NAMES[:2]] * 8))


@pytest.mark.parametrize("kind", ["cls", "txt", "json"])
def test_webdataset(files, kind):
    for shard, numbers in enumerate((range(5), range(5, 8))):
        with tarfile.open(files / f"shard-{shard}.tar", "w") as tar:
            for i in numbers:
                label = {"cls": str(NUMBERS[i]), "txt": NAMES[i], "json": json.dumps({"label": NAMES[i]})}[kind]
                add(tar, f"set/{i:03}.png", (files / f"photos/{i}.png").read_bytes())
                add(tar, f"set/{i:03}.{kind}", label.encode())
            add(tar, f"set/lone{shard}.txt", b"rose")
    classes = [f"class {i}" for i in range(3)] if kind == "cls" else ["daisy", "rose", "tulip"]
    examples = open_examples(f"{files}/shard-*.tar")
    assert_is(examples, NUMBERS, classes)
    assert examples.names[5] == "shard-1.tar:set/005"
    assert examples.skipped == {f"shard-{i}.tar:set/lone{i}": "has no image" for i in range(2)}
    (files / "torn.tar").write_bytes((files / "shard-0.tar").read_bytes()[:8000])
    assert "breaks off" in open_examples(files / "torn.tar").skipped["torn.tar"]


def test_what_is_taken_is_said(files):
    (files / "a.zip").write_bytes(b"PK\3\4")
    with tarfile.open(files / "a.tar", "w:gz") as tar:
        add(tar, "0.png", b"x")
    with pytest.raises(UsageError, match="a.tar is no tar file, or a compressed one"):
        open_examples(files / "a.tar")
    for data in (files / "a.zip", [files / "a.zip", files / "a.tar"]):
        with pytest.raises(UsageError, match=r"CSV, TSV or Parquet.*\.tar.*TFRecords.*tfds:NAME"):
            open_examples(data)


def test_tensorflow_datasets():
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=6):
        examples = open_examples("tfds:mnist:test")
    assert examples.class_names == [str(i) for i in range(10)] and len(examples) == 6
    with pytest.raises(UsageError, match="Cannot open tfds:no_such_set"):
        open_examples("tfds:no_such_set")
