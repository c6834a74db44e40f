"""Workers: processes, on this machine or on several, that share every batch of a training on Keras's JAX backend.

A command calls `start`, which runs the command again for each worker of this machine and watches them; there, `report`
does the work. A Python program calls `join`. What the workers then do together is in `devices.DataParallel`.

JAX aborts a process that has lost the others, and says so in a page of C++: hence a watcher for each of them, wherever
it runs.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
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
from inception_tf.errors import InceptionTFError, TrainingError, UsageError
from inception_tf.training.state import read_position

# How long workers wait for one another at the start, and how long one may be silent.
MEET_SECONDS, SILENT_SECONDS = 300, 60
# How long the others may take to tell what went wrong, once one has ended.
_LAST_WORDS_SECONDS = 3.0
_ROLE = "INCEPTION_TF_WORKER"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which workers there are.

    Attributes:
        count: how many.
        here: the numbers of those on this machine.
        addresses: HOST:PORT of every one, or None where all are on this machine.
    """

    count: int
    here: tuple
    addresses: tuple = None


def plan(workers, worker=None):
    """The `Plan` of what was asked for.

    Args:
        workers: how many on this machine, or HOST:PORT of every worker with commas between; both as str.
        worker: with addresses, the number of this machine's, from 0.

    Raises:
        UsageError: they do not make sense, or JAX is not there.
    """
    if importlib.util.find_spec("jax") is None:
        raise UsageError("--workers trains on Keras's JAX backend, which needs JAX: pip install jax")
    if workers.isdecimal() and int(workers):
        if worker is not None:
            raise UsageError("--worker tells which of several machines this is: give --workers HOST:PORT,HOST:PORT,…")
        return Plan(int(workers), tuple(range(int(workers))))
    addresses = tuple(workers.split(","))
    if len(addresses) < 2 or not all(_is_address(address) for address in addresses):
        raise UsageError(f"--workers is a number from 1, or HOST:PORT,HOST:PORT,…. Received: {workers!r}")
    if len(set(addresses)) < len(addresses):
        raise UsageError(f"--workers names an address twice. Received: {workers!r}")
    if worker is None or not 0 <= worker < len(addresses):
        raise UsageError(f"--worker tells which of the workers this is, 0 to {len(addresses) - 1}. Received: {worker}")
    return Plan(len(addresses), (worker,), addresses)


def _is_address(text):
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


def join(addresses, worker):
    """Makes this process one of several that train together, on Keras's JAX backend (KERAS_BACKEND=jax).

    Call it before anything is computed, then `finetune` once, with the same arguments in every worker, and `out` on a
    disk that all of them see. The first address is where the workers meet. There is no protection: whoever reaches the
    ports can take part. On CPUs, what they compute is exchanged by Gloo, at the address that a machine's own name has.

    Args:
        addresses: a sequence of HOST:PORT, one a worker.
        worker: the number of this one, from 0.

    Raises:
        UsageError: another backend, a port in use, a machine whose name has no address that others reach.
    """
    import keras

    if keras.backend.backend() != "jax":
        raise UsageError(f"Workers need KERAS_BACKEND=jax. Received: {keras.backend.backend()}")
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    for option in ("jax_enable_preemption_service", "jax_check_proxy_envs"):  # takes SIGTERM away; warns
        with contextlib.suppress(AttributeError):
            jax.config.update(option, False)
    jax.distributed.initialize(
        addresses[0],
        len(addresses),
        worker,
        initialization_timeout=MEET_SECONDS,
        heartbeat_timeout_seconds=SILENT_SECONDS,
        coordinator_bind_address=_listening(addresses[0]) if worker == 0 else None,
    )
    hosts = {address.rpartition(":")[0] for address in addresses}
    name = socket.gethostname()
    if jax.default_backend() == "cpu" and not all(map(_is_loopback, hosts)) and _is_loopback(name):
        raise UsageError(
            f"This machine's name, {name}, stands for an address that other machines cannot reach. Give it the right "
            "one, in /etc/hosts for example."
        )


def _listening(address):
    """Where the first worker listens: at its address, or at any where that is not this machine's own."""
    host, _, port = address.rpartition(":")
    for where in (host, "0.0.0.0"):
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((where, int(port)))
            return f"{where}:{port}"
        except OSError as error:
            reason = error.strerror or str(error)
    raise UsageError(f"The first worker cannot listen at {address}: {reason}. Choose another port.")


def _is_loopback(host):
    try:
        return socket.gethostbyname(host).startswith("127.")
    except OSError:
        return True  # Gloo takes the loopback too


def is_worker():
    """Whether `start` made this process."""
    return _ROLE in os.environ


