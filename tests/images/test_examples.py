import hashlib
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from inception_tf.errors import ImageError, UsageError
from inception_tf.images.decoding import decode_image
from inception_tf.images.sources import open_examples, open_training_data


def write_classes(root, **counts):
    """`counts` small PNG files in a folder a class; every image has a color of its own."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (5, 4), (number, i, 7)).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def flowers(tmp_path):
    return write_classes(tmp_path / "flowers", tulips=6, daisy=10, roses=5)


def first_pixel(examples, index):
    return decode_image(examples.read(index))[0, 0].tolist()


def test_class_folders(flowers):
    examples = open_examples(flowers)
    assert examples.class_names == ["daisy", "roses", "tulips"]
    assert len(examples) == 21 and examples.labels.dtype == np.int64
    assert examples.labels.tolist() == [0] * 10 + [1] * 5 + [2] * 6
    assert examples.names[9:12] == ["daisy/9.png", "roses/0.png", "roses/1.png"]
    assert examples.read(12) == (flowers / "roses/2.png").read_bytes()
    assert [first_pixel(examples, i) for i in (9, 10)] == [[1, 9, 7], [2, 0, 7]]
    assert examples.skipped == {}


def test_the_order_of_the_labels_is_that_of_the_classes(flowers, tmp_path):
    (tmp_path / "labels.txt").write_text("0:tulips\n1:daisy\n2:roses\n")
    for labels in (["tulips", "daisy", "roses"], tmp_path / "labels.txt", str(tmp_path / "labels.txt")):
        examples = open_examples(str(flowers), labels)
        assert examples.class_names == ["tulips", "daisy", "roses"]
        assert examples.labels.tolist() == [0] * 6 + [1] * 10 + [2] * 5
        assert examples.names[0] == "tulips/0.png"


def test_names_of_any_kind(tmp_path):
    write_classes(tmp_path / "my data [1]", **{"белая роза": 1, "1 été": 2, "a;b 'c'": 2, "train": 2})
    strange = os.fsencode(tmp_path / "my data [1]/train") + b"/\xff\xfe.png"  # not UTF-8
    shutil.copy(tmp_path / "my data [1]/train/0.png", strange)
    examples = open_examples(tmp_path / "my data [1]")
    assert examples.class_names == ["1 été", "a;b 'c'", "train", "белая роза"]
    assert len(examples.fingerprint()) == 16
    assert len(examples.checked()) == 8


def test_what_is_no_image_is_left_alone(flowers):
    for name in (".DS_Store", "README.txt", "daisy/notes.txt", "daisy/.hidden.jpg", ".git/a.png", "daisy/meta/a.json"):
        (flowers / name).parent.mkdir(exist_ok=True)
        (flowers / name).write_bytes(b"x")
    (flowers / "daisy/LINK.PNG").symlink_to(flowers / "roses/0.png")
    (flowers / "roses/lost.jpg").symlink_to(flowers / "nowhere.jpg")
    os.mkfifo(flowers / "roses/pipe.jpg")
    examples = open_examples(flowers)
    assert len(examples) == 22 and "daisy/LINK.PNG" in examples.names
    assert list(examples.skipped) == ["roses/lost.jpg", "roses/pipe.jpg"]
    assert first_pixel(examples, examples.names.index("daisy/LINK.PNG")) == [2, 0, 7]


def remove(*names):
    return lambda root: [shutil.rmtree(root / name) for name in names]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda root: shutil.copy(root / "daisy/0.png", root / "a.png"), "flowers/<class>/<image>.*1 images.*a.png"),
        (lambda root: write_classes(root / "daisy/deep/er", x=1), "too deep, .*daisy/deep/er/x/0.png"),
        (lambda root: [(root / name).mkdir() for name in ("a", "b")], "jpg.*class folders a, b"),
        (lambda root: (root / "daisy").rename(root / os.fsdecode(b"caf\xe9")), r"line of UTF-8.*'caf\\udce9'"),
        (remove("daisy", "roses"), "one class, 'tulips'"),
        (remove("daisy", "roses", "tulips"), "a folder without folders"),
        (lambda root: shutil.move(root, root.parent / "elsewhere"), "No such file .*flowers"),
    ],
)
def test_folders_that_are_not_class_folders(flowers, change, message):
    change(flowers)
    for opens in (open_examples, open_training_data):
        with pytest.raises(UsageError, match=message):
            opens(flowers)


@pytest.mark.parametrize(
    "labels, message",
    [
        (["daisy", "roses"], "no class is called tulips"),
        (["daisy", "roses", "tulips", "iris", "lily"], r"5 classes \(daisy.*no folder is called iris, lily"),
        (["Daisy", "roses", "tulips"], "no class is called daisy; no folder is called Daisy"),
        (["daisy", "roses", "roses", "tulips"], "more than one class is called roses"),
    ],
)
def test_labels_that_disagree_with_the_folders(flowers, labels, message):
    with pytest.raises(UsageError, match=message):
        open_examples(flowers, labels)


def test_some_of_the_classes_where_that_is_enough(flowers):
    labels = ["iris", "tulips", "daisy", "roses"]
    shutil.rmtree(flowers / "roses")
    examples = open_examples(flowers, labels, complete=False)
    assert examples.class_names == labels and set(examples.labels) == {1, 2}
    with pytest.raises(UsageError, match="no class is called tulips"):
        open_examples(flowers, ["daisy", "roses"], complete=False)


@pytest.mark.parametrize(
    "data, message",
    [
        ([], "No data given"),
        ("", "No such file"),
        (["flowers", "flowers/daisy/0.png"], "one folder of class folders, or files. Received: flowers, "),
        ("flowers/*", "one folder"),
        ("flowers/daisy/0.png", "0.png: not a TFRecord file"),
    ],
)
def test_wrong_use(flowers, monkeypatch, data, message):
    monkeypatch.chdir(flowers.parent)
    for opens in (open_examples, open_training_data):
        with pytest.raises(UsageError, match=message):
            opens(data)
    with pytest.raises(UsageError, match="labels_offset"):
        open_examples("flowers", labels_offset=1)


def test_the_split_goes_by_the_names_of_the_files_alone(flowers, tmp_path):
    train, held_out = open_training_data(flowers, val_fraction=0.3)
    assert np.bincount(held_out.labels).tolist() == [3, 2, 2] and np.bincount(train.labels).tolist() == [7, 3, 4]
    assert set(train.names) | set(held_out.names) == set(open_examples(flowers).names)
    ordered = sorted(range(10), key=lambda i: hashlib.sha256(f"{i}.png".encode()).hexdigest())
    assert held_out.names[:3] == [f"daisy/{i}.png" for i in sorted(ordered[:3])]

    moved = tmp_path / "elsewhere"
    shutil.move(flowers, moved)
    (moved / "daisy").rename(moved / "zinnia")
    (moved / "roses/new.png").write_bytes((moved / "roses/0.png").read_bytes())
    _, again = open_training_data(moved, val_fraction=0.3, labels=["tulips", "zinnia", "roses"])
    expected = {name.replace("daisy", "zinnia") for name in held_out.names}
    assert {name for name in again.names if "roses" not in name} == {name for name in expected if "roses" not in name}


def test_half_an_image_is_rounded_up(tmp_path):
    _, held_out = open_training_data(write_classes(tmp_path / "data", a=5, b=15, c=25), val_fraction=0.1)
    assert np.bincount(held_out.labels).tolist() == [1, 2, 3]


def test_both_sides_of_a_split_have_every_class(tmp_path):
    root = write_classes(tmp_path / "data", a=2, b=9)
    for fraction in (0.01, 0.99):
        for part in open_training_data(root, val_fraction=fraction):
            assert set(part.labels) == {0, 1}
    (root / "a/0.png").unlink()
    with pytest.raises(UsageError, match="One image.*one image of a"):
        open_training_data(root)
    for fraction in (0, 1, -1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            open_examples(root).split(fraction)


def test_train_and_val_below_are_taken_as_they_are(tmp_path):
    write_classes(tmp_path / "data/train", a=3, b=2)
    write_classes(tmp_path / "data/test", a=1, b=1)
    train, val = open_training_data(tmp_path / "data")
    assert len(train) == 3 and len(val) == 2 and val.names[0].startswith("a/")

    write_classes(tmp_path / "data/Validation", b=4)
    train, val = open_training_data(tmp_path / "data")
    assert len(train) == 5 and val.labels.tolist() == [1] * 4 and val.class_names == ["a", "b"]
    for name in ("test", tmp_path / "data/test"):
        assert len(open_training_data(tmp_path / "data", val=name)[1]) == 2
    with pytest.raises(UsageError, match="holds train/ and Validation/"):
        open_examples(tmp_path / "data")

    write_classes(tmp_path / "data/Validation", c=1)
    with pytest.raises(UsageError, match=r"Validation and the 2 classes \(a, b\) do not agree: no class is called c"):
        open_training_data(tmp_path / "data")
    write_classes(tmp_path / "data/val", a=1)
    with pytest.raises(UsageError, match="holds Validation/, train/, val/"):
        open_training_data(tmp_path / "data")
    with pytest.raises(UsageError, match="Training images cannot be validation images too: train"):
        open_training_data(tmp_path / "data/train", val=f"{tmp_path}/data/../data/train")


def test_unreadable_images_are_listed_and_skipped(flowers):
    (flowers / "daisy/3.png").write_bytes(b"")
    (flowers / "roses/1.png").write_bytes((flowers / "roses/0.png").read_bytes()[:50])
    (flowers / "tulips/page.jpg").write_bytes(b"<html>")
    Image.new("L", (2, 1000)).save(flowers / "tulips/line.png")
    (flowers / "tulips/none.jpg").symlink_to("none")
    examples = open_examples(flowers)
    checked = examples.checked()
    assert len(examples) == 23 and len(checked) == 19 and len(examples.skipped) == 1
    reasons = {
        "tulips/none.jpg": "link",
        "daisy/3.png": "empty",
        "roses/1.png": "PNG image is truncated",
        "tulips/page.jpg": "Not an image",
        "tulips/line.png": "too long and narrow: 2 × 1000",
    }
    assert checked.skipped.keys() == reasons.keys()
    assert all(reason in checked.skipped[name] for name, reason in reasons.items())
    (flowers / "daisy/0.png").unlink()
    assert "No such file" in examples.checked().skipped["daisy/0.png"]
    with pytest.raises(ImageError, match="daisy/0.png"):
        examples.read(0)


def test_a_class_that_cannot_be_read_at_all(flowers):
    examples = open_examples(flowers)
    for file in (flowers / "roses").iterdir():
        file.write_bytes(b"rose")
    with pytest.raises(UsageError, match="No image of roses can be read. The first: roses/0.png: Not an image"):
        examples.checked()
    assert len(examples.checked(complete=False)) == 16
    with pytest.raises(UsageError, match="No image can"):
        examples.subset(examples.labels == 1).checked(complete=False)


def test_subsets(flowers):
    examples = open_examples(flowers)
    part = examples.subset([20, 0, 3])
    assert part.names == ["tulips/5.png", "daisy/0.png", "daisy/3.png"] and part.labels.tolist() == [2, 0, 0]
    assert part.read(0) == examples.read(20) and part.class_names == examples.class_names
    assert first_pixel(part, 0) == [0, 5, 7]
    assert part.subset(np.array([False, True, True])).names == ["daisy/0.png", "daisy/3.png"]
    assert len(examples.subset([])) == 0


def test_the_fingerprint_tells_whether_the_data_is_the_same(flowers, tmp_path):
    examples = open_examples(flowers)
    prints = {examples.fingerprint()}
    shutil.copytree(flowers, tmp_path / "copy/flowers")
    assert open_examples(tmp_path / "copy/flowers").fingerprint() in prints
    prints.add(open_examples(flowers, ["tulips", "roses", "daisy"]).fingerprint())
    prints.add(examples.subset(range(20)).fingerprint())
    (flowers / "daisy/1.png").write_bytes(b"longer" * 100)
    prints.add(open_examples(flowers).fingerprint())
    (flowers / "daisy/1.png").rename(flowers / "daisy/one.png")
    prints.add(open_examples(flowers).fingerprint())
    assert len(prints) == 5


def test_photographs(shared):
    train, val = open_training_data(shared / "data/flower_photos")
    assert (len(train), len(val)) == (800, 200) and np.bincount(val.labels).tolist() == [40] * 5
    assert train.class_names == ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    assert len(val.subset(range(0, 200, 20)).checked()) == 10


def test_a_dataset():
    images = [np.full((3 + i, 4, 3), i, np.uint8) for i in range(8)]
    dataset = tf.data.Dataset.from_generator(
        lambda: zip(images, [1, 2] * 4),
        output_signature=(tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((), tf.int32)),
    )
    examples = open_examples(dataset, ["x", "y"], labels_offset=1)
    assert examples.labels.tolist() == [0, 1] * 4 and examples.class_names == ["x", "y"]
    assert examples.names[3] == "element 3"
    assert all(np.array_equal(decode_image(examples.read(i)), image) for i, image in enumerate(images))
    train, val = open_training_data(dataset, val_fraction=0.25)
    assert len(train) == 6 and val.class_names == ["class 0", "class 1", "class 2"]
    assert len(open_training_data(dataset, val=dataset.take(3))[1]) == 3

    strings = tf.data.Dataset.from_tensor_slices(([examples.read(i) for i in range(8)], [0, 1] * 4))
    assert [open_examples(strings).read(i) for i in range(8)] == [examples.read(i) for i in range(8)]
    assert open_examples(strings).fingerprint() == open_examples(strings).fingerprint() != examples.fingerprint()


IMAGES = np.zeros((2, 2, 2, 3), np.uint8)


def slices(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)


@pytest.mark.parametrize(
    "dataset, message",
    [
        (lambda: slices(IMAGES, [0, 1]).batch(2), r"dataset.unbatch\(\).*\(None, 2, 2, 3\)"),
        (lambda: slices(["a", "b"], [0, 1]).batch(2), r"unbatch\(\)"),
        (lambda: slices(IMAGES, [0, 1]).repeat(), "never ends.*take"),
        (lambda: slices(IMAGES.astype(np.float32), [0, 1]), "uint8.*float32.*int32"),
        (lambda: slices(IMAGES, np.eye(2, dtype=int)), r"an integer.*\(2,\)"),
        (lambda: slices(np.zeros((2, 2, 2, 4), np.uint8), [0, 1]), r"\(2, 2, 4\)"),
        (lambda: slices(IMAGES), r"\(image, label\)"),
        (lambda: tf.data.Dataset.from_tensor_slices({"image": [b""], "label": [1]}), "as_supervised=True"),
        (lambda: slices(["a", "b"], [0, 1]).take(0), "empty"),
        (lambda: slices(["a", "b"], [0, 0]), "one class only, label 0"),
        (lambda: slices(["a", "b"], [0, -1]), "out of range.*: -1, element 1"),
        (lambda: slices(["a", "b"], [0, 2**40]), "out of range"),
        (lambda: slices(["a", "b"], [0, 1]).map(lambda a, b: (tf.io.read_file(a), b)), "failed at element 0"),
    ],
)
def test_datasets_that_cannot_be_held(dataset, message):
    with pytest.raises(UsageError, match=message):
        open_examples(dataset())
