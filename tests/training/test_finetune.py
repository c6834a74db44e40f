"""Whole runs of a small network, interrupted and resumed."""

import contextlib
import dataclasses
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from histories import assert_same_history, read_rows
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

import inception_tf as itf
from inception_tf.errors import InceptionTFError, TrainingError, UsageError
from inception_tf.evaluation.evaluate import evaluate
from inception_tf.images.examples import Examples
from inception_tf.images.sources import open_examples
from inception_tf.inference.engines import open_engine
from inception_tf.training import phases
from inception_tf.training.finetune import _examples, _started, finetune
from inception_tf.training.phases import PhaseBuilder, class_factors
from inception_tf.training.recipe import Phase, Recipe
from inception_tf.training.ridge import PENALTIES
from inception_tf.training.run import Run
from inception_tf.training.state import read_position

HEADS, EVERYTHING = Phase("heads", 1, ("heads",), 1e-3), Phase("all", 3, ("*",), 1e-3)
RIDGE = Phase("heads", 1, ("heads",), 1e-3, "none", ridge=True)


def make_recipe(*phases, **options):
    return Recipe(phases=phases, **{"optimizer": "adam", "batch_size": 8, **options})


RECIPE = make_recipe(HEADS, EVERYTHING, seed=1)


def run(data, recipe=RECIPE, out=None, weights=None, **arguments):
    arguments = {"network": "lenet", "log": lambda line: None, "report": False, **arguments}
    return finetune(weights, data, recipe=recipe, out=out, **arguments)


