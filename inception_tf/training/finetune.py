"""Fine-tuning: from images and weights to a Keras model and a directory that documents how it was trained."""

import contextlib
import dataclasses
import fnmatch
import hashlib
import os
import shlex
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from inception_tf import tables
from inception_tf.errors import UsageError
from inception_tf.evaluation import plots
from inception_tf.evaluation.evaluate import evaluate
from inception_tf.evaluation.report import write_report
from inception_tf.images.examples import Examples
from inception_tf.images.sources import open_examples, open_training_data
from inception_tf.inference.engines import KerasEngine
from inception_tf.models.card import Weights
from inception_tf.models.fused import refuse_fused
from inception_tf.models.model import check_model
from inception_tf.models.registry import find_network
from inception_tf.training.devices import find_devices
from inception_tf.training.loop import Loop
from inception_tf.training.network import rebuilt
from inception_tf.training.phases import PhaseBuilder, check, check_batch
from inception_tf.training.recipe import COMMON, ENOUGH_IMAGES, NAMED, Phase, Recipe
from inception_tf.training.run import BEST, LAST, Run, best_row, measure
from inception_tf.training.state import Position, read_position
from inception_tf.zoo import create_model, load_model, resolve

MODERN = (
    "Recipe: modern, the default for a new head of Inception-v3 on few images and one device. Class maps, Grad-CAM and "
    "Slim checkpoints need a model of Slim's: --recipe slim."
)


@dataclasses.dataclass(repr=False)
class Result:
    """The result of `finetune`.

    Attributes:
        model: the model of the epoch with the best validation accuracy; of equal ones, with the lowest loss.
        history: a dict of metrics for every epoch, in order: step, phase, epoch, loss (cross-entropy), accuracy (a
            count, whatever the class weights), objective (all that is minimized), learning_rate, val_loss,
            val_accuracy, images_per_second, seconds (of training so far); of more than five classes, top_5 and
            val_top_5. Where images have several labels, pr_auc and val_pr_auc are in the accuracies' place.
        best: the row of `history` that `model` belongs to.
        skipped: the images that could not be read, and why.
        path: the run's directory, or None.
    """

    model: keras.Model
    history: list
    best: dict
    skipped: dict
    path: Path

    def __repr__(self):
        name_of = f"val_{measure(self.best)}"
        rows, starts = [], [0.0, *(row["seconds"] for row in self.history)]
        for name in dict.fromkeys(row["phase"] for row in self.history):
            phase = [row for row in self.history if row["phase"] == name]
            top = best_row(phase)
            minutes = sum(row["seconds"] - before for row, before in zip(self.history, starts) if row in phase) / 60
            rows.append((name, len(phase), f"{minutes:.1f}", f"{top[name_of]:.4f}", f"{top['val_loss']:.4f}"))
        text = tables.render(rows, ("phase", "epochs", "minutes", f"best {name_of}", "val_loss"), "<>>>>")
        text += f"\n\nBest: {self.best['phase']}, epoch {self.best['epoch']}, step {self.best['step']}: "
        text += f"{name_of} {self.best[name_of]:.4f}, val_loss {self.best['val_loss']:.4f}"
        if self.skipped:
            some = [f"\n  {name}: {reason}" for name, reason in list(self.skipped.items())[:10]]
            text += f"\n\nLeft out, since they could not be read: {len(self.skipped)}{''.join(some)}"
            text += f"\n  … and {len(self.skipped) - 10} more" if len(self.skipped) > 10 else ""
        return text


