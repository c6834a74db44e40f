"""Evaluation: against scikit-learn, and an expected calibration error written down from Guo et al.'s formula."""

import csv
import io
import itertools
import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sklearn

from inception_tf import tables
from inception_tf.errors import CheckpointError, ImageError, UsageError
from inception_tf.evaluation.evaluate import evaluate, match_classes, write_predictions
from inception_tf.images.examples import Examples
from inception_tf.images.labels import imagenet_labels, imagenet_wnids
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.images.sources import open_examples
from inception_tf.inference.engines import Engine
from inception_tf.models.card import Card, Weights

LENET = Preprocessing("lenet").to_config()
NAMES = ["ant", "bee", "cat", "dog", "eel", "fly", "gnu"]


class Oracle(Engine):
    """Answers image i, which is gray of value i, with row i of `scores`, and remembers the batches it was given."""

    def __init__(self, scores, labels=None, card=None):
        card = card or Card("lenet", {"classes": scores.shape[-1]}, preprocessing=LENET)
        super().__init__("oracle", card, labels)
        self.scores, self.batches = scores, []

    def __call__(self, images):
        assert images.dtype == np.float32 and images.shape[1:] == (28, 28, 1)
        self.batches.append(len(images))
        rows = np.rint(images[:, 14, 14, 0] * 128 + 128).astype(int)
        return self.scores[np.minimum(rows, len(self.scores) - 1)]  # a batch may be filled up with gray 128


class Grays(Examples):
    """Image i is gray of value i."""

    def __init__(self, labels, class_names=NAMES, names=None, skipped=None):
        super().__init__(
            range(len(labels)), labels, class_names, names or [f"{i}.png" for i in range(len(labels))], skipped
        )

    def read(self, index):
        return gray(index)


def gray(value):
    file = io.BytesIO()
    Image.new("L", (28, 28), value).save(file, "PNG")
    return file.getvalue()


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def answers():
    """(truth, logits, Evaluation) of 200 images; no image is an eel, and no answer a fly."""
    random = np.random.default_rng(7)
    truth = random.choice([0, 0, 0, 1, 2, 3, 5, 6], 200)
    logits = (random.normal(size=(200, 7)) * 2).astype(np.float32)
    logits[np.arange(200), truth] += 3
    logits[:, 5] = -4
    return truth, logits, evaluate(Oracle(softmax(logits), NAMES), Grays(truth), batch=32)


def test_agrees_with_scikit_learn(answers):
    truth, logits, evaluation = answers
    scores, classes = softmax(logits), range(7)
    predicted = scores.argmax(axis=1)
    assert 0.4 < evaluation.top1 < 0.8 and evaluation.top1 == sklearn.accuracy_score(truth, predicted)
    assert evaluation.top5 == sklearn.top_k_accuracy_score(truth, scores, k=5, labels=classes)
    assert evaluation.log_loss == pytest.approx(sklearn.log_loss(truth, scores, labels=classes), rel=1e-6)
    assert np.array_equal(evaluation.confusion, sklearn.confusion_matrix(truth, predicted, labels=classes))
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(
        truth, predicted, labels=classes, zero_division=np.nan
    )
    for i, scores in enumerate(evaluation.classes):
        assert (scores.name, scores.support) == (NAMES[i], support[i])
        for mine, theirs in zip((scores.precision, scores.recall, scores.f1), (precision[i], recall[i], f1[i])):
            assert mine == pytest.approx(theirs) if mine is not None else np.isnan(theirs)
    eel, fly = evaluation.classes[4], evaluation.classes[5]
    assert eel.recall is None and eel.precision == 0  # no images, but some are called so
    assert fly.precision is None and fly.recall == fly.f1 == 0