@pytest.fixture(scope="module")
def unbroken(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "run"
    lines = []
    result = run(pictures, out=out, report=True, log=lines.append, command=["inception-tf", "finetune", "a b"])
    result.lines = lines
    return result


def values(model):
    return [np.asarray(variable) for variable in model.weights]


def test_learns(unbroken):
    assert [row["phase"] for row in unbroken.history] == ["heads", "all", "all", "all"]
    assert [row["step"] for row in unbroken.history] == [3, 6, 9, 12]
    losses = [row["loss"] for row in unbroken.history]
    assert losses[-1] < losses[0]
    assert unbroken.best["val_accuracy"] > 0.6
    assert unbroken.best in unbroken.history


def test_the_runs_directory(unbroken, pictures):
    out = unbroken.path
    assert read_rows(out) == unbroken.history
    assert (out / "command.txt").read_text() == "inception-tf finetune 'a b'\n"
    assert (out / "labels.txt").read_text() == "blank\nchecked\nstriped\n"
    assert Recipe.from_dict(yaml.safe_load((out / "config.yaml").read_text())["recipe"]).batch_size == 8
    names = {path.name for path in (out / "report").iterdir()}
    assert names == {"curves.png", "confusion.png", "confident_errors.png", "evaluation.json", "predictions.csv"}
    assert any("val_accuracy" in line for line in unbroken.lines)


def test_the_model_is_all_that_classify_and_export_need(unbroken, pictures):
    engine = open_engine(unbroken.path)
    assert engine.labels == ["blank", "checked", "striped"]
    assert engine.preprocessing.kind == "lenet"
    measured, best = unbroken.model.card.evaluation, unbroken.best
    assert measured == {
        "data": pictures.name,
        "images": 6,
        "accuracy": round(6 * best["val_accuracy"]) / 6,
        "loss": round(best["val_loss"], 6),
        "step": best["step"],
    }
    _, held_out = halves(pictures)
    assert evaluate(engine, held_out).top1 == pytest.approx(unbroken.best["val_accuracy"], abs=1e-6)
    assert evaluate(engine, held_out).log_loss == pytest.approx(unbroken.best["val_loss"], rel=1e-4, abs=1e-6)
    for ours, theirs in zip(values(unbroken.model), values(engine.model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def halves(pictures):
    return open_examples(pictures).split(0.2)


class Broken(Exception):
    pass


class BreakAt(keras.callbacks.Callback):
    """Breaks a run off after a step, before the state is saved."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise Broken


def break_at(step, data, recipe, out, **arguments):
    with pytest.raises(Broken):
        run(data, recipe, out, callbacks=[BreakAt(step)], **arguments)


def read_events(file):
    events = tf.compat.v1.train.summary_iterator(str(file))
    return {(v.tag, event.step): float(tf.make_ndarray(v.tensor)) for event in events for v in event.summary.value}


def test_events_for_tensorboard(unbroken, pictures, tmp_path):
    """One file each of training and validation, resumed or not, that overlay as those of Keras's callback do."""
    out = tmp_path / "run"
    break_at(8, pictures, RECIPE, out, tensorboard=True)
    history = run(pictures, out=out, tensorboard=True).history
    (train,), (validation,) = ([*(out / "tensorboard" / part).iterdir()] for part in ("train", "validation"))
    train, validation = read_events(train), read_events(validation)
    for epoch, row in enumerate(history):
        for events, key in ((train, "accuracy"), (validation, "val_accuracy")):
            assert events["epoch_accuracy", epoch] == pytest.approx(row[key])
            assert events["evaluation_accuracy_vs_iterations", row["step"]] == pytest.approx(row[key])
    assert set(validation) <= set(train) and ("epoch_learning_rate", 3) in train


@pytest.mark.parametrize("step", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (0, 1, 3, 4, 8, 11, 12))])
def test_resumes_where_it_was(unbroken, pictures, tmp_path, step):
    """Broken off at a step, a while after the state was saved, a run ends as one that was not."""
    out = tmp_path / "run"
    if step:
        break_at(step, pictures, RECIPE, out, save_steps=2)
        assert read_position(out / "state.npz").total in (step, step - 1, step - 2)
    result = run(pictures, out=out, save_steps=2)
    assert_same_history(result.history, unbroken.history)
    for ours, expected in zip(values(result.model), values(unbroken.model), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_a_finished_run_is_left_as_it_is(unbroken, pictures, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken.path, out)
    before = {path.name: path.stat().st_mtime for path in out.iterdir() if path.suffix in (".keras", ".npz")}
    result = run(pictures, out=out)
    assert result.history == unbroken.history
    assert {path.name: path.stat().st_mtime for path in out.iterdir() if path.name in before} == before


def test_more_epochs_go_on_from_the_last_step(unbroken, pictures, tmp_path):
    """A run of fewer epochs, extended, is the run of more."""
    short = make_recipe(HEADS, dataclasses.replace(EVERYTHING, epochs=1), seed=1)
    run(pictures, short, tmp_path / "run")
    extended = run(pictures, out=tmp_path / "run")
    assert_same_history(extended.history, unbroken.history)
    for ours, expected in zip(values(extended.model), values(unbroken.model), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_first_phase_can_be_extended_too(unbroken, pictures, tmp_path):
    run(pictures, make_recipe(HEADS, seed=1), tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "phase")
    assert_same_history(run(pictures, out=tmp_path / "phase").history, unbroken.history)  # with a phase more

    more = make_recipe(dataclasses.replace(HEADS, epochs=3), dataclasses.replace(EVERYTHING, epochs=4), seed=1)
    with pytest.raises(UsageError, match="heads of this run is over, and all is not"):
        break_at(5, pictures, RECIPE, tmp_path / "run")
        run(pictures, more, tmp_path / "run")
    assert "epochs: 4" not in (tmp_path / "run" / "config.yaml").read_text()
    break_at(2, pictures, more, tmp_path / "phase")
    history = run(pictures, more, tmp_path / "phase").history
    expected = [("heads", 1), *(("all", i) for i in (1, 2, 3)), ("heads", 2), ("heads", 3), ("all", 4)]
    assert [(row["phase"], row["epoch"]) for row in history] == expected
    assert [row["step"] for row in history] == [3 * i for i in range(1, 8)]


def test_patience_ends_a_phase(pictures):
    """The next one follows."""
    recipe = make_recipe(Phase("all", 9, ("*",), 1e-30), HEADS, patience=2, optimizer="sgd", augment="none")
    history = run(pictures, recipe).history
    assert [(row["phase"], row["epoch"]) for row in history] == [*(("all", i) for i in (1, 2, 3)), ("heads", 1)]


def test_a_wrong_option_leaves_nothing(pictures, tmp_path):
    """Whatever is refused is refused before anything is written, so that the corrected command begins."""
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    for file in (data / "blank").iterdir():
        file.write_bytes(b"none of them an image")
    out = tmp_path / "run"
    for broken in (
        {"recipe": make_recipe(Phase("all", 1, ("Mixd_7*",)))},
        {"recipe": make_recipe(HEADS, freeze=("*",))},
        {"recipe": make_recipe(HEADS, optimizer_options={"momentun": 0.9})},
        {"recipe": make_recipe(HEADS, class_weights={"plaid": 2.0})},
        {"recipe": make_recipe(HEADS, batch_size=31)},
        {"recipe": make_recipe(HEADS, train_scale=0.5)},  # LeNet's weights are of one size
        {"recipe": make_recipe(dataclasses.replace(RIDGE, augment="full"))},
        {"recipe": make_recipe(Phase("all", 1, ridge=True), augment="none")},
        {"recipe": make_recipe(RIDGE, freeze=["*biases"])},
        {"data": data},
        {"recipe": make_recipe(HEADS, accumulate=4)},  # of an epoch of 3 steps
        {"callbacks": ["TensorBoard"]},
        {"save_seconds": float("nan")},
        {"save_steps": 0},
        {"epochs": 3},
        {"recipe": {"batch": 8}},
    ):
        with pytest.raises(UsageError):
            run(**{"data": pictures, "recipe": RECIPE, "out": out, **broken})
        assert not out.exists(), broken


def test_another_configuration(unbroken, pictures, tmp_path):
    with pytest.raises(UsageError, match=r"another configuration(.|\n)*  recipe.batch_size: 8, now 4\n  recipe.seed"):
        run(pictures, make_recipe(HEADS, EVERYTHING, batch_size=4, seed=2), unbroken.path)
    wide = Phase("all", 3, tuple(f"conv{i}*" for i in (1, 2)) + ("fc3", "fc4", "*"), 1e-3)
    with pytest.raises(UsageError, match=r"phases\[1\].train: .*now .*conv2.*fc4"):
        run(pictures, make_recipe(HEADS, wide, seed=1), unbroken.path)
    with pytest.raises(UsageError, match=r"phases\[1\].epochs: 3, now 2$"):
        run(pictures, make_recipe(HEADS, dataclasses.replace(EVERYTHING, epochs=2), seed=1), unbroken.path)
    more = tmp_path / "more"
    shutil.copytree(pictures, more)
    shutil.copy(more / "blank" / "0.png", more / "blank" / "another.png")
    with pytest.raises(UsageError, match="training.images: 30, now 31|validation.images|fingerprint"):
        run(more, out=unbroken.path)


def test_a_directory_of_something_else(pictures, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match="is no run of this library"):
        run(pictures, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_processes_in_one_directory(tmp_path):
    locked = pytest.raises(UsageError, match="Another process is training in")
    with contextlib.closing(Run(tmp_path / "run", {"batch": 8})) as first, locked:
        first.begin()
        Run(tmp_path / "run", {"batch": 8}).begin()
    Run(tmp_path / "run", {"batch": 8}).begin()


def test_a_loss_that_is_no_number(pictures, tmp_path):
    out = tmp_path / "run"
    recipe = make_recipe(Phase("all", 3, ("*",), 1e30), optimizer="sgd")
    with pytest.raises(TrainingError, match=r"(is nan|is inf|NaN or infinite) at step \d+ of 9\."):
        run(pictures, recipe, out)
    state = np.load(out / "state.npz")
    assert all(np.isfinite(state[key]).all() for key in state.files if state[key].dtype.kind == "f")


def test_a_full_disk_keeps_the_state_before(pictures, tmp_path, monkeypatch):
    out = tmp_path / "run"
    saves = []

    def savez(file, **arrays):
        saves.append(1)
        if len(saves) == 3:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        return real(file, **arrays)

    real = np.savez
    monkeypatch.setattr(np, "savez", savez)
    recipe = make_recipe(Phase("all", 2, ("*",), 1e-3))
    with pytest.raises(InceptionTFError, match="No space left on device"):
        run(pictures, recipe, out, save_steps=1)
    assert read_position(out / "state.npz").total == 1
    monkeypatch.undo()
    assert len(run(pictures, recipe, out).history) == 2
    assert not [path.name for path in out.iterdir() if path.is_dir() and path.name.startswith(".")]


def test_smaller_images_to_train_on(pictures, tmp_path):
    seen = []

    class Sizes(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append(self.model.input_shape)
            call = self.model.call
            self.model.call = lambda x, **options: (seen.append(x.shape[1:3].as_list()), call(x, **options))[1]

    model = itf.create_model("nin", layout="cifar10", depth_multiplier=0.1, classes=3, input_shape=(32, 32, 3))
    recipe = make_recipe(Phase("all", 1), train_scale=0.5, crop_area=0.5)
    result = run(pictures, recipe, tmp_path / "run", model, network=None, callbacks=[Sizes()])
    assert seen == [(None, None, None, 3), [16, 16], [32, 32]]
    assert result.model.input_shape == (None, 32, 32, 3) and result.model.card.preprocessing["size"] == [32, 32]
    # What is evaluated are the images of the full size.
    evaluated = evaluate(open_engine(tmp_path / "run"), _examples(pictures, None, 0.2, None, 0)[1])
    assert evaluated.top1 == pytest.approx(result.best["val_accuracy"], abs=1e-6)


def test_heads_begin_with_a_ridge_regression(pictures, tmp_path):
    """One step of no size leaves what scikit-learn's classifier of the same features answers."""
    keras.utils.set_random_seed(0)
    model = itf.create_model("lenet", classes=3)
    recipe = make_recipe(Phase("heads", 1, ("heads",), 1e-12, "none", ridge=True), dropout=0.0, l2=0.0)
    result = run(pictures, recipe, tmp_path / "run", model, network=None)
    train, held_out = _examples(pictures, None, 0.2, None, 0)
    backbone = keras.Model(model.inputs[0], model.features)

    def features(part):
        files = [part.read(i) for i in range(len(part))]
        return np.reshape(backbone(itf.preprocess_input(files, model=model)), (len(part), -1))

    x, x_val = features(train), features(held_out)
    scaler = StandardScaler().fit(x)
    alphas = PENALTIES * (np.linalg.norm(scaler.transform(x)) ** 2 / min(x.shape))
    expected = RidgeCV(alphas).fit(scaler.transform(x), np.eye(3)[train.labels]).predict(scaler.transform(x_val)) - 0.5
    kernel, bias = (np.asarray(w) for w in result.model.classifier.weights)
    logits = x_val @ kernel.reshape(-1, 3) + bias
    factor = np.linalg.norm(logits) / np.linalg.norm(expected)
    np.testing.assert_allclose(logits, factor * expected, rtol=1e-3, atol=1e-3 * factor)


def test_modern_keeps_its_ridge_regression(pictures, monkeypatch):
    """Of labels that no features explain too, where the loss is far from 0."""
    examples, found, begin = open_examples(pictures), [], PhaseBuilder._begin_with_ridge
    examples.labels = np.random.default_rng(0).integers(0, 3, len(examples))

    def begin_and_note(builder, features):
        begin(builder, features)
        found.append(values(builder.model.classifier))

    monkeypatch.setattr(PhaseBuilder, "_begin_with_ridge", begin_and_note)
    recipe = dataclasses.replace(Recipe.from_yaml("modern"), batch_size=2)
    for ours, theirs in zip(values(run(examples, recipe).model.classifier), found[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())


def test_a_ridge_regression_of_features_that_are_no_numbers(pictures):
    model = itf.create_model("lenet", classes=3)
    model.get_layer("fc3").bias.assign(np.full(1024, np.inf))
    with pytest.raises(TrainingError, match="features are NaN"):
        run(pictures, make_recipe(RIDGE), weights=model, network=None)


@pytest.mark.slow
def test_resumes_after_a_ridge_regression(pictures, tmp_path):
    recipe = make_recipe(Phase("heads", 2, ("heads",), 1e-3, "none", ridge=True), Phase("all", 1))
    expected = run(pictures, recipe, tmp_path / "unbroken")
    break_at(4, pictures, recipe, tmp_path / "run", save_steps=1)
    for ours, theirs in zip(values(run(pictures, recipe, tmp_path / "run").model), values(expected.model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_ridge_regression_is_of_the_beginning(pictures, tmp_path, monkeypatch):
    begun, begin = [], PhaseBuilder._begin_with_ridge
    monkeypatch.setattr(PhaseBuilder, "_begin_with_ridge", lambda *given: [begun.append(1), begin(*given)])
    for epochs in 1, 2:
        phases = dataclasses.replace(RIDGE, epochs=epochs), dataclasses.replace(HEADS, name="more")
        run(pictures, make_recipe(*phases), tmp_path / "run")
        assert len(begun) == 1


@pytest.mark.slow
def test_a_ridge_regression_where_batch_norm_trains(pictures):
    """Below the heads it stays as it is."""
    model = itf.create_model("inception_v1", classes=3, input_shape=(64, 64, 3))
    before = values(model)
    trained = run(pictures, make_recipe(RIDGE, batch_norm="train"), weights=model, network=None).model
    assert sum(not np.array_equal(*pair) for pair in zip(before, values(trained), strict=True)) == 2


@pytest.mark.slow
def test_a_ridge_regression_of_a_classifier_by_position(pictures):
    model = itf.create_model("alexnet_v2", classes=3, input_shape=(288, 288, 3))
    assert model.features.shape[1:3] == (3, 3)
    run(pictures, make_recipe(dataclasses.replace(RIDGE, learning_rate=1e-9)), weights=model, network=None)


@pytest.mark.slow
def test_a_head_on_several_blocks(pictures, tmp_path):
    """It trains, is saved, exported and trained on as any other; its blocks are a run's own."""
    model = itf.create_model("inception_v3", classes=3, depth_multiplier=0.1, input_shape=(75, 75, 3))
    recipe = make_recipe(
        Phase("heads", 1, ("heads",), 1e-4, "none", ridge=True), Phase("all", 1), head_blocks=["Mixed_6*", "Mixed_5d"]
    )
    recipe = dataclasses.replace(recipe, aux_loss=0, train_scale=1.0)
    run(pictures, recipe, tmp_path / "run", model, network=None)
    loaded = itf.load_model(tmp_path / "run")
    blocks = ["Mixed_5d", *(f"Mixed_6{letter}" for letter in "abcde")]
    assert loaded.card.options["head_blocks"] == blocks and loaded.card.labels == ["blank", "checked", "striped"]
    itf.export(loaded, tmp_path / "exported", format="savedmodel")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 75, 75, 3)).astype("float32")
    again = run(pictures, make_recipe(HEADS, aux_loss=0), weights=tmp_path / "run", network=None).model
    assert again.card.options["head_blocks"] == blocks and again(images).shape == (2, 3)
    with pytest.raises(UsageError, match=r"head_blocks has Mixed_7c, which"):
        run(pictures, dataclasses.replace(recipe, head_blocks=("Mixed_7c",)), tmp_path / "wrong", model, network=None)
    assert not (tmp_path / "wrong").exists()


def test_the_recipe_of_a_run_that_asks_for_none(pictures, monkeypatch):
    model = itf.create_model("inception_v3", classes=4, depth_multiplier=0.1, input_shape=(75, 75, 3))
    random, trained = model.card.weights, dataclasses.replace(model.card.weights, source="a checkpoint", complete=True)

    class ChosenError(Exception):
        pass

    def started(model, classes, recipe, *rest):
        raise ChosenError(recipe)

    monkeypatch.setattr("inception_tf.training.finetune._started", started)

    def chosen(recipe=None, weights=trained, **options):
        model.card = dataclasses.replace(model.card, weights=weights)
        with pytest.raises(ChosenError) as error:
            run(pictures, recipe, weights=model, network=None, **options)
        return error.value.args[0]

    modern = Recipe.from_yaml("modern")
    assert chosen() == modern
    assert chosen({"seed": 3, "size": 96}) == dataclasses.replace(modern, seed=3, size=96)
    assert chosen("slim") == chosen(weights=random) == Recipe()
    assert chosen({"seed": 3, "ema": 0.5}) == Recipe(seed=3, ema=0.5)  # it says how everything is trained
    model = itf.create_model("inception_v3", classes=3, depth_multiplier=0.1, input_shape=(75, 75, 3))
    assert chosen() == Recipe()  # the head goes on
    assert chosen(new_head=True) == modern
    assert chosen(weights=dataclasses.replace(trained, complete=False)) == Recipe()  # perhaps by `fit`
    model = itf.create_model("lenet", classes=4)
    assert chosen() == Recipe()


@pytest.mark.slow
def test_averages_are_what_is_kept(pictures):
    """With a decay near 1 they stay where the first step left them, however far the weights go."""
    keras.utils.set_random_seed(0)
    model = itf.create_model("lenet", classes=3)

    def distance(ema):
        recipe = make_recipe(Phase("all", 1, ("*",), 0.1), optimizer="sgd", ema=ema)
        trained = run(pictures, recipe, weights=model, network=None).model
        return max(np.abs(a - b).max() for a, b in zip(values(trained), values(model)))

    assert distance(0.999999) < 0.1 * distance(None)


@pytest.mark.slow
def test_averages_leave_the_training_alone(pictures):
    recipe = make_recipe(Phase("all", 2, ("*",), 1e-3), dropout=0.0)
    plain, averaged = (run(pictures, dataclasses.replace(recipe, ema=ema)).history for ema in (None, 0.5))
    for one, other in zip(plain, averaged, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["val_loss"] != pytest.approx(one["val_loss"], rel=1e-5)


@pytest.mark.slow
def test_resumes_with_averages_and_accumulation(pictures, tmp_path):
    options = {"ema": 0.5, "accumulate": 2, "mixup": 0.2, "class_weights": "balanced"}
    recipe = make_recipe(HEADS, EVERYTHING, optimizer="rmsprop", batch_size=6, **options)
    expected = run(pictures, recipe, tmp_path / "unbroken")
    break_at(13, pictures, recipe, tmp_path / "run", save_steps=1)
    result = run(pictures, recipe, tmp_path / "run")
    for ours, theirs in zip(values(result.model), values(expected.model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_features_computed_once_are_the_same_training(pictures, monkeypatch):
    """The heads' phase on features, and through the whole network."""
    recipe = make_recipe(Phase("heads", 2, ("heads",), 1e-2), optimizer="rmsprop", augment="none", dropout=0.0)
    fast = run(pictures, recipe).history
    monkeypatch.setattr(phases, "FEATURE_BYTES", 0)
    slow = run(pictures, recipe).history
    assert_same_history(fast, slow, 1e-4)


@pytest.mark.slow
def test_features_after_another_phase_are_of_its_weights(pictures, tmp_path):
    """Resumed in the middle of the heads' phase, whose features come from what the phase before trained."""
    recipe = make_recipe(EVERYTHING, Phase("heads", 2, ("heads",), 1e-2), augment="none")
    expected = run(pictures, recipe).history
    break_at(11, pictures, recipe, tmp_path / "run", save_steps=1)
    assert_same_history(run(pictures, recipe, tmp_path / "run").history, expected, 1e-4)


def test_callbacks_of_keras(pictures, tmp_path):
    """They see the phases as `fit`s after one another, under the names of the metrics."""
    events, steps, epochs, file = [], [], [], tmp_path / "log.csv"

    def begin(logs):
        assert recorder.params["steps"] == 3 and recorder.model.optimizer is not None
        events.append("train")

    def end_step(batch, logs):
        assert {"loss", "accuracy"} <= set(logs)
        steps.append(batch)

    recorder = keras.callbacks.LambdaCallback(
        on_train_begin=begin,
        on_epoch_begin=lambda epoch, logs: events.append(epoch),
        on_train_batch_end=end_step,
        on_test_end=lambda logs: events.append("test"),
        on_epoch_end=lambda epoch, logs: epochs.append(logs),
        on_train_end=lambda logs: events.append("end"),
    )
    recipe = make_recipe(HEADS, Phase("all", 2, ("*",), 1e-3), size=32, optimizer="rmsprop", warmup_epochs=0.5)
    writers = keras.callbacks.CSVLogger(file, append=True), keras.callbacks.ModelCheckpoint(tmp_path / "last.keras")
    history = run(pictures, recipe, callbacks=[recorder, *writers]).history
    assert (
        keras.models.load_model(tmp_path / "last.keras").optimizer.get_config() == recorder.model.optimizer.get_config()
    )
    assert events == ["train", 0, "test", "end", "train", 1, "test", 2, "test", "end"]
    assert steps == [0, 1, 2] * 3
    assert epochs == [{name: row[name] for name in logs} for row, logs in zip(history, epochs)]
    assert set(epochs[0]) == {"loss", "accuracy", "objective", "learning_rate", "val_loss", "val_accuracy"}
    assert [line.split(",")[0] for line in file.read_text().splitlines()] == ["epoch", "0", "1", "2"]


def test_a_callback_ends_a_phase_and_resumes(pictures, tmp_path):
    """`EarlyStopping` counts on where it was when the run was interrupted. The next phase follows."""
    recipe = make_recipe(Phase("all", 9, ("*",), 1e-9), HEADS, optimizer="sgd", augment="none", dropout=0.0)

    def stop():
        return keras.callbacks.EarlyStopping("val_accuracy", patience=3)

    history = run(pictures, recipe, callbacks=stop()).history
    assert [(row["phase"], row["epoch"]) for row in history] == [*(("all", i) for i in (1, 2, 3, 4)), ("heads", 1)]
    with pytest.raises(Broken):
        run(pictures, recipe, tmp_path / "run", callbacks=[stop(), BreakAt(8)])
    resumed = run(pictures, recipe, tmp_path / "run", callbacks=[stop()]).history
    assert_same_history(resumed, history)
    assert (tmp_path / "run" / "last.keras").is_file()


def test_head_and_labels(pictures, unbroken, tmp_path):
    """A head that fits is kept, its classes in its order; one that does not is an error, or begun anew."""
    recipe = make_recipe(Phase("all", 1, ("*",), 1e-9), optimizer="sgd")
    again = run(pictures, recipe, weights=unbroken.path, labels=["striped", "blank", "checked"], network=None)
    assert again.model.card.labels == ["blank", "checked", "striped"]
    assert again.history[0]["val_accuracy"] == pytest.approx(unbroken.best["val_accuracy"])

    renamed = tmp_path / "renamed"
    shutil.copytree(pictures, renamed)
    (renamed / "blank").rename(renamed / "empty")
    with pytest.raises(UsageError, match="they lack empty.*--new-head"):
        run(renamed, recipe, weights=unbroken.model, network=None)
    fresh = run(renamed, recipe, weights=unbroken.model, new_head=True, network=None)
    assert fresh.model.card.labels == ["checked", "empty", "striped"]
    kept, started = fresh.model.get_layer("conv1").kernel, fresh.model.get_layer("fc4")
    np.testing.assert_allclose(kept, unbroken.model.get_layer("conv1").kernel, atol=1e-6)
    assert np.abs(values(started)[0] - values(unbroken.model.get_layer("fc4"))[0]).max() > 1e-3

    shutil.copytree(renamed / "empty", renamed / "fourth")
    more = run(renamed, recipe, weights=unbroken.model, network=None)
    assert more.model.output_shape == (None, 4)

    headless = itf.create_model("lenet", classes=3, include_top=False)
    assert _started(headless, 3, recipe, False, False).output_shape == (None, 3)


@pytest.mark.slow
def test_examples_and_datasets(pictures):
    recipe = make_recipe(HEADS)
    train, held_out = halves(pictures)
    expected = run(pictures, recipe).history
    assert run(train, recipe, val=held_out).history[0]["loss"] == expected[0]["loss"]
    images = np.full((4, 28, 28, 1), 7, np.uint8)
    dataset = tf.data.Dataset.from_tensor_slices((images, [0, 1, 2, 0]))
    result = run(dataset.repeat(4), recipe, val=dataset, labels=["a", "b", "c"])
    assert result.model.card.labels == ["a", "b", "c"]


def test_validation_images_for_examples(pictures, tmp_path):
    train, _ = halves(pictures)
    assert [len(part) for part in _examples(train, pictures, 0.2, None, 0)] == [30, 36]
    shutil.copytree(pictures / "blank", tmp_path / "blank")
    shutil.copytree(pictures / "blank", tmp_path / "empty")
    with pytest.raises(UsageError, match="other classes"):
        _examples(train, open_examples(tmp_path), 0.2, None, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": Recipe(batch_size=31)}, "A batch of 31 is more than the 30 training images"),
        ({"recipe": Recipe(batch_size=8, class_weights={"plaid": 2.0})}, "class_weights .* not there: plaid"),
        ({"recipe": Recipe(freeze=("conv9",), batch_size=8)}, "freeze: nothing matches 'conv9'"),
        ({"devices": 2}, "There are 1 devices"),
        ({"network": "lenet9"}, "There is no network 'lenet9'"),
        ({"val_fraction": 1.5}, "between 0 and 1"),
    ],
)
def test_arguments_that_do_not_fit(pictures, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        run(pictures, **{"recipe": RECIPE, "out": tmp_path / "run", **arguments})


def test_how_to_load_a_keras_model_is_not_asked(unbroken, pictures):
    with pytest.raises(UsageError, match="a Keras model of lenet"):
        run(pictures, weights=unbroken.model, network="lenet", ema="require")


def test_balanced_class_weights():
    np.testing.assert_allclose(class_factors("balanced", np.array([0, 0, 0, 1]), ["a", "b"]), [2 / 3, 2])
    np.testing.assert_allclose(class_factors({"b": 3}, np.array([0, 1]), ["a", "b"]), [1, 3])
    np.testing.assert_allclose(class_factors({1: 3}, np.array([0, 1]), ["0", "1"]), [1, 3])  # YAML's 1
    with pytest.raises(UsageError, match="not there: True"):  # YAML's yes
        class_factors({True: 3}, np.array([0, 1]), ["no", "yes"])
    with pytest.raises(UsageError, match="every training image the weight 0"):
        class_factors({"b": 0}, np.array([1, 1]), ["a", "b"])


def test_what_makes_the_figures_less_telling_is_said():
    def examples(*counts):
        labels = np.repeat(np.arange(len(counts)), counts)
        return Examples(labels, labels, ["a", "b"], labels)

    assert phases.warnings(examples(20, 40), examples(10, 10)) == []
    lines = phases.warnings(examples(41, 20), examples(10, 9))
    assert "--labels-offset 1" in phases.warnings(examples(0, 20), examples(10, 10))[0]
    assert "41 training images of a, 20 of b" in lines[0] and lines[1].endswith("b (9).") and len(lines) == 2


def test_files_that_cannot_be_read_are_left_out(pictures, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    names = ["broken.png", "tab\t\n.png", os.fsdecode(b"caf\xe9.png")]
    for name in names:
        (data / "blank" / name).write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    recipe = make_recipe(HEADS)
    result = run(data, recipe, tmp_path / "run")
    assert set(result.skipped) == {f"blank/{name}" for name in names}
    assert "blank/broken.png\t" in (tmp_path / "run" / "skipped.txt").read_text()
    assert "Left out, since they could not be read: 3" in str(result)
    assert run(data, recipe, tmp_path / "run").skipped == result.skipped