def finetune(
    weights,
    data,
    val=None,
    recipe=None,
    out=None,
    *,
    network=None,
    labels=None,
    labels_offset=0,
    val_fraction=0.2,
    new_head=False,
    devices=None,
    save_seconds=300.0,
    save_steps=None,
    callbacks=(),
    log=print,
    report=True,
    tensorboard=False,
    command=None,
    **loading,
):
    """Trains a network on labeled images: as Slim's train_image_classifier.py does, or by another recipe.

    A run that was killed resumes from its last saved state when it is called again with the same arguments; with more
    epochs, or a phase more, a run goes on from its last step. Where the weights have another number of classes than the
    data, the heads are new. Where images have several labels (`table.open_table`), the head is a sigmoid for each
    class, and the model's card has the thresholds of the best F1 on the validation images.

    Args:
        weights: a model of this library; a Slim checkpoint, a `.keras` file or a run's directory; the name of a
            published checkpoint such as "imagenet"; None for random weights.
        data: class folders, TFRecords, a `tf.data.Dataset` of (image, label), or `Examples`; see `open_examples`.
        val: the validation images, likewise. Default: those of `data` that `open_training_data` finds or holds out.
        recipe: a `Recipe`, a dict or a YAML file of one, or a name: "slim" or "modern". Default:
            "modern" for a new head on weights of Inception-v3, with one device, fewer than 5,000 images and one label
            each; else, and where a recipe says more than `recipe.COMMON`, "slim".
        out: the run's directory, see `Run`. With None, nothing stays on disk.
        network: the network's name, for None, published names, and where detection is not to decide.
        labels, labels_offset, val_fraction: as `open_training_data`.
        new_head: whether to train new heads although the weights have as many classes as the data.
        devices: how many GPUs share every batch, or a list of TensorFlow's device names. Default: all GPUs. With those
            of several machines: call `workers.join` first, and this in every worker alike.
        save_seconds, save_steps: the state is saved after so many seconds, or steps, and after every epoch.
        callbacks: `keras.callbacks.Callback`s. Their model is the one that `fit` trains in a phase, from images (or
            features that were computed once) to logits. `on_train_begin` comes with every phase, and `stop_training`
            ends one; epochs are numbered through all phases; the logs are named as in `Result.history`. What a callback
            counts is saved with the state: `EarlyStopping` and its like resume too, but for weights that they remember.
            What writes a file needs to append. `ModelCheckpoint` writes the model that is trained, which Keras opens
            once this module is imported.
        log: takes the lines that tell how it goes.
        report: whether to evaluate the best model at the end and write pictures and numbers into the run's directory.
        tensorboard: whether to write the metrics for TensorBoard too, under the names of Keras's own callback.
        command: the words of the command, to be saved there.
        **loading: as `create_model` takes them for a Slim checkpoint: `ema`, `scope`, ….

    Returns:
        A `Result`; its model is None in other workers than the first.

    Raises:
        UsageError: arguments that do not fit one another, or a run's directory of others.
        CheckpointError, MismatchError, DownloadError: as `create_model`.
        TrainingError: the loss became NaN; the last good state stays.
        KeyboardInterrupt: on Ctrl-C, after the state was saved.
    """
    callbacks = keras.tree.flatten(callbacks or ())  # None or a single one too, as `fit` takes them
    if wrong := [callback for callback in callbacks if not isinstance(callback, keras.callbacks.Callback)]:
        raise UsageError(f"callbacks takes objects of keras.callbacks.Callback. Received: {wrong[0]!r}")
    if not isinstance(recipe, (Recipe, dict, str, os.PathLike, type(None))):
        raise UsageError(f"recipe is a Recipe, a dict or a YAML file of one, or a name. Received: {recipe!r}")
    if not (isinstance(save_seconds, (int, float)) and save_seconds >= 0) or save_steps is not None and save_steps < 1:
        raise UsageError(
            "save_seconds is at least 0, save_steps None or at least 1. "
            f"Received: save_seconds={save_seconds}, save_steps={save_steps}"
        )
    devices = find_devices(devices)
    of_recipe = {field.name for kind in (Recipe, Phase) for field in dataclasses.fields(kind)}
    if words := of_recipe & set(loading) - {"batch_norm", "dropout", "ema", "name"}:  # the network has those too
        raise UsageError(
            f"Of the recipe: {', '.join(sorted(words))}. Expected such as "
            'recipe=Recipe(phases=[Phase("all", epochs=3, learning_rate=1e-4)], batch_size=16)'
        )
    common = recipe or {} if recipe is None or isinstance(recipe, dict) and set(recipe) <= COMMON else None
    if not isinstance(recipe, Recipe):
        recipe = Recipe.from_dict(recipe or {}) if isinstance(recipe, dict | None) else Recipe.from_yaml(Path(recipe))
    train, held_out = _examples(data, val, val_fraction, labels, labels_offset)
    if train.multi_label != held_out.multi_label:
        raise UsageError("Training or validation images have one label each, the others several. Give both alike.")
    keras.utils.set_random_seed(recipe.seed)
    if weights is None and recipe.size is not None:  # LeNet's random weights are of one size
        info = find_network(network or "inception_v3")
        loading = {"input_shape": (*np.broadcast_to(recipe.size, 2).tolist(), info.channels), **loading}
    model = _opened(weights, len(train.class_names), network, loading)
    if common is not None and _suits_modern(model, weights, train, new_head, devices, loading):
        recipe = dataclasses.replace(NAMED["modern"], **common)
        log(MODERN)
    product = _started(model, len(train.class_names), recipe, new_head, train.multi_label)
    if product.card.labels:
        train, held_out = (_in_order_of(product, examples) for examples in (train, held_out))
    recipe = recipe.filled(len(train), pretrained=weights is not None)

    with contextlib.ExitStack() as stack:
        path = out if out is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()), "run")
        config = _config(product, train, held_out, recipe)
        # All that can be wrong is found before anything is written: a run's directory takes no other configuration.
        check(product, train, recipe, devices)
        run = Run(path, config, writes=devices.worker == 0, tensorboard=tensorboard)
        stack.callback(run.close)
        (read_position(run.state) or Position()).extend(recipe.phases)
        train, held_out = _readable(run, out is not None, train, held_out)
        check_batch(recipe, train)
        run.begin()
        _list_skipped(run, train, held_out)
        tuned = dataclasses.replace(product.card.weights, fine_tuned_on=len(train))
        thresholds = [0.5] * len(train.class_names) if train.multi_label else None
        product.card = dataclasses.replace(
            product.card, labels=list(train.class_names), thresholds=thresholds, weights=tuned
        )
        if command:
            run.text("command.txt", shlex.join(command) + "\n")
        run.text("labels.txt", "".join(f"{name}\n" for name in train.class_names))
        position = read_position(run.state)
        if position:
            position.extend(recipe.phases)
        devices.assert_equal({name: str(value) for name, value in {**config, "the saved state": position}.items()})
        builder = PhaseBuilder(product, train, held_out, recipe, devices)
        log(builder.describe())
        loop = Loop(builder, run, position, callbacks, save_seconds, save_steps, log)
        if position:
            log(f"Resuming at step {position.total} of {loop.steps}.")
        history = loop.train()
        devices.leave()
        if train.multi_label and run.writes:
            _set_thresholds(run, held_out)
        model = load_model(run.path / BEST) if run.writes else None
        if report and out is not None and run.writes:
            _report(run, model, held_out, history, log)
    skipped = {**train.skipped, **held_out.skipped}
    return Result(model, history, best_row(history), skipped, Path(out) if out is not None else None)


