"""The local server: TensorFlow Serving's APIs on TensorFlow in Python, for development and tests."""

import asyncio
import contextlib
import dataclasses
import importlib.util
import logging
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

from inception_tf.errors import InceptionTFError, UsageError

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Settings:
    """How the server serves.

    Attributes:
        host: the address to listen on. Default: of this machine alone.
        port, grpc_port: 0: one that is free.
        max_bytes: the most bytes of a request.
        poll: seconds between two looks at the disk.
        timeout: seconds for an answer; those under way have as long when the server stops.
        threads: how many batches of a signature run at once. Default: two, or as many as there are cores where fewer.
        batching: whether requests are merged.
    """

    host: str = "127.0.0.1"
    port: int = 8501
    grpc_port: int = 8500
    max_bytes: int = 64 * 2**20
    poll: float = 1
    timeout: float = 30
    threads: int = min(2, os.cpu_count() or 1)
    batching: bool = True


class LocalServer:
    """A server of models.

    As a context manager it serves from a thread of its own; `serve_forever` serves until a signal ends it.

    Args:
        find: a function without arguments to a dict of `models.ModelConfig` by name, asked at every look at the disk.
        settings: the `Settings`.

    Attributes:
        port, grpc_port: where it listens, once it does.

    Raises:
        InceptionTFError: a package of the extra `serving` is missing, or a port is taken.
    """

    def __init__(self, find, settings=None):
        try:
            import aiohttp  # noqa: F401
            import prometheus_client  # noqa: F401

            if importlib.util.find_spec("tensorflow_serving") is None:  # to import it is to import TensorFlow
                raise ImportError(name="tensorflow-serving-api")
        except ImportError as error:
            missing = error.name.partition(".")[0]
            raise InceptionTFError(f"The local server needs {missing}: pip install inception-tf[serving]") from error
        self.find, self.settings = find, settings or Settings()
        self.ready, self._stop, self._loop, self._failure = threading.Event(), None, None, None

    async def _serve(self, started=None):
        from aiohttp import web

        from inception_tf.serving.grpc_api import grpc_server
        from inception_tf.serving.metrics import Metrics
        from inception_tf.serving.models import Models
        from inception_tf.serving.rest import Rest
        from inception_tf.serving.service import Service

        settings = self.settings
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            listening = stack.enter_context(_bound(settings.host, settings.port))
            runners, loader, workers = (
                stack.enter_context(ThreadPoolExecutor(count, name))
                for count, name in [(settings.threads, "run"), (1, "load"), (2, "work")]
            )
            self.models = Models(
                self.find,
                runners,
                loader,
                settings.threads,
                settings.batching,
                observe=lambda *batch: metrics.batch(*batch),
            )
            metrics = Metrics(lambda: self.models.versions)
            service = Service(self.models, workers, settings.max_bytes, settings.timeout)
            grpc = grpc_server(service, metrics, settings.max_bytes)
            try:
                self.grpc_port = grpc.add_insecure_port(f"{_in_url(settings.host)}:{settings.grpc_port}")
            except RuntimeError:
                self.grpc_port = 0
            if not self.grpc_port:
                raise InceptionTFError(f"Cannot listen on {settings.host}:{settings.grpc_port}, the port for gRPC.")
            self.port = listening.getsockname()[1]

            await self.models.refresh()
            rest = Rest(service, metrics, settings.max_bytes)
            runner = web.AppRunner(
                rest.application(),
                handler_cancellation=True,  # of a client that went away
                shutdown_timeout=settings.timeout,
                access_log=None,
            )
            await runner.setup()
            await web.SockSite(runner, listening).start()
            await grpc.start()
            watching = asyncio.create_task(self._watch())
            self.ready.set()
            if started:
                started()
            await self._stop.wait()
            log.info("stopping: answering what is under way")
            await asyncio.gather(runner.cleanup(), grpc.stop(settings.timeout))
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            await self.models.close()

    async def _watch(self):
        while True:
            await asyncio.sleep(self.settings.poll)
            try:
                await self.models.refresh()
            except Exception:
                log.exception("looking for versions failed")

    def serve_forever(self, started=None):
        """Serves until SIGINT or SIGTERM; then takes nothing new, answers what is under way, and returns.

        Args:
            started: is called once it answers.
        """

        async def serve():
            task = asyncio.create_task(self._serve(started))
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self.stop)
            await task

        asyncio.run(serve())

    def stop(self):
        """Has it stop; from any thread."""
        if self._loop:
            self._loop.call_soon_threadsafe(self._stop.set)

    def __enter__(self):
        def run():
            try:
                asyncio.run(self._serve())
            except BaseException as error:
                self._failure = error
            finally:
                self.ready.set()

        self._thread = threading.Thread(target=run, name="server", daemon=True)
        self._thread.start()
        self.ready.wait()
        if self._failure:
            raise self._failure
        return self

    def __exit__(self, *_):
        self.stop()
        self._thread.join()


def _bound(host, port):
    """A listening socket. Connections wait in it until they are answered."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InceptionTFError(f"Cannot listen on {host}:{port}: {reason}.") from error


def _in_url(host):
    return f"[{host}]" if ":" in host else host


def check_host(host):
    """Whether an address is of this machine alone.

    Raises:
        UsageError: it is no address.
    """
    try:
        address = socket.getaddrinfo(host, None)[0][4][0]
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror or error}.") from error
    return address.startswith("127.") or address == "::1"