def start(plan, command, out, debug=False):
    """Runs the workers of this machine, each the `command`, and watches them until all have ended.

    When one ends too early the others are ended as well. A signal to this process is passed on once: all workers of
    all machines then stop after the same step, with the state saved. They die with this process.

    Args:
        plan: a `Plan`.
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
    addresses = plan.addresses or (f"127.0.0.1:{_free_port()}",) * plan.count
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        watched = [_Watched(number, addresses, plan, command, Path(folder)) for number in plan.here]
        for one in watched:
            stack.callback(one.end)
        try:
            return _watch(watched, Path(out), stack)
        except TrainingError:
            if debug:
                sys.stderr.write("".join(one.log.read_text(errors="replace") for one in watched))
            raise


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class _Watched:
    """A worker, seen from outside."""

    def __init__(self, number, addresses, plan, command, folder):
        self.number, self.place = number, addresses[0]
        self.told, self.log = folder / f"{number}.json", folder / f"{number}.log"
        hosts = {address.rpartition(":")[0] for address in addresses}
        unproxied = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), *sorted(hosts)]))
        role = {"addresses": addresses, "worker": number, "told": str(self.told), "log": str(self.log)}
        environment = {**os.environ, "KERAS_BACKEND": "jax", "no_proxy": unproxied, _ROLE: json.dumps(role)}
        if plan.addresses is None:  # the processes would quarrel about a GPU
            environment.setdefault("JAX_PLATFORMS", "cpu")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=None if number == 0 else log,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the watcher alone, which passes it on
            )

    @property
    def code(self):
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def interrupt(self):
        meets = self.tells().get("stage") == "meeting"  # in C++, which takes no Ctrl-C
        self._process.send_signal(signal.SIGKILL if meets else signal.SIGINT)

    def end(self):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()

    def tells(self):
        """What `report` has written so far, a dict."""
        try:
            return json.loads(self.told.read_text())
        except (OSError, ValueError):
            return {}

    def fault(self):
        """(how much it explains, from 0 for the most; the error) of a worker that has ended too early."""
        told, code, name = self.tells(), self.code, f"Worker {self.number}"
        if told.get("error") == "KeyboardInterrupt":
            return 3, KeyboardInterrupt()
        if told.get("error"):
            return 0, getattr(errors, told["error"])(f"{name}: {told['message']}" if self.number else told["message"])
        if told.get("lost") or (code == -signal.SIGABRT and told.get("stage") == "met"):
            return 4, TrainingError(f"{name} lost another one: it ended, or it has been silent for {SILENT_SECONDS} s.")
        if code == -signal.SIGABRT and told.get("stage") == "meeting":
            return 4, TrainingError(
                f"{name} did not meet the others at {self.place} within {MEET_SECONDS} s. Start all of them, on "
                "machines that reach that address."
            )
        if code < 0:
            return 1, TrainingError(f"{name} was ended by {signal.Signals(-code).name}.")
        lines = self.log.read_text(errors="replace").split("\n")
        last = told.get("message") or next((line for line in reversed(lines) if line.strip()), "")
        return 2, TrainingError(f"{name} ended with exit code {code}: {last.strip()[:300]}")


def _watch(watched, out, stack):
    asked = False

    def ask(number, frame):
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        for one in watched:
            one.interrupt()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, ask))
    failed_at = None
    while any(one.code is None for one in watched):
        time.sleep(0.1)
        if failed_at is None and any(one.code for one in watched):
            failed_at = time.monotonic()
        # A worker that was asked to stop may still be saving the state.
        if failed_at is not None and not asked and time.monotonic() - failed_at > _LAST_WORDS_SECONDS:
            break
    faults = [one.fault() for one in watched if one.code]
    if not faults:
        return next((one.tells()["result"] for one in watched if one.number == 0), None)
    rank, error = min(faults, key=lambda fault: fault[0])
    if rank and asked:
        raise KeyboardInterrupt
    raise TrainingError(f"{error} {_kept(out)}") if rank in (1, 2, 4) else error


def _kept(out):
    with contextlib.suppress(InceptionTFError):
        position = read_position(out / "state.npz")
        if position is not None and position.total:
            return f"The state of step {position.total} is kept in {out}; the same command goes on from there."
    return "No step's state was saved yet; the same command begins again."


def report(work):
    """In a worker that `start` made: meets the others, does the work, and ends the process.

    Args:
        work: a function without arguments; what it returns, JSON can hold.
    """
    role = json.loads(os.environ[_ROLE])
    threading.Thread(target=_die_with_the_watcher, daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _divert(role["log"])
    told = Path(role["told"])
    try:
        if len(role["addresses"]) > 1:
            _tell(told, {"stage": "meeting"})
            join(role["addresses"], role["worker"])
            _tell(told, {"stage": "met"})
        end = {"result": work()}
    except KeyboardInterrupt:
        end = {"error": "KeyboardInterrupt"}
    except InceptionTFError as error:
        end = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        with open(2, "w", closefd=False) as log:
            traceback.print_exc(file=log)
        message = str(error).strip()
        # What Gloo, JAX and NCCL say of a connection that has ended.
        lost = any(word in message for word in ("Gloo", "coordination", "NCCL"))
        end = {"message": f"{type(error).__name__}: {message.splitlines()[0] if message else ''}", "lost": lost}
    _tell(told, end)
    sys.stderr.flush()
    # At a usual end JAX would wait for workers that may be gone.
    os._exit(0 if "result" in end else 1)


def _tell(file, what):
    part = file.with_suffix(".part")
    part.write_text(json.dumps(what))
    part.replace(file)


def _die_with_the_watcher():
    sys.stdin.buffer.read()
    os._exit(1)


def _divert(log):
    """Python writes to the terminal as before; C++ libraries, which write to the descriptors, to the log."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 2)