def test_calibration(answers):
    """Guo et al.: the sum over bins B of |B|/n · |acc(B) - conf(B)|, B the interval ((m-1)/M, m/M]."""
    truth, logits, evaluation = answers
    confidence, correct = softmax(logits).max(axis=1).astype(float), softmax(logits).argmax(axis=1) == truth
    bins, error = evaluation.calibration, 0
    assert len(bins) == 15 and sum(bin.count for bin in bins) == 200 and bins[0].count == 0
    for m, bin in enumerate(bins, start=1):
        inside = ((m - 1) / 15 < confidence) & (confidence <= m / 15)
        assert bin.count == inside.sum() and (bin.low, bin.high) == pytest.approx(((m - 1) / 15, m / 15))
        if not bin.count:
            assert bin.accuracy is None and bin.confidence is None
            continue
        means = correct[inside].mean(), confidence[inside].mean()
        assert (bin.accuracy, bin.confidence) == pytest.approx(means)
        error += bin.count / 200 * abs(means[0] - means[1])
    assert evaluation.calibration_error == pytest.approx(error, abs=1e-6)


def test_every_image(answers, tmp_path):
    truth, logits, evaluation = answers
    scores = softmax(logits)
    order = np.argsort(-scores, axis=1)
    write_predictions(evaluation, tmp_path / "predictions.csv")
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text("utf-8").splitlines()))
    assert len(rows) == len(evaluation) == 200
    for i, row in enumerate(rows):
        assert row["image"] == f"{i}.png"
        assert (row["label"], row["predicted"]) == (NAMES[truth[i]], NAMES[order[i, 0]])
        assert float(row["score"]) == pytest.approx(scores[i].max()) and int(row["label_rank"]) >= 1
        assert float(row["label_score"]) == pytest.approx(scores[i, truth[i]])
        assert order[i, int(row["label_rank"]) - 1] == truth[i]
    errors = evaluation.errors
    assert (evaluation.predicted[errors] != truth[errors]).all() and len(errors) == (evaluation.rank > 1).sum()
    assert (np.diff(evaluation.score[errors]) <= 0).all()
    with pytest.raises(UsageError, match="exists"):
        write_predictions(evaluation, tmp_path / "predictions.csv")


def test_names_of_any_letters_are_written(tmp_path):
    names = ['día, "1".png', "\udcff.png"]  # the second is no text in any encoding
    evaluation = evaluate(Oracle(np.eye(2, dtype=np.float32), ["día", "noche"]), Grays([0, 1], ["día", "noche"], names))
    write_predictions(evaluation, tmp_path / "predictions.csv")
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text("utf-8").splitlines()))
    assert [row["image"] for row in rows] == ['día, "1".png', "\\udcff.png"] and rows[0]["label"] == "día"


def test_ties():
    scores = softmax(np.array([[3, 1, -2], [0, 0, 0], [0, 0, 0]], np.float32))
    evaluation = evaluate(Oracle(scores), Grays([1, 1, 0], ["class 0", "class 1", "class 2"]))
    assert evaluation.score[0] == scores[0, 0] and evaluation.score[1] == pytest.approx(1 / 3)
    assert evaluation.rank.tolist() == [2, 2, 1]
    assert evaluation.top5 == 1 and "top5" not in evaluation.to_json()


def test_percentages_round_half_up():
    fractions = (0.8625, 0.8575, 0.57251, 0.0005, 1, 0)
    assert [tables.percent(f) for f in fractions] == ["86.3 %", "85.8 %", "57.3 %", "0.1 %", "100.0 %", "0.0 %"]
    assert tables.percent(None) == "–" and tables.percent(0.125, 0) == "13 %"


def test_json_is_strict(answers):
    truth, _, evaluation = answers
    data = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert data["images"] == 200 and data["top1"] == evaluation.top1 and data["published"] is None
    assert np.array_equal(data["confusion"], evaluation.confusion)
    fly = {"name": "fly", "support": int((truth == 5).sum()), "precision": None, "recall": 0.0, "f1": 0.0}
    assert data["classes"][5] == fly
    sure = evaluate(Oracle(np.eye(2, dtype=np.float32), ["a", "b"]), Grays([1, 0], ["a", "b"]))
    assert 15 < json.loads(json.dumps(sure.to_json(), allow_nan=False))["log_loss"] < 17  # not infinity


def test_text(answers):
    text = str(answers[2])
    assert "ant" in text and "eel" not in text.split("(")[0] and "1 of 7 classes have no images" in text
    assert f"200 images: top-1 {100 * answers[2].top1:.1f} %, top-5 " in text
    many = [f"c{i}" for i in range(60)]
    scores = np.eye(60, dtype=np.float32)
    scores[[7, 8]] = scores[[8, 7]]
    text = str(evaluate(Oracle(scores, many), Grays(range(60), many)))
    assert "the 20 of 60 classes with the lowest F1" in text and "\nc7 " in text and "\nc59 " not in text


