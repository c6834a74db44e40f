"""The local server: TensorFlow Serving's APIs on TensorFlow in Python, for trying an export on a laptop."""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import grpc
from aiohttp import web

from inception_tf.errors import InceptionTFError, UsageError
from inception_tf.serving.api import Api
from inception_tf.serving.models import Models

log = logging.getLogger(__name__)

# Seconds in which the requests of connections that were accepted arrive, once the server is to stop.
GRACE = 0.5


class LocalServer:
    """A server of models: a context manager that serves from a thread of its own.

    On exit it accepts no new requests, and answers those it has accepted.

    Args:
        find: a function without arguments to a dict from models' names to base directories.
        host: the address to listen on.
        port, grpc_port: 0: one that is free.
        max_bytes: the largest request, in bytes.
        poll: seconds between checks for new versions.
        timeout: seconds for a request, and for those in flight when the server exits.
        threads: how many requests run at once.
        versions: how many of a model are served, the newest.

    Attributes:
        models: the `Models`.
        port, grpc_port: where it listens.
        private: whether only this machine can reach it.

    Raises:
        UsageError: there are no models, or `host` is no address.
        InceptionTFError: a port is taken.
    """

    def __init__(
        self,
        find,
        host="127.0.0.1",
        port=8501,
        grpc_port=8500,
        max_bytes=2**26,
        poll=1,
        timeout=30,
        threads=2,
        versions=1,
    ):
        self.host, self.port, self.grpc_port, self.max_bytes = host, port, grpc_port, max_bytes
        self.poll, self.timeout, self.threads = poll, timeout, threads
        self.models, self._started = Models(find, max_bytes, timeout, versions), Future()

    def __enter__(self):
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self._thread.start()
        self._started.result()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self):
        try:
            asyncio.run(self._serve())
        except Exception as error:
            self._started.set_exception(error)

    async def _serve(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        with _listener(self.host, self.port) as listener, ThreadPoolExecutor(self.threads) as executor:
            address, self.port, *_ = listener.getsockname()
            self.private = ipaddress.ip_address(address).is_loopback
            api = Api(self.models, executor, self.max_bytes, self.timeout)
            # Without so_reuseport a port in use is an error.
            options = {"max_receive_message_length": self.max_bytes, "max_send_message_length": -1, "so_reuseport": 0}
            rpc = grpc.aio.server(options=[(f"grpc.{name}", value) for name, value in options.items()])
            rpc.add_generic_rpc_handlers(api.grpc_handlers())
            try:
                host = f"[{address}]" if ":" in address else address
                self.grpc_port = rpc.add_insecure_port(f"{host}:{self.grpc_port}")
            except RuntimeError:
                raise InceptionTFError(f"Cannot listen on {host}:{self.grpc_port}, the port for gRPC.") from None
            await asyncio.to_thread(self.models.refresh)
            # The work for a client that disconnected is canceled if it has not begun.
            options = {"handler_cancellation": True, "shutdown_timeout": self.timeout, "access_log": None}
            rest = web.AppRunner(api.application(), **options)
            await rest.setup()
            site = web.SockSite(rest, listener)
            await site.start()
            await rpc.start()
            self._started.set_result(None)
            await self._watch()
            log.info("stopping: answering the requests in flight")
            api.stopping = True
            connections = _accept_all(listener)
            await site.stop()
            for connection in connections:
                await self._loop.connect_accepted_socket(rest.server, connection)
            await asyncio.sleep(GRACE)
            await asyncio.gather(rest.cleanup(), rpc.stop(self.timeout))

    async def _watch(self):
        """Checks for new versions until the server is to stop."""
        while not self._stop.is_set():
            try:
                await asyncio.wait_for(self._stop.wait(), self.poll)
            except asyncio.TimeoutError:  # TimeoutError itself only since Python 3.11
                try:
                    await asyncio.to_thread(self.models.refresh)
                except Exception:
                    log.exception("checking for new versions failed")


def _accept_all(listener):
    """The connections that wait at a listening socket; closing it would reset them."""
    connections = []
    with contextlib.suppress(OSError):  # it would block: there are no more
        while True:
            connections.append(listener.accept()[0])
    return connections


def _listener(host, port):
    """A listening socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host, port, family)  # its error is of another type
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        kind = UsageError if isinstance(error, socket.gaierror) else InceptionTFError
        raise kind(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
