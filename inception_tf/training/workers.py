"""Workers: processes, on this machine or on several, that share every batch of a run on Keras's JAX backend.

A command calls `start`, which runs the command again for each worker of this machine and watches them; there, `report`
does the work. A Python program calls `join`. What the workers then do together is in `devices.DataParallel`.

JAX aborts a process that has lost the others, with a page of C++: hence a watcher for each of them, wherever it runs.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

from inception_tf import errors
from inception_tf.errors import InceptionTFError, TrainingError, UsageError, reason
from inception_tf.training.state import read_position

# How long workers wait for one another at the start, and how long one may be silent.
START_SECONDS, SILENT_SECONDS = 300, 60
# How long the others may take to report what went wrong, once one has ended.
_GRACE_SECONDS = 3.0
_ROLE = "INCEPTION_TF_WORKER"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Which workers there are.

    Attributes:
        count: how many; None where JAX is to detect them, and this process's number.
        here: the numbers of those that this process starts.
        addresses: HOST:PORT of every one, or None.
    """

    count: int = None
    here: tuple = (None,)
    addresses: tuple = None

    @classmethod
    def parse(cls, workers, worker=None):
        """The cluster of the command line's words.

        Args:
            workers: how many on this machine; HOST:PORT of every worker with commas between; or "auto". All as str.
            worker: with addresses, the number of this machine's, from 0.

        Raises:
            UsageError: they do not fit one another, or JAX is not installed.
        """
        if importlib.util.find_spec("jax") is None:
            raise UsageError("--workers trains on Keras's JAX backend, which needs JAX: pip install jax")
        if workers == "auto" or workers.isdecimal() and int(workers):
            if worker is not None:
                raise UsageError("--worker goes with --workers HOST:PORT,HOST:PORT,….")
            return cls() if workers == "auto" else cls(int(workers), tuple(range(int(workers))))
        addresses = tuple(workers.split(","))
        if not all(re.fullmatch(r".+:0*[1-9]\d{0,4}", part) for part in addresses) or len(set(addresses)) < 2:
            raise UsageError(f"--workers is a number from 1, HOST:PORT,HOST:PORT,…, or auto. Received: {workers!r}")
        if len(set(addresses)) < len(addresses):
            raise UsageError(f"--workers names an address twice. Received: {workers!r}")
        if worker not in range(len(addresses)):
            raise UsageError(f"--worker is this machine's, from 0 to {len(addresses) - 1}. Received: {worker}")
        return cls(len(addresses), (worker,), addresses)


def join(addresses=None, worker=None):
    """Makes this process one of several that train together, on Keras's JAX backend (KERAS_BACKEND=jax).

    Call it before anything is computed, then `finetune` once, with the same arguments in every worker, and `out` on a
    disk that all of them see. There is no authentication: whoever reaches the ports can take part. On CPUs, Gloo
    connects the workers at the address that a machine's own name stands for: one that the others reach.

    Args:
        addresses: a sequence of HOST:PORT, one per worker; the workers meet at the first. Default: as JAX detects them
            under Slurm, Open MPI or Kubernetes.
        worker: the number of this one, from 0.

    Raises:
        UsageError: another backend, no cluster, a port in use.
    """
    import keras

    if keras.backend.backend() != "jax":
        raise UsageError(f"Workers need KERAS_BACKEND=jax. Received: {keras.backend.backend()}")
    import jax

    options = {"initialization_timeout": START_SECONDS, "heartbeat_timeout_seconds": SILENT_SECONDS}
    if addresses is not None:
        options |= {"coordinator_address": addresses[0], "num_processes": len(addresses), "process_id": worker}
        options |= {"cluster_detection_method": "deactivate"}
        if addresses[0].startswith("127."):
            options["coordinator_bind_address"] = addresses[0]  # by default it listens to the whole network
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    for name in ("jax_enable_preemption_service", "jax_check_proxy_envs"):  # takes SIGTERM away; warns
        jax.config.update(name, False)
    try:
        jax.distributed.initialize(**options)
    except (RuntimeError, ValueError) as error:
        where = f"at {addresses[0]}" if addresses else "by JAX's detection of Slurm, Open MPI or Kubernetes"
        raise UsageError(f"The workers cannot meet {where}: {reason(error)}") from error


def is_worker():
    """Whether `start` started this process."""
    return _ROLE in os.environ


