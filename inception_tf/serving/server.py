"""The local server: TensorFlow Serving's REST and gRPC for trying an export on a laptop, with a page and metrics."""

import asyncio
import contextlib
import ctypes
import ipaddress
import json
import logging
import re
import socket
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import grpc
from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from grpc import StatusCode
from prometheus_client import CONTENT_TYPE_LATEST, Histogram, generate_latest
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from inception_tf.errors import InceptionTFError, UsageError, reason
from inception_tf.serving import rest_json
from inception_tf.serving.models import Models, RpcError

log = logging.getLogger(__name__)

# The paths of tensorflow_serving/model_servers/http_rest_api_util.cc and the statuses of its http_server.cc; that of a
# body that is too large is 413.
MODEL = r"(?i)/v1/models/([^/:]+)(?:/versions/(\d{1,18}))?"
PATHS = {"POST": re.compile(f"{MODEL}:(classify|predict)"), "GET": re.compile(f"{MODEL}(?:/(metadata))?")}
HTTP_STATUS = {
    **dict.fromkeys(("INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE"), 400),
    **{"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "ABORTED": 409, "ALREADY_EXISTS": 409},
    **{"RESOURCE_EXHAUSTED": 429, "CANCELLED": 499, "UNIMPLEMENTED": 501, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504},
}
TOO_LARGE = "The body is larger than"
RPCS = {
    "predict": ("PredictionService", "Predict", predict_pb2.PredictRequest),
    "classify": ("PredictionService", "Classify", classification_pb2.ClassificationRequest),
    "metadata": ("PredictionService", "GetModelMetadata", get_model_metadata_pb2.GetModelMetadataRequest),
    "status": ("ModelService", "GetModelStatus", get_model_status_pb2.GetModelStatusRequest),
}

# Bodies larger than this are read a few at a time: JSON unfolds to many times its size.
LARGE, LARGE_AT_ONCE = 2**20, 4

# The most seconds in which requests of open connections arrive, once the server is to stop.
GRACE = 5.0

SECONDS = Histogram("inception_tf_request_seconds", "By gRPC's code", ("api", "method", "model", "code"))


class LocalServer:
    """A server of models. Its coroutines run in one event loop; slow work runs in threads.

    Args:
        directory: as of `find_models`.
        host: the address to listen on.
        port, grpc_port: 0: one that is free.
        max_bytes: the largest request, in bytes.
        poll: seconds between checks for new versions.
        timeout: seconds for a request, and for those in flight when the server stops.
        threads: how many requests run at once.

    Attributes:
        models: the `Models`.
        port, grpc_port: where it listens.
    """

    def __init__(self, directory, host, port, grpc_port, max_bytes, poll, timeout, threads):
        self.host, self.port, self.grpc_port, self.max_bytes = host, port, grpc_port, max_bytes
        self.poll, self.timeout, self.threads = poll, timeout, threads
        self.models, self._stopping = Models(directory, max_bytes, timeout), False
        self._large_bodies = asyncio.Semaphore(LARGE_AT_ONCE)

    @contextlib.asynccontextmanager
    async def serving(self):
        """Loads the models and serves. On exit no new requests are accepted, and those that were are answered.

        Raises:
            UsageError: there are no models, or `host` is no address.
            InceptionTFError: a port is taken.
        """
        with _listener(self.host, self.port) as listener, ThreadPoolExecutor(self.threads) as self._executor:
            address, self.port, *_ = listener.getsockname()
            # Without so_reuseport a port in use is an error.
            options = {"max_receive_message_length": self.max_bytes, "max_send_message_length": -1, "so_reuseport": 0}
            rpc = grpc.aio.server(options=[(f"grpc.{name}", value) for name, value in options.items()])
            for method, (service, name, message) in RPCS.items():  # Serving's other methods are unimplemented
                handlers = {name: self._grpc_handler(method, message)}
                handler = grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", handlers)
                rpc.add_generic_rpc_handlers([handler])
            try:
                host = f"[{address}]" if ":" in address else address
                self.grpc_port = rpc.add_insecure_port(f"{host}:{self.grpc_port}")
            except RuntimeError:
                raise InceptionTFError(f"Cannot listen on {host}:{self.grpc_port}, the port for gRPC.") from None
            if not ipaddress.ip_address(address).is_loopback:
                log.warning("Anyone who reaches %s can use the server: there is no authentication.", address)
            await asyncio.to_thread(self.models.refresh)
            app = web.Application()
            app.router.add_get("/", self._page)
            app.router.add_get("/page/models", self._page_models)
            for path in ("/metrics", "/monitoring/prometheus/metrics"):  # the second is where Serving has its own
                app.router.add_get(path, self._metrics)
            app.router.add_route("*", "/{path:.*}", self._rest)
            # The work for a client that disconnected is canceled if it has not begun.
            rest = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=self.timeout, access_log=None)
            await rest.setup()
            site = web.SockSite(rest, listener)
            await site.start()
            await rpc.start()
            watch = asyncio.create_task(self._watch())
            try:
                yield self
            finally:
                log.info("stopping: answering the requests in flight")
                watch.cancel()
                self._stopping = True
                _drop_new(listener)
                await asyncio.sleep(0.5)  # those who are connecting
                await site.stop()
                for _ in range(round(GRACE / 0.1)):
                    if not rest.server.connections:
                        break
                    await asyncio.sleep(0.1)
                await asyncio.gather(rest.cleanup(), rpc.stop(self.timeout))

    async def _watch(self):
        """Checks for new versions."""
        while True:
            await asyncio.sleep(self.poll)
            try:
                await asyncio.to_thread(self.models.refresh)
            except Exception:
                log.exception("checking for new versions failed")

    async def _answer(self, api, method, model, work):
        """Awaits `work` within the timeout, and counts it. Returns OK and its result, or another code and why."""
        start, code = time.perf_counter(), StatusCode.CANCELLED
        try:
            code, answer = StatusCode.OK, await asyncio.wait_for(work, self.timeout)
        except asyncio.TimeoutError:  # TimeoutError itself only since Python 3.11
            code, answer = StatusCode.DEADLINE_EXCEEDED, f"No answer within {self.timeout:g} seconds"
        except RpcError as error:
            code, answer = error.code, error.message
            # Its frames hold the request, and the error: a circle, which is not freed at once.
            error.__traceback__ = None
        except Exception as error:
            log.exception("%s, %s: a request failed", api, method)
            code, answer = StatusCode.INTERNAL, reason(error)
            error.__traceback__ = None
        finally:
            # Clients choose the name: only that of a model becomes a label.
            labels = api, method, model if model in self.models.servables else "", code.name
            SECONDS.labels(*labels).observe(time.perf_counter() - start)
        return code, answer

    async def _in_thread(self, method, function, *args):
        # Requests that run no network do not wait for those that do.
        executor = self._executor if method in ("predict", "classify") else None
        return await asyncio.get_running_loop().run_in_executor(executor, function, method, *args)

    def _call(self, method, request):
        """The response to one of Serving's requests."""
        if method == "status":
            return self.models.status(request)
        return getattr(self.models.servable(request.model_spec), method)(request)

    def _grpc_handler(self, method, message):
        async def handle(data, context):
            try:
                request = message.FromString(data)
            except DecodeError:
                await context.abort(StatusCode.INVALID_ARGUMENT, f"These bytes are not a {message.DESCRIPTOR.name}")
            work = self._in_thread(method, self._call, request)
            code, answer = await self._answer("grpc", method, request.model_spec.name, work)
            return answer if code is StatusCode.OK else await context.abort(code, answer)

        return grpc.unary_unary_rpc_method_handler(handle, response_serializer=lambda m: m.SerializeToString())

    async def _rest(self, request):
        path, pattern = request.rel_url.raw_path, PATHS.get(request.method)
        if match := pattern and pattern.fullmatch(path):
            name, version, method = match.groups()
            spec = {"name": unquote(name), "version": {"value": int(version)} if version else None}
            method = (method or "status").lower()
            code, text = await self._answer("rest", method, spec["name"], self._rest_answer(request, method, spec))
        else:
            code = StatusCode.INVALID_ARGUMENT if path.lower().startswith("/v1/") else StatusCode.NOT_FOUND
            text = f"Malformed request: {request.method} {path:.200}"
        status = 200
        if code is not StatusCode.OK:
            status = 413 if text.startswith(TOO_LARGE) else HTTP_STATUS.get(code.name, 500)
            text = json.dumps({"error": text})
        response = web.Response(text=text, status=status, content_type="application/json")
        if self._stopping:
            response.force_close()
        return response

    async def _rest_answer(self, request, method, spec):
        size = request.content_length or 0
        large = size > LARGE or request.body_exists and request.content_length is None  # chunks, of any length
        async with self._large_bodies if large else contextlib.nullcontext():
            body = bytearray()
            try:
                while size <= self.max_bytes and not request.content.at_eof():
                    body += await request.content.readany()  # request.read() keeps the body beyond its answer
                    size = max(size, len(body))
            except (web.RequestPayloadError, ValueError, OSError) as error:  # a body that is not what its headers say
                raise RpcError(f"Cannot read the body: {error!s:.200}") from None
            if size > self.max_bytes:
                raise RpcError(f"{TOO_LARGE} {self.max_bytes:,} bytes", StatusCode.RESOURCE_EXHAUSTED)
            return await self._in_thread(method, self._rest_call, spec, body)

    def _rest_call(self, method, spec, body):
        """The JSON of an answer."""
        request = RPCS[method][2](model_spec=spec)
        if method in ("predict", "classify"):
            return getattr(rest_json, method)(self.models.servable(request.model_spec), body)
        if method == "metadata":
            request.metadata_field.append("signature_def")
        options = {"preserving_proto_field_name": True, "always_print_fields_with_no_presence": True}
        return json_format.MessageToJson(self._call(method, request), ensure_ascii=False, **options)

    async def _page(self, request):
        headers = {"Content-Security-Policy": "frame-ancestors 'none'"}  # which a page cannot say of itself
        return web.FileResponse(Path(__file__).with_name("page.html"), headers=headers)

    async def _page_models(self, request):
        """The names of the models that take an image file."""
        servables = sorted(self.models.servables.items())
        return web.json_response([name for name, one in servables if "predict_image_bytes" in one.signatures])

    async def _metrics(self, request):
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _drop_new(listener):
    """Has Linux drop whoever begins to connect: closing the socket would reset them, and whoever is half connected."""
    if sys.platform == "linux":
        # BPF: where the header's byte of flags has SYN's bit, of the packet no byte is taken, else all of it.
        program = ((0x30, 0, 0, 13), (0x45, 0, 1, 2), (6, 0, 0, 0), (6, 0, 0, 2**32 - 1))
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
        attach_filter = 26  # SO_ATTACH_FILTER, which Python has no name for
        options = struct.pack("HP", len(program), ctypes.addressof(code))
        with contextlib.suppress(OSError):  # some sandboxes have no such filters
            listener.setsockopt(socket.SOL_SOCKET, attach_filter, options)


def _listener(host, port):
    """A listening socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host, port, family)  # its error is of another type
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        kind = UsageError if isinstance(error, socket.gaierror) else InceptionTFError
        raise kind(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
