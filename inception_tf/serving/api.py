"""The local server's two protocols, REST and gRPC, for the same models; the page and the metrics."""

import asyncio
import contextlib
import json
import re
import time
from pathlib import Path
from urllib.parse import unquote

import grpc
from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from grpc import StatusCode
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from inception_tf.serving import rest_json
from inception_tf.serving.servable import RpcError, invalid

# The paths of tensorflow_serving/model_servers/http_rest_api_util.cc and the statuses of its http_server.cc.
MODEL = r"(?i)/v1/models/([^/:]+)(?:/versions/(\d{1,18})|/labels/([^/:]+))?"
PATHS = {"POST": re.compile(f"{MODEL}:(classify|predict)"), "GET": re.compile(f"{MODEL}(?:/(metadata))?")}
HTTP_STATUS = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.NOT_FOUND: 404,
    StatusCode.RESOURCE_EXHAUSTED: 413,  # here: a body that is too large
    StatusCode.INTERNAL: 500,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
RPCS = {
    "predict": ("PredictionService", "Predict", PredictRequest),
    "classify": ("PredictionService", "Classify", ClassificationRequest),
    "metadata": ("PredictionService", "GetModelMetadata", GetModelMetadataRequest),
    "status": ("ModelService", "GetModelStatus", GetModelStatusRequest),
}

# Bodies larger than this are read a few at a time: JSON unfolds to many times its size.
LARGE, LARGE_AT_ONCE = 2**20, 4

# The signatures that the page can use, the preferred one first.
PAGE_SIGNATURES = ("class_maps", "predict_image_bytes")
# The page loads nothing from elsewhere, and no other page may frame it.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; frame-ancestors 'none'"
)


