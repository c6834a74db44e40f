"""The training itself: phases of epochs of `fit`, each of which can go on where a killed run was."""

import contextlib
import dataclasses
import math
import signal
import threading
import time

import keras

from inception_tf.errors import TrainingError
from inception_tf.progress import Progress
from inception_tf.training import batch_norm
from inception_tf.training.network import copy_weights
from inception_tf.training.run import BEST, LAST, best_row
from inception_tf.training.state import Position, read_position, restore_state, save_state


@dataclasses.dataclass
class Program:
    """What a phase runs.

    Attributes:
        training: the compiled Keras model with the losses.
        batches: a function (step, steps) to the dataset of those training batches.
        validation: the dataset for `evaluate`.
        momentum: of batch norm, or None for the network's own.
    """

    training: keras.Model
    batches: object
    validation: object
    momentum: float = None


class Loop:
    """Runs phases on a model, and keeps the state in a run's directory.

    Args:
        model: the model of this library under training.
        product: a float32 model of the same network, which is saved.
        run: the `Run`.
        phases: the `Phase`s, learning rates filled in.
        program: a function from a phase's index to its `Program`; it sets what is trained in `model`.
        steps_per_epoch, batch_size: of all workers together.
        devices: a `OneDevice` or another of `devices`.
        statistics: a function to batches of images to recompute batch norm's statistics on, or None.
        position: where to begin, from the run's state file.
        save_seconds: how long a run may go without its state being saved.
        save_steps: the same in steps; None is no limit.
        say: takes the lines that tell how it goes.
    """

    def __init__(
        self,
        model,
        product,
        run,
        phases,
        program,
        steps_per_epoch,
        batch_size,
        devices,
        statistics=None,
        position=None,
        save_seconds=300.0,
        save_steps=None,
        say=print,
    ):
        self.model, self.product, self.run, self.phases, self.program = model, product, run, phases, program
        self.steps_per_epoch, self.batch_size = steps_per_epoch, batch_size
        self.devices, self.statistics = devices, statistics
        self.resumed = position is not None
        self.position = position or Position()
        self.save_seconds, self.save_steps, self.say = save_seconds, save_steps, say
        self.asked = self.stop = False  # by a signal to this process; by one to any worker
        self._saved = time.monotonic()
        self._before, self._logs, self._in_fit = {}, {}, 0

    @property
    def steps(self):
        """Those of all phases."""
        return sum(phase.epochs for phase in self.phases) * self.steps_per_epoch

    def train(self):
        """Runs what is left. Returns the rows of metrics, one an epoch.

        Raises:
            TrainingError: the loss is no number.
            KeyboardInterrupt: a signal asked for an end; the state is saved.
        """
        if self.position.total == self.steps and len(self.position.rows) == sum(p.epochs for p in self.phases):
            return self.position.rows
        with self._signals():
            for index in range(self.position.phase, len(self.phases)):
                self._phase(index)
        return self.position.rows

    def _phase(self, index):
        start, phase = time.monotonic(), self.phases[index]
        if self.resumed:  # before the program, which may compute features with these weights
            restore_state(self.run.state, self.model.variables, all_of_them=False)
        program = self.program(index)
        self.position.seconds += time.monotonic() - start
        training = self.training = program.training
        with self.devices.scope():
            training.optimizer.build(training.trainable_variables)
        if self.resumed:
            restore_state(self.run.state, self._variables())
            self.resumed = False
        else:
            self.save()
        with batch_norm.momentum(self.model, program.momentum) if program.momentum else contextlib.nullcontext():
            while self.position.epoch < phase.epochs:
                self._epoch(program, phase)
        if self.position.phase + 1 < len(self.phases):
            with averaged(training, keep=True):
                self.position.phase, self.position.epoch = index + 1, 0

    def _epoch(self, program, phase):
        start, done = time.monotonic(), self.position.step
        left = self.steps_per_epoch - done
        self._before, self._logs, self._in_fit = dict(self.position.sums), {}, 0
        if left:
            label = f"{phase.name} {self.position.epoch + 1}/{phase.epochs}"
            with Progress(label, left * self.batch_size, "images") as progress, self.devices.scope():
                program.training.fit(
                    program.batches(self.position.total, left),
                    shuffle=False,
                    callbacks=[Watch(self, progress, label)],
                    verbose=0,
                )
        if self.stop:
            self.save()
            self.say(f"Stopped at step {self.position.total} of {self.steps}; the same command goes on from there.")
            self.devices.leave()
            raise KeyboardInterrupt
        speed = left * self.batch_size / (time.monotonic() - start)
        self._save_if_due()  # before the validation, which may take long
        row = {"step": self.position.total, "phase": phase.name, "epoch": self.position.epoch + 1}
        row |= {name: total / self.steps_per_epoch for name, total in self._sums().items()}
        row["learning_rate"] = float(keras.ops.convert_to_numpy(_inner(program.training.optimizer).learning_rate))
        row |= self._validate(program)
        row |= {"images_per_second": speed, "seconds": self.position.seconds}
        self.position.rows.append(row)
        self.position.epoch, self.position.step, self.position.sums = self.position.epoch + 1, 0, {}
        self._before, self._in_fit = {}, 0
        self.save()
        self.run.metrics(self.position.rows)
        self.say(
            f"{phase.name} {row['epoch']}/{phase.epochs}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
            f"val_loss {row['val_loss']:.4f}, val_accuracy {row['val_accuracy']:.4f}, {speed:.1f} images/s"
        )

    def _sums(self):
        """The epoch's metrics summed over its steps, those before the run was taken up again included."""
        now = {name: value * self._in_fit for name, value in _named(self._logs, "").items()}
        return {name: self._before.get(name, 0.0) + now.get(name, 0.0) for name in {**self._before, **now}}

    def _validate(self, program):
        start = time.monotonic()
        with averaged(program.training):
            if self.statistics:
                copy_weights(self.model, self.product)
                batch_norm.recalibrate(self.product, self.statistics(), self.devices.summed)
                copy_weights(self.product, self.model)
            with self.devices.scope():
                row = _named(program.training.evaluate(program.validation, return_dict=True, verbose=0), "val_")
            self._check(row["val_loss"], "The validation loss")
            last = self.position.phase + 1 == len(self.phases) and (self.position.epoch + 1 == self.phases[-1].epochs)
            best = best_row([*self.position.rows, row]) is row
            if best or last:
                _sync(program.training)
                copy_weights(self.model, self.product)
            if best:
                self.run.save(BEST, self.product)
            if last:
                self.run.save(LAST, self.product)
        self.position.seconds += time.monotonic() - start
        return row

    def step_done(self, logs, seconds):
        """After every step: counts it, looks at the loss, saves when it is time. Returns whether to stop."""
        self._logs = logs
        self._in_fit += 1
        self.position.step += 1
        self.position.total += 1
        self.position.seconds += seconds
        self._check(float(logs["loss"]), "The loss")
        if self.position.step < self.steps_per_epoch:
            self._save_if_due()
        self.stop = self.devices.any(self.asked)
        return self.stop

    def _check(self, loss, what):
        if not math.isfinite(loss):
            self._broken(f"{what} is {loss}")

    def _broken(self, what):
        kept = read_position(self.run.state)
        raise TrainingError(
            f"{what} at step {self.position.total} of {self.steps}. "
            f"The last good state, step {kept.total if kept else 0}, is in {self.run.path}. "
            "A lower learning rate, clip, or a longer warm-up may help; they make another run."
        )

    def _save_if_due(self):
        due = time.monotonic() - self._saved >= self.save_seconds
        if due or self.save_steps and self.position.total % self.save_steps == 0:
            self.save()

    def save(self):
        """Saves the state."""
        _sync(self.training)
        self.position.sums = self._sums()
        if self.run.writes:
            try:
                save_state(self.run.state, self.position, self._variables())
            except TrainingError as error:
                self._broken(str(error).rstrip("."))
        self._saved = time.monotonic()

    def _variables(self):
        return [*self.model.variables, *self.training.optimizer.variables]

    @contextlib.contextmanager
    def _signals(self):
        """The first Ctrl-C, or a SIGTERM, ends the run after the step; the second Ctrl-C ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number, frame):
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            self.say("Stopping after this step …")

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Watch(keras.callbacks.Callback):
    """Tells a `Loop` of every step of `fit`."""

    def __init__(self, loop, progress, label):
        super().__init__()
        self.loop, self.progress, self.label = loop, progress, label

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        self.progress.label = f"{self.label}  loss {float(logs['loss']):.4f}"
        self.progress.advance(self.loop.batch_size)
        if self.loop.step_done(logs, now - self.start):
            self.model.stop_training = True
        self.start = now


@contextlib.contextmanager
def averaged(training, keep=False):
    """Within it, the weights are their moving averages, where the optimizer has any. `keep`: afterwards too."""
    optimizer = _inner(training.optimizer)
    if not optimizer.use_ema:
        yield
        return
    _sync(training)
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


def _inner(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)


def _sync(model):
    """On JAX, `fit` keeps the variables' values to itself until it is asked."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def _named(metrics, prefix):
    """Keras's metrics under our names: the loss is the plain cross-entropy, the objective all that is minimised."""
    ours = {"cross_entropy": "loss", "accuracy": "accuracy", "top_5": "top_5"}
    found = {ours.get(name.removeprefix("logits_")): float(value) for name, value in metrics.items()}
    if metrics and not prefix:
        found["objective"] = float(metrics["loss"])
    return {prefix + name: value for name, value in found.items() if name}