def _examples(data, val, val_fraction, labels, labels_offset):
    if not isinstance(data, Examples) and not isinstance(val, Examples):
        return open_training_data(data, val, val_fraction, labels, labels_offset)
    train = data if isinstance(data, Examples) else open_examples(data, labels, labels_offset)
    if val is None:
        return train.split(val_fraction)
    if not isinstance(val, Examples):
        val = open_examples(val, train.class_names, labels_offset, complete=False)
    if val.class_names != train.class_names:
        raise UsageError(f"Validation images of other classes: {val.class_names}. Expected {train.class_names}.")
    return train, val


def _in_order_of(model, examples):
    """The examples, their classes numbered as in the model's head."""
    known = model.card.labels
    other = [name for name in examples.class_names if name not in known]
    if other:
        raise UsageError(
            f"The weights have as many classes as the data, but different ones: they lack {', '.join(other[:5])}. "
            "New heads are trained with --new-head (new_head=True)."
        )
    part = examples.subset(np.arange(len(examples)))
    numbers = np.array([known.index(name) for name in examples.class_names])
    if examples.multi_label:
        part.labels = np.zeros_like(examples.labels, shape=(len(examples), len(known)))
        part.labels[:, numbers] = examples.labels
    else:
        part.labels = numbers[examples.labels]
    part.class_names = list(known)
    return part


def _opened(weights, classes, name, loading):
    """The model that `weights` stands for; a Slim checkpoint's with heads of so many classes."""
    if weights is not None and not isinstance(weights, keras.Model):
        found = resolve(weights)
        if found.kind == "checkpoint":
            return load_model(weights, name, classes=classes, **loading)
        if found.kind == "keras":
            weights = load_model(found.value)
    if isinstance(weights, keras.Model):
        refuse_fused(check_model(weights), "Fine-tuning")
        if loading or name not in (None, weights.card.network):
            given = {"network": name, **loading}.items()
            given = ", ".join(f"{key}={value!r}" for key, value in given if value is not None)
            raise UsageError(
                f"The weights are a Keras model of {weights.card.network}, and are taken as they are. Received: {given}"
            )
        return weights
    return create_model(name or "inception_v3", weights=weights, classes=classes, **loading)


def _suits_modern(model, weights, train, new_head, devices, loading):
    """Whether a run is such as those in which "modern" reached more than "slim" (docs/benchmarks.md)."""
    card = model.card
    # A checkpoint that lacks something lacks the heads; what else is left out is asked for, in `loading`.
    lacking = isinstance(weights, (str, os.PathLike)) and resolve(weights).kind == "checkpoint"
    new = new_head or card.classes != len(train.class_names) or lacking and not card.weights.complete
    few = len(train) < ENOUGH_IMAGES and not train.multi_label and devices.replicas == devices.workers == 1
    pretrained = card.network == "inception_v3" and card.weights != Weights() and set(loading) <= {"scope", "ema"}
    return new and few and pretrained