def test_html(answers):
    html = answers[2]._repr_html_()
    assert html.startswith("<table>") and ">ant<" in html and "200 images: top-1 " in html
    odd = evaluate(Oracle(np.eye(2, dtype=np.float32), ["<b>", "c"]), Grays([0, 1], ["<b>", "c"]))._repr_html_()
    assert "<b>" not in odd and "&lt;b&gt;" in odd


def test_images_that_cannot_be_read_are_left_out(tmp_path, monkeypatch):
    for name in NAMES[:2]:
        (tmp_path / name).mkdir()
    for i in range(6):
        (tmp_path / NAMES[i % 2] / f"{i}.png").write_bytes(gray(i))
    (tmp_path / "ant" / "2.png").write_bytes(b"")
    (tmp_path / "bee" / "3.png").write_bytes(gray(3)[:-30])
    (tmp_path / "bee" / "gone.png").symlink_to(tmp_path / "nowhere")
    scores = softmax(np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32))
    examples = open_examples(tmp_path)
    evaluation = evaluate(Oracle(scores, NAMES), examples, batch=4)
    assert set(evaluation.skipped) == {"ant/2.png", "bee/3.png", "bee/gone.png"}
    assert evaluation.names == ["ant/0.png", "ant/4.png", "bee/1.png", "bee/5.png"]
    assert evaluation.predicted.tolist() == scores[[0, 4, 1, 5]].argmax(axis=1).tolist()
    assert [examples.names[i] for i in evaluation.index] == evaluation.names
    assert "could not be read: 3\n" in str(evaluation) and "ant/2.png: The file is empty." in str(evaluation)
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr("inception_tf.evaluation.evaluate.time", clock)
    assert evaluate(Oracle(scores, NAMES), examples, batch=6).images_per_second == 4 / 2  # begun, the batch, the end
    for path in tmp_path.glob("*/*.png"):
        path.unlink()
    with pytest.raises(ImageError, match="Not one of the 7 images could be read"):
        evaluate(Oracle(scores, NAMES), examples)


def test_the_next_batch_is_decoded_while_the_network_runs():
    read, beyond = [], threading.Event()

    class Watched(Grays):
        def read(self, index):
            read.append(index)
            if index == 8:
                beyond.set()
            return super().read(index)

    class Waiting(Oracle):
        def __call__(self, images):
            if not self.batches:
                self.ahead = beyond.wait(20)
                self.most = max(read)
            return super().__call__(images)

    engine = Waiting(np.eye(7, dtype=np.float32)[np.arange(200) % 7], NAMES)
    evaluation = evaluate(engine, Watched(np.arange(200) % 7), batch=8)
    assert engine.ahead and engine.most < 40  # ahead, but not of everything
    assert evaluation.top1 == 1 and set(engine.batches) == {8}
    assert sorted(read) == list(range(200)) and evaluation.index.tolist() == list(range(200))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers(value):
    scores = np.full((4, 3), 1 / 3, np.float32)
    scores[1, 0] = scores[2] = value
    with pytest.raises(CheckpointError, match="NaN or infinity to 1.png and 1 more"):
        evaluate(Oracle(scores, NAMES[:3]), Grays([0, 1, 2, 0], NAMES[:3]))


