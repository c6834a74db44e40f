import csv

import numpy as np
import pytest
from PIL import Image

from inception_tf.errors import UsageError
from inception_tf.images.labels import decode_predictions, imagenet_labels, imagenet_wnids, load_labels

# From keras.applications' imagenet_class_index.json, which counts without the background.
KNOWN = {0: ("n01440764", "tench"), 385: ("n02504013", "Indian elephant"), 652: ("n03763968", "military uniform")}


def test_imagenet():
    assert len(imagenet_labels()) == len(imagenet_wnids()) == 1001
    assert (imagenet_wnids()[0], imagenet_labels()[0]) == ("", "background")
    assert imagenet_labels(background=False) == imagenet_labels()[1:]
    assert imagenet_wnids(background=False) == imagenet_wnids()[1:]
    assert imagenet_wnids()[1:] == sorted(set(imagenet_wnids()[1:])), "the ids are unique and define the order"
    for index, (wnid, name) in KNOWN.items():
        assert imagenet_wnids(False)[index] == wnid
        assert imagenet_labels(False)[index].split(", ")[0] == name


def test_imagenet_is_the_reference(shared):
    with (shared / "reference" / "imagenet_labels.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["name"] for row in rows] == imagenet_labels()
    assert [row["wnid"] for row in rows] == imagenet_wnids()
    assert [int(row["label"]) for row in rows] == list(range(1001))


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "labels.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    "content",
    [
        "daisy\ndandelion\nroses\n",
        "daisy\r\ndandelion\r\nroses",
        "\ufeffdaisy\ndandelion\nroses\n\n",
        "0:daisy\n1:dandelion\n2:roses\n",
        "2: roses\n0: daisy\n1: dandelion\n",
    ],
)
def test_load_labels(write, content):
    assert load_labels(write(content)) == ["daisy", "dandelion", "roses"]


def test_load_other_names(write):
    assert load_labels(write("0:ratio 4:3\n1:Gänseblümchen\n")) == ["ratio 4:3", "Gänseblümchen"]
    assert load_labels(write("a: b\nc: d\n")) == ["a: b", "c: d"]
    for names in (imagenet_labels(), imagenet_labels(background=False)):
        assert load_labels(write("\n".join(names))) == names
        assert load_labels(write("".join(f"{i}:{name}\n" for i, name in enumerate(names)))) == names


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("daisy\n\nroses\n", "line 2 is blank"),
        ("daisy\nroses\ndaisy\n", "names twice: daisy"),
        ("0:daisy\n0:roses\n", "indices 0 to 1, but 0 comes twice"),
        ("0:daisy\n2:roses\n", "indices 0 to 1, but 1 is left out"),
        ("1:daisy\n2:roses\n", "0 is left out"),
        ("0:daisy\n999999999999:roses\n", "1 is left out"),
        ("0:daisy\n1:roses\ntulips\n", "line 3, 'tulips'"),
        ("daisy\n1:roses\n", "line 2, '1:roses'"),
        (b"a\0b\n", "binary data"),
        (b"\xff\xfe\x00", "binary data"),
    ],
)
def test_bad_label_files(write, content, message):
    with pytest.raises(UsageError, match=message):
        load_labels(write(content))


def test_not_a_label_file(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for path, message in [("absent", "Cannot read.*No such file"), (".", "Cannot read"), ("a.png", "binary data")]:
        with pytest.raises(UsageError, match=message):
            load_labels(tmp_path / path)


def test_decode_imagenet():
    scores = np.full((2, 1001), 1e-4, np.float32)
    scores[0, [653, 386, 0]] = 0.6, 0.25, 0.1
    scores[1, 1] = 0.9
    first, second = decode_predictions(scores, top=3)
    assert [row[:2] for row in first] == [
        ("n03763968", "military uniform"),
        ("n02504013", "Indian elephant, Elephas maximus"),
        ("", "background"),
    ]
    assert [row[2] for row in first] == pytest.approx([0.6, 0.25, 0.1])
    assert second[0][0] == "n01440764" and second[1][0] == "", "equal scores come in class order"
    assert [len(rows) for rows in decode_predictions(scores)] == [5, 5]
    # Without background every class is one lower; the names stay.
    assert decode_predictions(scores[:, 1:], top=2)[0] == first[:2]


def test_decode_with_labels(write):
    scores = [[0.1, 0.7, 0.2]]
    expected = [[(1, "b", 0.7), (2, "c", 0.2), (0, "a", 0.1)]]
    assert decode_predictions(scores, labels=["a", "b", "c"]) == expected
    assert decode_predictions(scores, labels=write("a\nb\nc\n")) == expected
    assert decode_predictions(np.eye(1000), labels=[str(i) for i in range(1000)])[7][0] == (7, "7", 1.0)


def test_decode_the_dictionaries_models_return():
    for key in ("Predictions", "probabilities"):
        assert decode_predictions({"logits": None, key: [[0, 1.0]]}, 1, ["a", "b"]) == [[(1, "b", 1.0)]]
    with pytest.raises(UsageError, match=r"Received: \['logits'\]"):
        decode_predictions({"logits": [[0, 1.0]]}, labels=["a", "b"])


@pytest.mark.parametrize(
    "preds, options, message",
    [
        (np.zeros(1001), {}, r"Received: \(1001,\)$"),
        (np.zeros((1, 1, 1, 1001)), {}, r"Received: \(1, 1, 1, 1001\)$"),
        (np.zeros((1, 1008)), {}, "Pass labels=.*1008 classes.*2015"),
        (np.zeros((1, 5)), {}, "Pass labels=.*5 classes"),
        (np.zeros((1, 5)), {"labels": list("abcd")}, "background class that the labels lack.*Received: 4 labels"),
        (np.zeros((1, 5)), {"labels": list("abcdef")}, "5 classes. Received: 6 labels"),
        (np.zeros((1, 1001)), {"top": 0}, "Received: 0"),
        (np.full((1, 1001), np.nan), {}, "NaN"),
    ],
)
def test_wrong_predictions(preds, options, message):
    with pytest.raises(UsageError, match=message):
        decode_predictions(preds, **options)