class Api:
    """Answers requests. Its coroutines run in one event loop; slow work runs in threads.

    Args:
        models: the `Models`.
        executor: the threads that run networks.
        max_bytes: the largest request, in bytes.
        timeout: seconds for a request.
    """

    def __init__(self, models, executor, max_bytes, timeout):
        self.models, self.executor, self.max_bytes, self.timeout = models, executor, max_bytes, timeout
        self.stopping = False  # whether clients are told to close their connections
        self.large_bodies = asyncio.Semaphore(LARGE_AT_ONCE)
        self.registry, labels = CollectorRegistry(), ("api", "method", "model")
        ProcessCollector(registry=self.registry)
        self.requests = Counter("inception_tf_requests", "By gRPC's code", (*labels, "code"), registry=self.registry)
        self.seconds = Histogram("inception_tf_request_seconds", "Seconds a request", labels, registry=self.registry)
        self.in_flight = Gauge("inception_tf_requests_in_flight", "Requests under way", registry=self.registry)

    async def _counted(self, api, method, model, answer):
        """Awaits the coroutine `answer` within the timeout, and counts the request."""
        start, code = time.perf_counter(), StatusCode.CANCELLED
        try:
            with self.in_flight.track_inprogress():
                result = await asyncio.wait_for(answer, self.timeout)
            code = StatusCode.OK
            return result
        except asyncio.TimeoutError:  # TimeoutError itself only since Python 3.11
            code = StatusCode.DEADLINE_EXCEEDED
            raise RpcError(code, f"No answer within {self.timeout:g} seconds") from None
        except RpcError as error:
            code = error.code
            # The frames it came through hold the request, and the error: a circle, which is not freed at once.
            raise error.with_traceback(None) from None
        finally:
            # Clients choose the name: only that of a model becomes a label.
            labels = api, method, model if model in self.models.servables else ""
            self.requests.labels(*labels, code.name).inc()
            self.seconds.labels(*labels).observe(time.perf_counter() - start)

    async def _in_thread(self, method, function, *args):
        # Requests that run no network do not wait for those that do.
        executor = self.executor if method in ("predict", "classify") else None
        return await asyncio.get_running_loop().run_in_executor(executor, function, *args)

    def _call(self, method, request):
        """The response to one of Serving's requests."""
        if method == "status":
            return self.models.status(request)
        return getattr(self.models.servable(request.model_spec), method)(request)

    def grpc_handlers(self):
        """The handlers of Serving's PredictionService and ModelService; their other methods are unimplemented."""
        return [
            grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", {rpc: self._handler(method, message)})
            for method, (service, rpc, message) in RPCS.items()
        ]

    def _handler(self, method, message):
        async def handle(data, context):
            try:
                request = message.FromString(data)
                work = self._in_thread(method, self._call, method, request)
                return await self._counted("grpc", method, request.model_spec.name, work)
            except DecodeError:
                await context.abort(StatusCode.INVALID_ARGUMENT, f"These bytes are not a {message.DESCRIPTOR.name}")
            except RpcError as error:
                await context.abort(error.code, error.message)

        return grpc.unary_unary_rpc_method_handler(handle, response_serializer=lambda m: m.SerializeToString())

    def application(self):
        """The `aiohttp` application."""
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_get("/page/models", self._page_models)
        for path in ("/metrics", "/monitoring/prometheus/metrics"):  # the second is where Serving has its own
            app.router.add_get(path, self._metrics)
        app.router.add_route("*", "/{path:.*}", self._rest)
        return app

    async def _rest(self, request):
        path, pattern = request.rel_url.raw_path, PATHS.get(request.method)
        match = pattern.fullmatch(path) if pattern else None
        try:
            if not match:
                code = StatusCode.INVALID_ARGUMENT if path.lower().startswith("/v1/") else StatusCode.NOT_FOUND
                raise RpcError(code, f"Malformed request: {request.method} {path:.200}")
            name, version, label, method = match.groups()
            spec, method = ModelSpec(name=unquote(name)), (method or "status").lower()
            if version:
                spec.version.value = int(version)
            elif label:
                spec.version_label = unquote(label)
            text, status = await self._counted("rest", method, spec.name, self._rest_answer(request, method, spec)), 200
        except RpcError as error:
            text, status = json.dumps({"error": error.message}), HTTP_STATUS[error.code]
        response = web.Response(text=text, status=status, content_type="application/json")
        if self.stopping:
            response.force_close()
        return response

    async def _rest_answer(self, request, method, spec):
        length = request.content_length or 0
        if request.body_exists and request.content_length is None:
            length = self.max_bytes  # a chunked body may have any length
        async with self.large_bodies if length > LARGE else contextlib.nullcontext():
            body = bytearray()
            try:
                while length <= self.max_bytes and len(body) <= self.max_bytes and not request.content.at_eof():
                    body += await request.content.readany()  # request.read() keeps the body beyond its answer
            except (web.RequestPayloadError, ValueError, OSError) as error:  # a body that is not what its headers say
                raise invalid(f"Cannot read the body: {error!s:.200}") from None
            if max(length, len(body)) > self.max_bytes:
                raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"The body is larger than {self.max_bytes:,} bytes")
            return await self._in_thread(method, self._rest_call, method, spec, body)

    def _rest_call(self, method, spec, body):
        """The JSON of an answer."""
        if method in ("predict", "classify"):
            return getattr(rest_json, method)(self.models.servable(spec), body)
        if method == "status":
            response = self.models.status(GetModelStatusRequest(model_spec=spec))
        else:
            request = GetModelMetadataRequest(metadata_field=["signature_def"])
            response = self.models.servable(spec).metadata(request)
        return json_format.MessageToJson(
            response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, ensure_ascii=False
        )

    async def _page(self, request):
        headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
        return web.FileResponse(Path(__file__).with_name("page.html"), headers=headers)

    async def _page_models(self, request):
        """The versions of models that take an image file, the newest of each first."""
        models = []
        for servable in (one for _, served in sorted(self.models.served.items()) for one in served.values()):
            for signature in [one for one in PAGE_SIGNATURES if one in servable.signatures][:1]:
                models.append({"name": servable.name, "version": servable.number, "signature": signature})
        return web.json_response(models)

    async def _metrics(self, request):
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": "text/plain; version=0.0.4"})
