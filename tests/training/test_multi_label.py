"""Several labels an image: a table to a run, its evaluation and its answers, beside scikit-learn."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
from histories import assert_same_history
from PIL import Image

import inception_tf as itf
from inception_tf.cli.main import main
from inception_tf.errors import UsageError
from inception_tf.evaluation import metrics
from inception_tf.evaluation.evaluate import evaluate
from inception_tf.images.sources import open_examples
from inception_tf.inference.engines import open_engine
from inception_tf.training.finetune import finetune
from inception_tf.training.recipe import Phase, Recipe

CLASSES = ["bright", "striped", "tinted"]
RECIPE = Recipe(phases=(Phase("all", 6, ("*",), 3e-3),), optimizer="adam", batch_size=8, augment="none")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV of 48 pictures, each of the eight combinations of three labels six times."""
    folder, rng = tmp_path_factory.mktemp("several"), np.random.default_rng(0)
    rows = []
    for i in range(48):
        names = [name for bit, name in enumerate(CLASSES) if i >> bit & 1]
        image = rng.integers(60, 100, (32, 32, 3))
        image += 60 * ("bright" in names) + 80 * ("striped" in names) * (np.arange(32) // 4 % 2)[:, None, None]
        image[:, :, 2] -= 50 * ("tinted" in names)
        Image.fromarray(image.astype("uint8")).save(folder / f"{i}.png")
        rows.append((f"{i}.png", "|".join(names)))
    with (folder / "all.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "tags"), *rows])
    return folder / "all.csv"


def run(table, out=None, recipe=RECIPE, **options):
    return finetune(None, table, recipe=recipe, out=out, network="lenet", log=lambda line: None, **options)


@pytest.fixture(scope="module")
def result(table, tmp_path_factory):
    return run(table, tmp_path_factory.mktemp("run") / "run")


def test_metrics_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for decimals in (1, 7):  # with equal scores, and without
        truth = rng.random(60) < 0.3
        score = np.round((truth * 0.3 + rng.random(60)) / 1.3, decimals).astype("float32")
        assert metrics.average_precision(truth, score) == pytest.approx(sklearn.average_precision_score(truth, score))
        best = max(sklearn.f1_score(truth, score >= level) for level in score)
        assert sklearn.f1_score(truth, score >= metrics.best_threshold(truth, score)) == pytest.approx(best)
    nowhere = np.zeros(60, bool)
    assert metrics.average_precision(nowhere, score) is None and metrics.best_threshold(nowhere, score) == 0.5


def test_the_table(table, tmp_path):
    examples = open_examples(table)
    assert examples.class_names == CLASSES and examples.labels.shape == (48, 3)
    assert [int(row @ [1, 2, 4]) for row in examples.labels] == [i % 8 for i in range(48)]
    train, held_out = examples.split(0.25)
    assert len(train) + len(held_out) == 48 and not set(train.names) & set(held_out.names)
    assert abs(held_out.class_counts - 6).max() <= 2 and not held_out.labels.any(axis=1).all()
    other = tmp_path / "other.csv"
    other.write_text(f"path,labels\n{table.parent}/0.png,\n{table.parent}/1.png, tinted ; bright;tinted\n")
    assert open_examples(other, CLASSES).labels.tolist() == [[0, 0, 0], [1, 0, 1]]
    with pytest.raises(UsageError, match=r"not among the 2 classes.*tinted"):
        open_examples(other, ["bright", "striped"])
    one = tmp_path / "one.csv"
    one.write_text("path,label\na.png,bright\n")
    with pytest.raises(UsageError, match="one label an image, others several"):
        open_examples([str(other), str(one)])


def test_a_run(result, table):
    """The losses are the binary cross-entropy of what the model answers; mAP and F1 are scikit-learn's."""
    sklearn = pytest.importorskip("sklearn.metrics")
    _, held_out = open_examples(table).split(0.2)
    card = result.model.card
    assert card.labels == CLASSES and card.options["classifier_activation"] == "sigmoid"
    engine = open_engine(result.path)
    found = evaluate(engine, held_out)
    truth = held_out.labels.astype(bool)
    assert np.array_equal(found.truth, truth)
    p = found.scores.astype("float64")
    assert result.best["val_loss"] == pytest.approx(-np.log(np.where(truth, p, 1 - p)).mean(), rel=1e-3)
    assert found.mean_ap == pytest.approx(sklearn.average_precision_score(truth, p)) == card.evaluation["mean_ap"]
    assert found.mean_ap > 0.8 and result.best["val_pr_auc"] == pytest.approx(found.mean_ap, abs=0.15)
    assert found.macro_f1 == pytest.approx(sklearn.f1_score(truth, p >= np.array(card.thresholds), average="macro"))
    assert found.macro_f1 >= sklearn.f1_score(truth, p >= 0.5, average="macro")
    report = json.loads((result.path / "report/evaluation.json").read_text())
    assert report["mean_ap"] == pytest.approx(found.mean_ap) and "mAP" in str(found) and "top" not in str(found)
    assert "mAP" in found._repr_html_() and "val_pr_auc" in str(result) and str(result) == repr(result)


@pytest.mark.slow
def test_a_run_that_is_interrupted_goes_on(result, table, tmp_path):
    """Within an epoch, with the area's counts so far."""

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(table, tmp_path / "run", save_steps=1, callbacks=[Stop()])
    again = run(table, tmp_path / "run", save_steps=1)
    assert_same_history(again.history, result.history)


def test_answers(result, table, tmp_path, capsys):
    """Labels from their thresholds on; an export carries them, and answers the same."""
    images = [table.parent / f"{i}.png" for i in range(8)]
    answers, _ = itf.classify(result.path, images)
    thresholds = result.model.card.thresholds
    pixels = np.concatenate([open_engine(result.path).preprocessing(path) for path in images])
    probabilities = np.asarray(result.model.predict(pixels))
    for row, answer in zip(probabilities, answers.values()):
        assert {i for i, _, _ in answer} == set(np.flatnonzero(row >= thresholds))
    itf.to_onnx(result.model, tmp_path / "m.onnx")
    exported, _ = itf.classify(tmp_path / "m.onnx", images)
    assert [[i for i, _, _ in row] for row in exported.values()] == [[i for i, _, _ in row] for row in answers.values()]
    assert main(["evaluate", str(tmp_path / "m.onnx"), "--data", str(table), "--csv", str(tmp_path / "p.csv")]) == 0
    assert "mAP" in capsys.readouterr().out
    header, *rows = csv.reader((tmp_path / "p.csv").open())
    assert header[:4] == ["image", "labels", "predicted", "score of bright"] and rows[7][1] == "|".join(CLASSES)
    with pytest.raises(UsageError, match="leave out --top"):
        itf.classify(result.path, images, top=2)


def test_what_does_not_go_together(result, table, pictures, tmp_path):
    for options in ({"mixup": 0.2}, {"class_weights": "balanced"}):
        with pytest.raises(UsageError, match="mixup and class_weights are for one label an image"):
            run(table, recipe=dataclasses.replace(RECIPE, **options))
    with pytest.raises(UsageError, match="gives an image several labels. Received: data with one label"):
        evaluate(result.path, pictures)
    (tmp_path / "val.csv").write_text("path,label\na.png,bright\nb.png,striped\n")
    with pytest.raises(UsageError, match="Give both alike"):
        run(table, val=tmp_path / "val.csv")


@pytest.mark.slow
def test_weights_of_several_labels_go_on_with_one(result, pictures):
    """Through a softmax, without thresholds; and on the same table, its classes in another order."""
    one = finetune(result.model, pictures, recipe=RECIPE, new_head=True, log=lambda line: None)
    assert one.model.card.thresholds is None and one.model.card.options["classifier_activation"] == "softmax"
    assert "val_accuracy" in one.best


@pytest.mark.slow
def test_classes_in_another_order(result, table):
    """The head keeps its order, so the run begins as good as the other ended."""
    recipe = dataclasses.replace(RECIPE, phases=(Phase("all", 1, ("*",), 1e-6),))
    again = finetune(result.model, table, recipe=recipe, labels=CLASSES[::-1], log=lambda line: None)
    assert again.model.card.labels == CLASSES and again.best["val_loss"] < 1.2 * result.best["val_loss"]
