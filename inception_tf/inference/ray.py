"""The same work on a Ray cluster: a pool of workers that grows and shrinks with it, and outlives what kills them."""

import collections
import contextlib
import itertools
import os
import re
import socket
import sys
import time
import warnings

from inception_tf.errors import InceptionTFError, UsageError, need, raising, reason

PARTS = 16  # into so many a piece is split that killed its worker: few restarts, and few images at once
STARTS = 5  # workers that die before they are ready, and none ever was: then it is not the cluster
STALLED = 15  # times of 2 seconds that no worker runs before it is said


class RayPool:
    """Ray actors that map a function over pieces of work. A context manager.

    Nothing that dies loses work or does it twice: a piece whose worker died, with its process or its machine, is done
    again in smaller pieces; only what kills its worker alone, again and again, is given up. Results go to the caller as
    they come, and exist there once.

    Args:
        address: "local", a cluster of this machine's processors for this call alone; "auto", the one that this machine
            or this Ray job belongs to; or `HOST:PORT`. A Ray that this process has started already is used as it is.
        workers: how many. Default: as many as the cluster's nodes hold, at any time. A number is asked for at once, so
            that an autoscaler brings the nodes.
        cpus: of each worker; a fraction is allowed.
        gpus: of each worker, likewise.
        tries: after how many deaths of its worker a single image is given up.

    Attributes:
        lost: how many workers have died.
        cpu_seconds: what the workers' processes have computed in all.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster; an option out of range.
    """

    def __init__(self, address="local", workers=None, cpus=1, gpus=0, tries=3):
        if (workers is not None and workers < 1) or tries < 1 or cpus < 0 or gpus < 0 or not cpus + gpus:
            raise UsageError(
                "A pool needs a worker at least, a try, and a part of a CPU or GPU for each worker. "
                f"Received: workers={workers}, tries={tries}, cpus={cpus}, gpus={gpus}"
            )
        if "ray" not in sys.modules:  # or else Ray tells of every death on standard output
            os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            if address != "local":  # or else it asks something that listens and is no Ray for a quarter of an hour
                os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
        self._ray = need("ray", "ray", "--ray")
        self.address, self.workers, self.cpus, self.gpus = address, workers, cpus, gpus
        self.tries, self.lost, self._seconds, self._started = tries, 0, {}, False

    def __enter__(self):
        if not self._ray.is_initialized():
            local = {"include_dashboard": False, "object_store_memory": 500_000_000}
            options = local if self.address == "local" else {}
            host, _, port = self.address.rpartition(":")
            with raising(UsageError, f"No Ray cluster answers at {self.address!r}", Exception):  # Ray raises many kinds
                if host and port.isdecimal():  # Ray itself would go on asking for minutes
                    socket.create_connection((host.strip("[]"), int(port)), 10).close()
                self._ray.init(self.address, log_to_driver=False, logging_level="ERROR", **options)
            self._started = True
        return self

    def __exit__(self, *_):
        if self._started:
            self._ray.shutdown()

    @property
    def cpu_seconds(self):
        return sum(self._seconds.values())

    def map(self, function, pieces):
        """Yields `function(piece)` of each piece, in the order in which they are done.

        Args:
            function: picklable; called in the workers. `function.open()` makes it ready there, and what stands for a
                piece that is given up is `function.failed(piece, reason)`. A `TablePredictor`, for example.
            pieces: an iterable of sequences that can be sliced, of the images to work on: lists, Arrow tables.

        Raises:
            InceptionTFError: what the function raised; workers that cannot start.
        """
        ray = self._ray
        # Actors and their tasks are never repeated by Ray itself: a piece that kills would kill as a whole.
        actor = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0, max_task_retries=0)(_Worker)
        shared, pieces = ray.put(function), iter(pieces)
        todo, busy, idle, ready = collections.deque(), {}, [], False
        wanted, looked, stalled = 1, float("-inf"), 0
        try:
            while True:
                if time.monotonic() - looked > 2:
                    wanted, looked = self.workers or max(self._fitting(), 1), time.monotonic()
                todo.extend((piece, 0) for piece in itertools.islice(pieces, max(wanted - len(todo), 0)))
                while idle and todo:
                    worker, (piece, deaths) = idle.pop(), todo.popleft()
                    gone = f"the process that read it died, {deaths} times of {deaths}"
                    ref = worker.failed.remote(piece, gone) if deaths >= self.tries else worker.run.remote(piece)
                    busy[ref] = worker, (piece, deaths)
                starting = sum(job is None for _, job in busy.values())
                for _ in range(min(wanted - len(busy) - len(idle), len(todo) - starting)):
                    worker = actor.remote(shared, os.getcwd())
                    busy[worker.ready.remote()] = worker, None
                if not todo and starting == len(busy):
                    return
                refs = list(busy)
                ray.wait(refs, timeout=2)
                done = ray.wait(refs, num_returns=len(refs), timeout=0)[0]  # all that are, since asking takes time
                stalled = 0 if done or any(job for _, job in busy.values()) else stalled + 1
                if stalled == STALLED:
                    needs = f"{self.cpus:g} CPUs" + f" and {self.gpus:g} GPUs" * bool(self.gpus)
                    warnings.warn(f"No worker can start: waiting until a node has {needs} free.", stacklevel=2)
                for ref in done:
                    worker, job = busy.pop(ref)
                    try:
                        result, self._seconds[worker] = ray.get(ref)
                    except ray.exceptions.RayTaskError as error:
                        raise _raised(error) from error
                    except ray.exceptions.RayError as error:
                        self.lost += 1
                        ray.kill(worker)
                        if job:
                            todo.extendleft(self._again(*job))
                        elif not ready and (self.lost >= STARTS or getattr(error, "actor_init_failed", False)):
                            raise InceptionTFError(f"Ray's workers cannot start: {_last(error)}") from error
                        continue
                    ready = True
                    idle.append(worker)
                    if job:
                        yield result
        finally:
            for worker in [*idle, *(worker for worker, _ in busy.values())]:
                ray.kill(worker)

    def _again(self, piece, deaths):
        """What is to be done for a piece that lost its worker: smaller ones; alone, an image is counted."""
        if len(piece) <= 1:
            return [(piece, deaths + 1)]
        size = -(-len(piece) // PARTS)
        return [(piece[at : at + size], 0) for at in range(0, len(piece), size)]

    def _fitting(self):
        """How many workers the nodes that are alive hold."""
        count = 0
        for node in self._ray.nodes():
            has = node["Resources"] if node["Alive"] else {}
            needs = [(has.get(name, 0), need) for name, need in (("CPU", self.cpus), ("GPU", self.gpus)) if need]
            count += int(min(there // need for there, need in needs))
        return count


class _Worker:
    """What runs in a worker's process. With each answer comes what the process has computed so far, in CPU seconds."""

    def __init__(self, function, folder):
        with contextlib.suppress(OSError):  # of paths that are relative
            os.chdir(folder)
        self.function = function

    def ready(self):
        self.function.open()
        return None, time.process_time()

    def run(self, piece):
        return self.function(piece), time.process_time()

    def failed(self, piece, why):
        return self.function.failed(piece, why), time.process_time()


def _raised(error):
    """What a worker raised, as an error of ours."""
    cause = error.cause
    if isinstance(cause, InceptionTFError):
        return cause
    return InceptionTFError(f"A worker failed: {type(cause).__name__}: {reason(cause)}")


def _last(error):
    """The line of Ray's many that names the cause."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    return reason((re.findall(r"^\w*(?:Error|Exception): .*", text, re.MULTILINE) or [text])[-1])