def test_wrong_use():
    scores = softmax(np.zeros((4, 3), np.float32))
    with pytest.raises(UsageError, match="batch must be at least 1"):
        evaluate(Oracle(scores, NAMES[:3]), Grays([0, 1], NAMES[:3]), batch=0)
    with pytest.raises(UsageError, match=r"Expected a classifier.*\(2, 5, 5, 3\)"):
        evaluate(Oracle(np.zeros((4, 5, 5, 3), np.float32), NAMES[:3]), Grays([0, 1], NAMES[:3]))
    with pytest.raises(UsageError, match=r"1.png has the label 7. Expected 0 to 2.*labels_offset"):
        evaluate(Oracle(scores, NAMES[:3]), Grays([0, 7], NAMES[:3]))
    with pytest.raises(UsageError, match="which has no name"):
        evaluate(Oracle(scores, NAMES[:3]), Grays([0, 1], ["class 0", "ant"]))


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (["b", "a"], ["a", "b"], [1, 0]),
        (["c", "a"], ["a", "b", "c"], [2, 0]),
        (["class 0", "b"], ["a", "b", "c"], [0, 1]),
        (["class 0", "class 1"], ["a", "b", "c"], [0, 1]),
        (["class 0", "c", "b"], ["a", "b", "c"], [-1, 2, 1]),
        (["x", "y"], None, [0, 1]),
        (["0", "1", "10", *"23456789"], None, [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]),
        (["class 1", "class 0"], ["class 0", "class 1"], [1, 0]),
    ],
)
def test_classes_are_matched(names, labels, expected):
    labels = labels or [f"class {i}" for i in range(len(names))]
    assert match_classes(names, labels).tolist() == expected


def test_imagenet_classes_are_matched():
    labels, some = imagenet_labels(), ["n01443537", "n01440764", "n15075141"]
    assert match_classes(labels, labels).tolist() == list(range(1001))
    assert match_classes(some, labels).tolist() == [2, 1, 1000]
    assert match_classes(some, imagenet_labels(False)).tolist() == [1, 0, 999]
    assert match_classes(sorted(imagenet_wnids(False)), labels).tolist() == list(range(1, 1001))
    assert match_classes(imagenet_labels(False), labels).tolist() == list(range(1, 1001))  # "crane" is there twice
    with pytest.raises(UsageError, match="several classes called crane"):
        match_classes(["crane", "hen"], labels)
    assert match_classes(["class 0", *imagenet_labels(False)], imagenet_labels(False)).tolist() == list(range(-1, 1000))
    # As records of Slim's ImageNet name them, of which some classes have no image.
    texts = [name if i in (1, 2, 135, 900) else f"class {i}" for i, name in enumerate(labels[:901])]
    assert match_classes(texts, labels).tolist() == list(range(901))


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (["ant", "bat"], ["ant", "bee"], "no bat; the data has no bee"),
        (["ant", "bee", "bat"], ["ant", "bee"], r"no bat\.$"),
        (["x", "y"], [f"class {i}" for i in range(5)], "5 classes without names.*x, y.*--labels"),
        ([f"class {i}" for i in range(6)], list("abcde"), "labels up to 5.*--labels-offset 1"),
        ([f"class {i}" for i in range(1001)], imagenet_labels(False), "labels up to 1000.*--labels-offset 1"),
        (["daisy", "roses"], imagenet_labels(), "no roses; the data has no background"),
    ],
)
def test_other_classes(names, labels, message):
    with pytest.raises(UsageError, match=message):
        match_classes(names, labels)


def test_the_published_figure():
    weights = Weights("inception_v3_2016_08_28.tar.gz", complete=True)
    card = Card("inception_v3", {"classes": 1001}, preprocessing=LENET, weights=weights)
    scores, labels = np.eye(1001, dtype=np.float32)[:4], imagenet_labels()
    evaluation = evaluate(Oracle(scores, None, card), Grays([0, 1, 2, 4], labels))
    assert "top-1 75.0 % (published 78.0 %), top-5 100.0 % (published 93.9 %)" in str(evaluation)
    assert evaluation.to_json()["published"]["top1"] == pytest.approx(0.78)
    two_of_them, own = ["tench, Tinca tinca", "cock"], [f"mine {i}" for i in range(1001)]
    assert evaluate(Oracle(scores, None, card), Grays([0, 0, 0, 0], two_of_them)).published is None
    assert evaluate(Oracle(scores, own, card), Grays([0, 1], own)).published is None
    incomplete, fine_tuned = replace(weights, complete=False), replace(weights, fine_tuned_on=9)
    for other in (incomplete, fine_tuned, Weights("model.ckpt-20000", complete=True), Weights()):
        engine = Oracle(scores, None, replace(card, weights=other))
        assert evaluate(engine, Grays([0, 1], labels)).published is None