def start(cluster, command, out, debug=False):
    """Runs the workers of this machine, each of them the `command`, and watches them until all have ended.

    When one ends too early the others are ended as well. A signal to this process is passed on once: all workers of
    all machines then stop after the same step, with the state saved. They die with this process.

    Args:
        cluster: a `Cluster`.
        command: the words of a command that calls `report`.
        out: the run's directory.
        debug: whether to show what the workers' libraries wrote.

    Returns:
        What `report` was given in the first worker; None on other machines than the first worker's.

    Raises:
        InceptionTFError: a worker's.
        TrainingError: a worker ended otherwise.
        KeyboardInterrupt: by a signal, to any machine.
    """
    addresses = cluster.addresses
    if cluster.count and not addresses:
        addresses = (f"127.0.0.1:{_free_port()}",) * cluster.count
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        workers = [_Worker(number, addresses, cluster, command, Path(folder)) for number in cluster.here]
        for worker in workers:
            stack.callback(worker.end)
        try:
            return _watch(workers, Path(out), stack)
        except TrainingError:
            if debug:
                sys.stderr.write("".join(worker.log.read_text(errors="replace") for worker in workers))
            raise


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class _Worker:
    """A worker, seen from outside."""

    def __init__(self, number, addresses, cluster, command, folder):
        self.name, self.meeting = f"Worker {'' if number is None else number}".strip(), (addresses or [""])[0]
        self.report, self.log = folder / f"{number}.json", folder / f"{number}.log"
        role = {"addresses": addresses, "worker": number, "report": str(self.report), "log": str(self.log)}
        hosts = {address.rpartition(":")[0] for address in addresses or ()}
        unproxied = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), *sorted(hosts)]))
        environment = {**os.environ, "KERAS_BACKEND": "jax", "no_proxy": unproxied, _ROLE: json.dumps(role)}
        if cluster.count and cluster.addresses is None:  # the processes cannot share a GPU
            environment.setdefault("JAX_PLATFORMS", "cpu")
        with self.log.open("wb") as log:
            # In a session of its own: Ctrl-C reaches the watcher alone, which passes it on.
            options = {"stdin": subprocess.PIPE, "stdout": log, "env": environment, "start_new_session": True}
            self.process = subprocess.Popen(command, **options)

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()

    def outcome(self):
        """What `report` has written so far, a dict."""
        try:
            return json.loads(self.report.read_text())
        except (OSError, ValueError):
            return {}

    def failure(self):
        """(rank, error) of a worker that ended too early; among several, the lowest rank is the cause."""
        outcome, code = self.outcome(), self.process.returncode
        name = f"Worker {outcome['worker']}" if "worker" in outcome else self.name
        if code == -signal.SIGINT or outcome.get("error") == "KeyboardInterrupt":
            return 2, KeyboardInterrupt()
        if outcome.get("error"):
            message = outcome["message"] if outcome.get("worker", 0) == 0 else f"{name}: {outcome['message']}"
            return 0, getattr(errors, outcome["error"])(message)
        if outcome.get("lost") or code == -signal.SIGABRT and "worker" in outcome:
            return 3, TrainingError(f"{name} lost another one: it ended, or it has been silent for {SILENT_SECONDS} s.")
        if code == -signal.SIGABRT:
            return 3, TrainingError(
                f"{name} did not meet the others at {self.meeting} within {START_SECONDS} s. Start all of them, on "
                "machines that reach that address."
            )
        if code < 0:
            return 1, TrainingError(f"{name} was ended by {signal.Signals(-code).name}.")
        lines = self.log.read_text(errors="replace").split("\n")
        last = outcome.get("message") or next((line for line in reversed(lines) if line.strip()), "")
        return 1, TrainingError(f"{name} ended with exit code {code}: {last.strip()[:300]}")


def _watch(workers, out, stack):
    interrupted = False

    def interrupt(number, frame):
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        for worker in workers:
            worker.process.send_signal(signal.SIGINT)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, interrupt))
    failed_at = None
    while any(worker.process.poll() is None for worker in workers):
        time.sleep(0.1)
        if failed_at is None and any(worker.process.poll() for worker in workers):
            failed_at = time.monotonic()
        # A worker that was interrupted may still be saving the state.
        if failed_at is not None and not interrupted and time.monotonic() - failed_at > _GRACE_SECONDS:
            break
    failures = [worker.failure() for worker in workers if worker.process.poll()]
    if not failures:
        return next((outcome["result"] for worker in workers if (outcome := worker.outcome()).get("worker") == 0), None)
    rank, error = min(failures, key=lambda failure: failure[0])
    if rank and interrupted:
        raise KeyboardInterrupt
    raise TrainingError(f"{error} {_saved(out)}") if rank in (1, 3) else error


def _saved(out):
    with contextlib.suppress(InceptionTFError):
        position = read_position(out / "state.npz")
        if position is not None and position.total:
            return f"The state of step {position.total} is in {out}; the same command resumes there."
    return "No step's state was saved yet; the same command begins again."


def report(work):
    """In a worker that `start` started: meets the others, does the work, and ends the process.

    Args:
        work: a function without arguments; JSON can hold what it returns.
    """
    role = json.loads(os.environ[_ROLE])
    threading.Thread(target=_die_with_the_watcher, daemon=True).start()
    # Python still writes to the terminal; C++ libraries, which write to the descriptor, write to the log.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with Path(role["log"]).open("ab") as file:
        os.dup2(file.fileno(), 2)
    outcome = {"worker": role["worker"] or 0}
    try:
        if role["addresses"] is None or len(role["addresses"]) > 1:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # C++ waits for the others, and Python's handler for C++
            join(role["addresses"], role["worker"])
            import jax

            outcome["worker"] = jax.process_index()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _write(role["report"], outcome)
        if outcome["worker"]:
            sys.stderr = sys.__stderr__  # to the log
        outcome["result"] = work()
    except KeyboardInterrupt:
        outcome["error"] = "KeyboardInterrupt"
    except InceptionTFError as error:
        outcome |= {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        traceback.print_exc(file=sys.__stderr__)
        outcome["message"] = f"{type(error).__name__}: {reason(error)}"
        # What Gloo, JAX and NCCL say of a connection that has ended.
        outcome["lost"] = any(word in str(error) for word in ("Gloo", "coordination", "NCCL"))
    _write(role["report"], outcome)
    sys.stderr.flush()
    # At a usual end JAX would wait for workers that may be gone.
    os._exit(0 if "result" in outcome else 1)


def _write(file, outcome):
    part = Path(file + ".part")
    part.write_text(json.dumps(outcome))
    part.replace(file)


def _die_with_the_watcher():
    sys.stdin.buffer.read()
    os._exit(1)
