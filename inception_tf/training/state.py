"""All that a training run needs to resume at the step where it was, in one file that is replaced at once."""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np

from inception_tf.errors import CheckpointError, TrainingError, UsageError
from inception_tf.files import atomic_write


@dataclasses.dataclass
class Position:
    """How far a run is.

    Attributes:
        phase, epoch, step: how many phases, epochs of the phase and steps of the epoch are done.
        total: the steps of all.
        seconds: the time they took.
        metrics: the values of Keras's metrics within the epoch.
        rows: a dict of metrics for every epoch that was validated.
        callbacks: for every callback, the name of its class and what it counts.
        optimizer: the phase whose optimizer's variables were saved.
        planned: the epochs that the recipe had for every phase.
        done: the epochs that a phase had done when the run was extended, for every phase.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    total: int = 0
    seconds: float = 0.0
    metrics: list = dataclasses.field(default_factory=list)
    rows: list = dataclasses.field(default_factory=list)
    callbacks: list = dataclasses.field(default_factory=list)
    optimizer: int = None
    planned: list = dataclasses.field(default_factory=list)
    done: list = dataclasses.field(default_factory=list)

    def extend(self, phases):
        """Where the recipe's `phases` have more epochs than were planned, goes back to the first that has.

        Raises:
            UsageError: that phase is over, and the next is not.
        """
        done = [max((row["epoch"] for row in self.rows if row["phase"] == phase.name), default=0) for phase in phases]
        planned = self.planned + [0] * (len(phases) - len(self.planned))
        grown = [i for i, (epochs, phase) in enumerate(zip(planned, phases)) if phase.epochs > epochs]
        ended = self.phase >= len(self.planned or phases)
        self.planned = [phase.epochs for phase in phases]
        if not grown or not ended and grown[0] >= self.phase:
            return
        if not ended:
            raise UsageError(
                f"The phase {phases[grown[0]].name} of this run is over, and {phases[self.phase].name} is not: more "
                "epochs of it can be added when the run has ended."
            )
        self.done, self.phase, self.epoch, self.step = done, grown[0], done[grown[0]], 0


def save_state(path, position, variables):
    """Writes the state, or nothing; the state before stays until then.

    Args:
        path: the file, an `.npz`.
        position: a `Position`.
        variables: a list of Keras variables.

    Raises:
        TrainingError: a variable holds NaN or infinity: no run should resume from such a state.
        InceptionTFError: the disk is full, no permission.
    """
    arrays = {}
    for i, variable in enumerate(variables):
        value = np.asarray(variable)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise TrainingError(f"{variable.path} is NaN or infinite.")
        arrays[str(i)] = value
    meta = {"position": dataclasses.asdict(position), "variables": len(arrays)}
    with atomic_write(path, overwrite=True) as part, part.open("wb") as file:
        np.savez(file, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)


def read_position(path):
    """The `Position` in a state file, or None where there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    return _read(path)[0] if Path(path).exists() else None


def restore_state(path, variables, all_of_them=True):
    """Sets `variables`, those that `save_state` was given or the first of them, to what it saved.

    Raises:
        CheckpointError: the file is damaged, or of other variables.
    """
    _, arrays = _read(path, arrays=True)
    # Not by their paths: Keras numbers optimizers and seeds in the order of their creation.
    found = [array.shape for array in arrays[: None if all_of_them else len(variables)]]
    if found != [tuple(variable.shape) for variable in variables]:
        raise CheckpointError(f"{path} is the state of another network or optimizer.")
    for variable, array in zip(variables, arrays):
        variable.assign(array)


def _read(path, arrays=False):
    try:
        with np.load(path) as file:
            meta = json.loads(file["meta"].tobytes())
            values = [file[str(i)] for i in range(meta["variables"])] if arrays else None
            return Position(**meta["position"]), values
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Start again with another --out.") from error
