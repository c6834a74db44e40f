"""Candidates in child processes that take turns, so that whatever slows the machine down slows them all."""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from inception_tf.errors import InceptionTFError
from inception_tf.progress import Progress

WORKER = Path(__file__).with_name("worker.py")
# The fraction of the machine's processors that others may take before a turn is repeated.
DISTURBED = 0.05


class BenchmarkError(InceptionTFError):
    """A candidate that does not start, or ends before its time; says why in a line."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What is measured.

    Attributes:
        name: its row.
        function: "module:function", or "file.py:function"; see `worker`.
        arguments: the function's, JSON-like.
        work: the pieces of work in a call, such as images.
        python: the interpreter; this one by default.
        environment: variables to add.
    """

    name: str
    function: str
    arguments: dict = dataclasses.field(default_factory=dict)
    work: float = 1
    python: str = sys.executable
    environment: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Result:
    """What one candidate reached.

    Attributes:
        candidate: the `Candidate`.
        first: seconds from the start of its process to its first answer.
        speeds: pieces of work a second, one a round.
        foreign: the fraction of the machine that others took, one a round.
        repeated: how many turns were repeated because of them.
        memory: the most bytes that were resident.
        facts: what it said of itself.
    """

    candidate: Candidate
    first: float
    speeds: list = dataclasses.field(default_factory=list)
    foreign: list = dataclasses.field(default_factory=list)
    repeated: int = 0
    memory: int = 0
    facts: dict = dataclasses.field(default_factory=dict)

    @property
    def name(self):
        return self.candidate.name

    @property
    def speed(self):
        """The median of `speeds`."""
        return statistics.median(self.speeds)

    @property
    def disturbed(self):
        """How many rounds count though others took more than they may."""
        return sum(fraction > DISTURBED for fraction in self.foreign)

    def ratios(self, base):
        """This one's speed over another's, round by round."""
        return [own / other for own, other in zip(self.speeds, base.speeds)]


class Child:
    """A candidate's process. It has given its first answer when this returns, after `first` seconds."""

    def __init__(self, candidate):
        self.candidate = candidate
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        own_path = [str(WORKER.parents[2])] if candidate.python == sys.executable else []
        environment = {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            # Several share a GPU.
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *own_path])),
            **candidate.environment,
        }
        command = [candidate.python, str(WORKER), candidate.function, json.dumps(candidate.arguments)]
        start = time.perf_counter()
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
            )
        except OSError as error:
            self._log.close()
            raise BenchmarkError(f"{candidate.name}: {error}") from error
        try:
            self.facts = self._answer()["facts"]
        except BaseException:
            self.close()
            raise
        self.first = time.perf_counter() - start

    def run(self, seconds):
        """What it did in a turn, a dict; see `worker`."""
        with contextlib.suppress(BrokenPipeError):  # the answer says what happened
            print(seconds, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        # Killed, as for want of memory, it had no last word.
        reason = lines[-1][:300] if lines and code != -9 else f"exit status {code}"
        raise BenchmarkError(f"{self.candidate.name}: {reason}")

    def close(self):
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def run(candidates, rounds=7, seconds=2.0, attempts=4, log=print):
    """Runs candidates in turns, round after round, the order rotated by one every time.

    A turn during which others took more than 5 % of the machine is repeated, up to `attempts` turns in all; then the
    quietest counts. On systems without /proc nothing is known of others, and every turn counts.

    Args:
        candidates: `Candidate`s.
        rounds: how many.
        seconds: how long a turn is, at least one call.
        attempts: how often a turn is tried.
        log: takes "name: reason" of each candidate that does not start, or ends before its time, and is left out.

    Returns:
        A list of `Result`s, in the candidates' order.
    """
    running = []
    with contextlib.ExitStack() as stack:
        with Progress("Starting", len(candidates), "processes") as progress:
            for candidate in candidates:
                try:
                    child = Child(candidate)
                    stack.callback(child.close)
                    running.append((child, Result(candidate, child.first, facts=child.facts)))
                except BenchmarkError as error:
                    log(str(error))
                progress.advance()
        with Progress("Measuring", rounds * len(running), "turns") as progress:
            for number in range(rounds):
                first = number % max(len(running), 1)
                for pair in running[first:] + running[:first]:
                    try:
                        turn(*pair, seconds, attempts)
                    except BenchmarkError as error:
                        log(str(error))
                        running.remove(pair)
                    progress.advance()
    return [result for _, result in running]


def groups(always, others, together=None):
    """Lists of candidates that take turns.

    Args:
        always: those in every group, to which the others are compared.
        others: those in one group each.
        together: how many processes there may be at a time, where that is possible; 1: nobody takes turns; None: any
            number.
    """
    if together == 1:
        return [[candidate] for candidate in (*always, *others)]
    step = max(1, (together or len(always) + len(others)) - len(always))
    return [[*always, *others[i : i + step]] for i in range(0, len(others), step)] or [list(always)]


def fitting(size):
    """How many processes of `size` bytes the free memory holds, at least 1. None where the system does not tell."""
    try:
        with Path("/proc/meminfo").open() as file:
            free = next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    return max(1, int(0.9 * free / size))


def turn(child, result, seconds, attempts=4):
    """Adds a turn of a `Child` to its `Result`; see `run`."""
    best = None
    for attempt in range(attempts):
        before = _busy()
        done = child.run(seconds)
        after = _busy()
        foreign = 0.0
        if before and after:
            # This process waits meanwhile, so all that the child did not take is others'.
            foreign = max(0.0, (after[0] - before[0] - done["processor"]) / max(after[1] - before[1], 1e-9))
        if best is None or foreign < best[1]:
            best = done, foreign
        if foreign <= DISTURBED:
            break
        result.repeated += attempt + 1 < attempts
    done, foreign = best
    result.speeds.append(result.candidate.work * done["calls"] / done["seconds"])
    result.foreign.append(foreign)
    result.memory = done["peak"]


def _busy():
    """The seconds so far of the processors that are ours to use: (busy, all). None where the system does not tell."""
    try:
        ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        with Path("/proc/stat").open() as file:
            lines = [line.split()[1:9] for line in file if line.split(maxsplit=1)[0] in ours]
    except (OSError, AttributeError):
        return None
    numbers = [sum(map(int, column)) / os.sysconf("SC_CLK_TCK") for column in zip(*lines)]
    if not numbers:
        return None
    idle = numbers[3] + numbers[4]  # and waiting for the disk; time stolen by other machines counts as busy
    return sum(numbers) - idle, sum(numbers)
