"""The REST side of the local server: TensorFlow Serving's API, a page, and metrics."""

import asyncio
import importlib.resources
import json
import re
import time
from urllib.parse import unquote

from aiohttp import web
from google.protobuf import json_format
from tensorflow_serving.apis.model_pb2 import ModelSpec

from inception_tf.serving.refusal import Refusal, invalid

# tensorflow_serving/model_servers/http_rest_api_util.cc
PREDICTION = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:(classify|regress|predict)", re.IGNORECASE
)
STATUS = re.compile(r"/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?(?:/(metadata))?", re.IGNORECASE)

# Bodies above this are read a few at a time, since JSON unfolds to many times its size.
LARGE = 2**20
LARGE_AT_ONCE = 4


class Rest:
    """The handlers.

    Args:
        service: the `Service`.
        metrics: the `Metrics`.
        max_bytes: the most bytes of a body.
        body_timeout: seconds in which a body must have come.
    """

    def __init__(self, service, metrics, max_bytes, body_timeout=60):
        self.service, self.metrics, self.max_bytes, self.body_timeout = service, metrics, max_bytes, body_timeout
        self.large = asyncio.Semaphore(LARGE_AT_ONCE)

    def application(self):
        """The `aiohttp` application."""
        app = web.Application(client_max_size=self.max_bytes)
        app.router.add_get("/", self.page)
        app.router.add_get("/metrics", self.prometheus)
        app.router.add_get("/page/models", self.page_models)
        app.router.add_post("/page/classify", self.page_classify)
        app.router.add_route("*", "/{path:.*}", self.api)
        return app

    async def api(self, request):
        """Whatever has no path of its own."""
        start, code, method, spec = time.perf_counter(), "CANCELLED", "none", ModelSpec()
        with self.metrics.in_flight():
            try:
                method, spec = self._meant(request)
                text = await self._answer(request, method, spec)
                code, status = "OK", 200
            except Refusal as refusal:
                code, status, text = refusal.code, refusal.http_status, json.dumps({"error": refusal.message})
            finally:
                self.metrics.request("rest", method, spec.name, code, time.perf_counter() - start)
        return web.Response(text=text, status=status, content_type="application/json")

    def _meant(self, request):
        path = request.rel_url.raw_path
        pattern = {"POST": PREDICTION, "GET": STATUS, "HEAD": STATUS}.get(request.method)
        match = pattern and pattern.fullmatch(path)
        if not match:
            if not path.lower().startswith("/v1/"):
                raise Refusal("NOT_FOUND", f"Not found: {path[:200]}")
            raise invalid(f"Malformed request: {request.method} {path[:200]}")
        name, number, label, method = match.groups()
        if name is None:
            raise invalid("Missing model name in request.")
        spec = ModelSpec(name=unquote(name))
        if number is not None:
            if int(number[:30]) >= 2**63:
                raise invalid(f"Failed to convert version: {number[:50]} to numeric.")
            spec.version.value = int(number)
        if label is not None:
            spec.version_label = unquote(label)
        return (method or "status").lower(), spec

    async def _answer(self, request, method, spec):
        if method == "status":
            return _json(self.service.status(spec))
        if method == "metadata":
            return _json(self.service.metadata(spec))
        if method == "regress":
            raise Refusal("UNIMPLEMENTED", "Not implemented by the local server")
        answer = self.service.classify_json if method == "classify" else self.service.predict_json
        return await self.with_body(request, lambda body: answer(spec, body))

    async def with_body(self, request, answer):
        """What `answer` makes of the body.

        Raises:
            Refusal: it is too long, or too long in coming.
        """
        length = request.content_length
        if length is not None and length <= LARGE:
            return await answer(await self._read(request))
        self._refuse_length(length or 0)
        async with self.large:
            return await answer(await self._read(request))

    async def _read(self, request):
        try:
            return await asyncio.wait_for(request.read(), self.body_timeout)
        except web.HTTPRequestEntityTooLarge:
            self._refuse_length(self.max_bytes + 1)
        except TimeoutError:
            raise Refusal("DEADLINE_EXCEEDED", "The body did not come in time", 408) from None
        except (web.HTTPException, ValueError, OSError) as error:  # a body that is not what its headers say
            raise invalid(f"Cannot read the body: {str(error)[:200]}") from None

    def _refuse_length(self, length):
        if length > self.max_bytes:
            raise Refusal("INVALID_ARGUMENT", f"The body is larger than {self.max_bytes:,} bytes", 413)

    async def prometheus(self, request):
        return web.Response(body=self.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def page(self, request):
        text = importlib.resources.files("inception_tf.serving").joinpath("page.html").read_text("utf-8")
        # The page takes nothing from anywhere else, and nobody may put it in a frame.
        policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
        policy += "connect-src 'self'; frame-ancestors 'none'"
        return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": policy})

    async def page_models(self, request):
        return web.json_response(self.service.page_models())

    async def page_classify(self, request):
        """The body is an image file, `?model=` the model."""
        try:
            name = request.query.get("model", "")
            answer = await self.with_body(request, lambda body: self.service.page_classify(ModelSpec(name=name), body))
            return web.json_response(answer)
        except Refusal as refusal:
            return web.json_response({"error": refusal.message}, status=refusal.http_status)


def _json(message):
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, ensure_ascii=False
    )
