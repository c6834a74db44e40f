"""The training itself: a `fit` of Keras for each phase, which resumes at the step where a killed run was."""

import contextlib
import dataclasses
import math
import signal
import threading
import time

import keras
import numpy as np

from inception_tf.errors import TrainingError
from inception_tf.inference import batch_norm
from inception_tf.progress import Progress
from inception_tf.training.network import copy_weights
from inception_tf.training.run import BEST, LAST, best_row, measure
from inception_tf.training.state import Position, read_position, restore_state, save_state


class Loop(keras.callbacks.Callback):
    """Runs the phases, as the one callback of their `fit`, and saves the state in the run's directory.

    On JAX, `fit` keeps the variables' values to itself until a callback asks for its `model`.

    The callbacks of the user get what Keras sends them, in every phase, with the epochs numbered through all phases and
    our names of the metrics.

    Args:
        builder: a `PhaseBuilder`.
        run: the `Run`.
        position: where to begin, from the run's state file.
        callbacks: a list of `keras.callbacks.Callback`.
        save_seconds: how long a run may go without its state being saved.
        save_steps: the same in steps; None is no limit.
        log: takes the lines that tell how it goes.
    """

    def __init__(self, builder, run, position=None, callbacks=(), save_seconds=300.0, save_steps=None, log=print):
        super().__init__()
        self.builder, self.run, self.phases, self.devices = builder, run, builder.recipe.phases, builder.devices
        self.network, self.product = builder.model, builder.product
        self.steps_per_epoch, self.batch_size = builder.order.steps_per_epoch, builder.order.batch_size
        self.resumed, self.position = position is not None, position or Position()
        self.save_seconds, self.save_steps, self.log = save_seconds, save_steps, log
        self.user_callbacks = list(callbacks)
        self._initial = [_counts(callback) for callback in self.user_callbacks]
        self._interrupted = False
        self._saved = self._counted = time.monotonic()
        self._progress, self._averages = contextlib.ExitStack(), contextlib.ExitStack()

    @property
    def steps(self):
        """Those of all phases."""
        return sum(phase.epochs for phase in self.phases) * self.steps_per_epoch

    def train(self):
        """Runs what is left. Returns the rows of metrics, one per epoch.

        Raises:
            TrainingError: the loss is NaN or infinite.
            KeyboardInterrupt: a signal asked for an end; the state is saved.
        """
        with self._signals():
            while self.position.phase < len(self.phases):
                self._run_phase()
        return self.position.rows

    def _run_phase(self):
        position, phase = self.position, self.phases[self.position.phase]
        resumed, self.resumed = self.resumed, False
        if resumed:  # before `build`, which may compute features with these weights
            restore_state(self.run.state, self.network.variables, all_of_them=False)
        resumed = resumed and position.optimizer == position.phase  # else of another phase, over since
        position.optimizer, position.planned = position.phase, [phase.epochs for phase in self.phases]
        training, batches, validation = self.builder.build(phase, begins=not (position.epoch or position.step))
        self.set_model(training)
        with self.devices.scope():
            self.model.optimizer.build(self.model.trainable_variables)
        before = len(position.rows) - position.epoch  # epochs are counted through all phases
        params = {"verbose": 0, "epochs": before + phase.epochs, "steps": self.steps_per_epoch}
        self.callbacks = keras.callbacks.CallbackList(self.user_callbacks, model=self.model, **params)
        self.callbacks.on_train_begin()
        if resumed:
            restore_state(self.run.state, self._variables())
            for callback, (kind, counts) in zip(self.user_callbacks, position.callbacks):
                vars(callback).update(counts if kind == type(callback).__name__ else {})
        else:
            self.save()
        momentum = batch_norm.momentum(self.network, self.builder.momentum(phase))
        with momentum, self._progress, self._averages, self.devices.scope():
            if position.step:  # Keras creates the metrics, which are to be restored, with the first batch that it sees
                self.model.evaluate(validation, steps=1, verbose=0)
            while position.epoch < phase.epochs:
                # A `fit` has as many steps in every epoch: the rest of one that was interrupted is a `fit` of its own.
                epoch = before + position.epoch
                self.model.fit(
                    batches(position.total),
                    steps_per_epoch=self.steps_per_epoch - position.step,
                    initial_epoch=epoch,
                    epochs=epoch + 1 if position.step else before + phase.epochs,
                    validation_data=validation,
                    shuffle=False,
                    callbacks=[self],
                    verbose=0,
                )
        self.callbacks.on_train_end()
        done = position.done or [0] * len(self.phases)
        left = [i for i in range(position.phase + 1, len(self.phases)) if done[i] < self.phases[i].epochs]
        with averaged(self.model, keep=left):  # a run that is extended goes on from the weights themselves
            if not left:
                self._save_model(LAST, position.rows[-1])
        position.phase, position.epoch = (left[0], done[left[0]]) if left else (len(self.phases), 0)
        if not left:
            self.save()

    def on_epoch_begin(self, epoch, logs=None):
        if self.position.step:  # in an epoch that was interrupted
            for variable, value in zip(self.model.metrics_variables, self.position.metrics, strict=True):
                variable.assign(value)
        phase = self.phases[self.position.phase]
        self._label = f"{phase.name} {self.position.epoch + 1}/{phase.epochs}"
        images = (self.steps_per_epoch - self.position.step) * self.batch_size
        self._bar = self._progress.enter_context(Progress(self._label, images, "images"))
        self._started, self._done = time.monotonic(), self.position.step
        self.callbacks.on_epoch_begin(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        self.callbacks.on_train_batch_begin(self.position.step)

    def on_train_batch_end(self, batch, logs=None):
        self._check(float(logs["loss"]), "The loss")
        self.position.step += 1
        self.position.total += 1
        self._bar.label = f"{self._label}  loss {float(logs['loss']):.4f}"
        self._bar.advance(self.batch_size)
        self.callbacks.on_train_batch_end(self.position.step - 1, named(logs))
        if self.position.step < self.steps_per_epoch:  # else the epoch's end does it
            due = time.monotonic() - self._saved >= self.save_seconds
            due = due or self.save_steps and self.position.total % self.save_steps == 0
            if due and not self.model.stop_training:  # resumed from here, the epoch would not end with this step
                self.save()
            self._stop_if_interrupted()

    def on_test_begin(self, logs=None):
        images = (self.position.step - self._done) * self.batch_size
        self._speed = images / (time.monotonic() - self._started)
        self._progress.close()
        self._averages.enter_context(averaged(self.model))
        if self.builder.recipe.batch_norm == "recalibrate":
            copy_weights(self.network, self.product)
            batch_norm.recalibrate(self.product, self.builder.training_images(), self.devices.all_reduce_sum)
            copy_weights(self.product, self.network)
        self.callbacks.on_test_begin()

    def on_test_batch_begin(self, batch, logs=None):
        self.callbacks.on_test_batch_begin(batch)

    def on_test_batch_end(self, batch, logs=None):
        self.callbacks.on_test_batch_end(batch, named(logs))

    def on_test_end(self, logs=None):
        row = named(logs, "val_")
        self._check(row["val_loss"], "The validation loss")
        if best_row([*self.position.rows, row]) is row:
            self._save_model(BEST, row)
        self.callbacks.on_test_end(named(logs))
        self._averages.close()

    def on_epoch_end(self, epoch, logs=None):
        position, phase = self.position, self.phases[self.position.phase]
        training = {name: value for name, value in logs.items() if not name.startswith("val_")}
        validation = {name.removeprefix("val_"): value for name, value in logs.items() if name.startswith("val_")}
        rate = float(keras.ops.convert_to_numpy(_inner(self.model.optimizer).learning_rate))
        logs = {**named(training), "learning_rate": rate, **named(validation, "val_")}
        self._count_time()
        row = {"step": position.total, "phase": phase.name, "epoch": position.epoch + 1, **logs}
        position.rows.append({**row, "images_per_second": self._speed, "seconds": position.seconds})
        self.callbacks.on_epoch_end(epoch, logs)
        here = [row for row in position.rows if row["phase"] == phase.name]
        patience = self.builder.recipe.patience
        if patience and here[:-patience] and best_row(here) in here[:-patience]:
            self.model.stop_training = True
        position.epoch, position.step = phase.epochs if self.model.stop_training else position.epoch + 1, 0
        self.run.metrics(position.rows)
        self.save()
        name = measure(row)
        self.log(
            f"{phase.name} {row['epoch']}/{phase.epochs}: loss {row['loss']:.4f}, {name} {row[name]:.4f}, "
            f"val_loss {row['val_loss']:.4f}, val_{name} {row[f'val_{name}']:.4f}, {self._speed:.1f} images/s"
        )
        self._stop_if_interrupted()

    def _stop_if_interrupted(self):
        if self.devices.all_reduce_any(self._interrupted):
            self.save()
            self.log(f"Stopped at step {self.position.total} of {self.steps}; the same command resumes there.")
            self.devices.leave()
            raise KeyboardInterrupt

    def _save_model(self, name, row):
        """Saves the weights as they are as a model, whose card says what was measured of it."""
        copy_weights(self.network, self.product)
        held_out, kind = self.builder.held_out, measure(row)
        score = row[f"val_{kind}"]
        measured = {
            "data": held_out.described(),
            "images": len(held_out),
            kind: round(score * len(held_out)) / len(held_out) if kind == "accuracy" else round(score, 6),
            "loss": round(row["val_loss"], 6),
            "step": self.position.total,
        }
        self.product.card = dataclasses.replace(self.product.card, evaluation=measured)
        self.run.save(name, self.product)

    def save(self):
        """Saves the state."""
        position = self.position
        metrics = self.model.metrics_variables if position.step else []
        position.metrics = [np.asarray(value).tolist() for value in metrics]
        position.callbacks = [
            (type(callback).__name__, {name: v for name, v in _counts(callback).items() if initial.get(name) is not v})
            for callback, initial in zip(self.user_callbacks, self._initial)
        ]
        self._count_time()
        if self.run.writes:
            try:
                save_state(self.run.state, position, self._variables())
            except TrainingError as error:
                raise self._broken(str(error).rstrip(".")) from error
        self._saved = time.monotonic()

    def _count_time(self):
        now = time.monotonic()
        self.position.seconds += now - self._counted
        self._counted = now

    def _check(self, loss, what):
        if not math.isfinite(loss):
            raise self._broken(f"{what} is {loss}")

    def _broken(self, what):
        saved = read_position(self.run.state)
        return TrainingError(
            f"{what} at step {self.position.total} of {self.steps}. "
            f"The last good state, step {saved.total if saved else 0}, is in {self.run.path}. "
            "A lower learning rate, clip, or a longer warm-up may help; they need another run."
        )

    def _variables(self):
        return [*self.network.variables, *self.model.optimizer.variables]

    @contextlib.contextmanager
    def _signals(self):
        """The first Ctrl-C, or a SIGTERM, ends the run after the step; the second Ctrl-C ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(number, frame):
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            self.log("Stopping after this step …")

        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def averaged(training, keep=False):
    """Within it, the weights are their moving averages, where the optimizer has any. `keep`: afterwards too.

    `keras.callbacks.SwapEMAWeights` swaps by adding and subtracting on TensorFlow, which rounds the weights: a run that
    is interrupted would not end as another.
    """
    optimizer = _inner(training.optimizer)
    if not optimizer.use_ema:
        yield
        return
    variables = optimizer._trainable_variables
    own = [keras.ops.copy(variable.value) for variable in variables]
    for variable, average in zip(variables, optimizer._model_variables_moving_average):
        variable.assign(keras.ops.copy(average.value))  # on JAX, a step frees the values that it was given
    try:
        yield
    finally:
        if not keep:
            for variable, value in zip(variables, own):
                variable.assign(value)


def named(logs, prefix=""):
    """Keras's metrics under our names: the loss is the plain cross-entropy, the objective all that is minimized."""
    names = {"logits_cross_entropy": "loss", "logits_accuracy": "accuracy", "logits_top_5": "top_5"}
    names["logits_pr_auc"] = "pr_auc"
    names |= {name.removeprefix("logits_"): ours for name, ours in names.items()}  # of a model without auxiliary head
    found = {prefix + names[name]: float(value) for name, value in logs.items() if name in names}
    return found if prefix else {**found, "objective": float(logs["loss"])}


def _counts(callback):
    """The numbers and words in a callback of Keras: what `EarlyStopping` and its like remember of past epochs."""
    return {name: value for name, value in vars(callback).items() if isinstance(value, (bool, int, float, str))}


def _inner(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)