def _started(model, classes, recipe, new_head, multi_label):
    """The float32 model to train: with heads for so many classes, an auxiliary one among them where it counts."""
    info = find_network(model.card.network)
    sides = model.input_shape[1:3]
    if None in sides or recipe.size is not None:
        sides = recipe.size or model.card.preprocessing["size"]
        sides = (sides, sides) if isinstance(sides, int) else sides
    options = {"include_top": True, "pooling": None, "classes": classes, "spatial_squeeze": True}
    options = {name: value for name, value in options.items() if name in info.options}
    options["input_shape"] = (*sides, model.input_shape[-1])
    if multi_label or model.card.multi_label:
        options["classifier_activation"] = "sigmoid" if multi_label else "softmax"
    new = info.heads if new_head or classes != model.card.classes else ()
    new += () if model.card.include_top else info.top
    if recipe.head_blocks and "head_blocks" in info.options:
        names = [layer.name for layer in model.layers[1 : model.layers.index(model.get_layer(info.backbone))]]
        matches = {glob: [name for name in names if fnmatch.fnmatchcase(name, glob)] for glob in recipe.head_blocks}
        if unmatched := [glob for glob, found in matches.items() if not found]:
            raise UsageError(f"head_blocks has {', '.join(unmatched)}, which no layer is called. There are: {names}")
        chosen = [name for name in names if any(name in found for found in matches.values())]
        if chosen != list(model.card.options.get("head_blocks") or ()):
            options["head_blocks"], new = chosen, info.heads
    if "aux_logits" in info.options and recipe.aux_loss:
        try:
            return rebuilt(model, new=(*new, "AuxLogits"), aux_logits=True, **options)
        except UsageError:  # too small an image for the auxiliary head
            options["aux_logits"] = False
    return rebuilt(model, new=new, **options)


def _set_thresholds(run, held_out):
    """Writes into the cards of the run's models the mAP on the validation images, and the thresholds of the best F1."""
    for name in (LAST, BEST):
        model = load_model(run.path / name)
        found = evaluate(KerasEngine(model), held_out)
        measured = {**model.card.evaluation, "mean_ap": found.mean_ap}
        model.card = dataclasses.replace(model.card, thresholds=found.best_thresholds(), evaluation=measured)
        run.save(name, model)


def _report(run, model, held_out, history, log):
    """Pictures and numbers of the best model, in the run's directory."""
    evaluation = evaluate(KerasEngine(model), held_out)
    _, missing = write_report(evaluation, held_out, run.path / "report", overwrite=True)
    if missing:
        log(missing)
    else:
        plots.learning_curves(history, run.path / "report" / "curves.png", overwrite=True)
    log(str(evaluation))


def _config(model, train, held_out, recipe):
    digest = hashlib.sha256()
    for variable in model.weights:
        digest.update(np.ascontiguousarray(variable))
    return {
        "network": model.card.network,
        "weights": digest.hexdigest()[:16],
        "classes": train.class_names,
        "training": {"images": len(train), "fingerprint": train.fingerprint()},
        "validation": {"images": len(held_out), "fingerprint": held_out.fingerprint()},
        "recipe": dataclasses.asdict(recipe),
    }


def _readable(run, shared, *parts):
    """The examples that can be decoded. Those that cannot are looked for once per run, and listed in skipped.txt."""
    file = run.path / "skipped.txt"
    while shared and not run.writes and not file.is_file():  # the first worker reads all images, perhaps for hours
        time.sleep(0.2)
    if file.is_file():
        skipped = dict(line.split("\t", 1) for line in file.read_text("utf-8").splitlines())
        return [_without(part, skipped) for part in parts]
    return [part.checked(complete=i == 0) for i, part in enumerate(parts)]


def _list_skipped(run, *parts):
    """Writes skipped.txt, a line for every image that is left out."""
    lines = [f"{_line(name)}\t{_line(reason)}\n" for part in parts for name, reason in part.skipped.items()]
    run.text("skipped.txt", "".join(lines))


def _line(text):
    """A text, of a file's name perhaps, in one line of UTF-8 without tabs: what is not printable is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _without(examples, skipped):
    lines = {name: _line(name) for name in examples.names}
    part = examples.subset(np.array([lines[name] not in skipped for name in examples.names], bool))
    part.skipped |= {name: skipped[line] for name, line in lines.items() if line in skipped}
    return part
