"""A client of TensorFlow Serving and of the local server: image files in, classes out, by REST or gRPC.

By REST it needs neither TensorFlow nor Keras; by gRPC it uses Serving's official stubs.
"""

import base64
import dataclasses
import http.client
import json
import random
import socket
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inception_tf.errors import InceptionTFError, UsageError
from inception_tf.progress import Progress

REST_PORT, GRPC_PORT = 8501, 8500

# Seconds before the second try; each further one waits twice as long, up to the most.
BACKOFF, BACKOFF_MOST = 0.2, 5


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the server says of an image: `classes`, pairs of a name and a score, best first; or `error`, why not."""

    classes: list
    error: str | None = None


class NoAnswer(InceptionTFError):
    """The server is not there, or refuses every request of this kind."""


class _Retry(Exception):
    """A failure that another try may not meet."""


class _Refused(Exception):
    """The server's word on one request."""


def request(
    address,
    model,
    paths,
    grpc=False,
    signature="predict_image_bytes",
    version=None,
    label=None,
    timeout=30,
    retries=3,
    parallel=8,
):
    """Asks a server about image files, each in a request of its own, several at a time.

    Args:
        address: "host", "host:port", or a URL of them; the port is 8501 for REST and 8500 for gRPC by default.
        model: the model's name.
        paths: the files.
        grpc: gRPC, not REST.
        signature: one that takes image files as `predict_image_bytes` does; "classify" asks by Serving's Classify.
        version, label: of the model; the latest where both are None.
        timeout: seconds for one try.
        retries: how often a request is tried again, when there is no connection, the server is unavailable or too
            late. It waits longer each time.
        parallel: how many requests are under way at once.

    Returns:
        A dict from paths to `Answer`s.

    Raises:
        UsageError: an address that is none, or values below their least.
        NoAnswer: there is no server, or no such model, version or signature.
        InceptionTFError: gRPC needs a package that is missing.
    """
    if timeout <= 0 or retries < 0 or parallel < 1:
        raise UsageError(
            "The timeout must be above 0, retries at least 0, parallel at least 1. "
            f"Received: timeout={timeout}, retries={retries}, parallel={parallel}"
        )
    ask = (_Grpc if grpc else _Rest)(address, model, signature, version, label, timeout)
    with Progress("Asking", len(paths), "images") as progress, ThreadPoolExecutor(parallel) as pool:

        def answer(path):
            try:
                data = Path(path).read_bytes()
            except OSError as error:
                return Answer([], f"Cannot read it: {error.strerror or error}")
            try:
                return _tried(ask, data, retries)
            except _Refused as refusal:
                return Answer([], str(refusal))
            finally:
                progress.advance()

        futures = {path: pool.submit(answer, path) for path in paths}
        try:
            return {path: future.result() for path, future in futures.items()}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _tried(ask, data, retries):
    for attempt in range(retries + 1):
        try:
            return ask(data)
        except _Retry as failure:
            if attempt == retries:
                raise NoAnswer(f"No answer from {ask.address}: {failure}") from failure
            # Clients that failed together do not come back together.
            time.sleep(min(BACKOFF * 2**attempt, BACKOFF_MOST) * random.uniform(0.5, 1))


def _parsed(address, port):
    """(scheme, host, port) of an address."""
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urllib.parse.urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError
        return parts.scheme, parts.hostname, parts.port or port
    except ValueError:
        raise UsageError(f"Expected HOST:PORT. Received: {address!r}") from None


class _Rest:
    """Asks by REST; a connection for every thread is kept open."""

    def __init__(self, address, model, signature, version, label, timeout):
        self.scheme, self.host, self.port = _parsed(address, REST_PORT)
        self.address, self.timeout, self.signature = f"{self.host}:{self.port}", timeout, signature
        quoted = urllib.parse.quote(model, safe="")
        which = f"/versions/{version}" if version is not None else ""
        which = f"/labels/{urllib.parse.quote(label, safe='')}" if label else which
        self.path = f"/v1/models/{quoted}{which}:{'classify' if signature == 'classify' else 'predict'}"
        self.kept = threading.local()

    def __call__(self, data):
        encoded = {"b64": base64.b64encode(data).decode()}
        if self.signature == "classify":
            body = {"signature_name": "classify", "examples": [{"image/encoded": encoded}]}
        else:
            body = {"signature_name": self.signature, "instances": [encoded]}
        status, text = self._post(json.dumps(body).encode())
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {"error": f"{self.address} answers {status} without JSON: is it a model server's REST port?"}
        if status != 200:
            error = str(answer.get("error", answer)) if isinstance(answer, dict) else str(answer)
            if status in (429, 502, 503, 504):
                raise _Retry(error)
            if status in (404, 405, 501) or "label" in error or "signature" in error:  # so it would be for every file
                raise NoAnswer(f"{self.address} refuses: {error[:500]}")
            raise _Refused(error[:500])
        try:
            if self.signature == "classify":
                return _answer(*zip(*answer["results"][0]))
            one = answer["predictions"][0]
            return _answer(one["classes"], one["scores"], one.get("status", ""))
        except (KeyError, IndexError, TypeError, ValueError):
            raise NoAnswer(f"{model_output(self.signature)} Received: {text[:200]!r}") from None

    def _post(self, body):
        connection = getattr(self.kept, "connection", None)
        fresh = connection is None
        if fresh:
            kind = http.client.HTTPSConnection if self.scheme == "https" else http.client.HTTPConnection
            connection = self.kept.connection = kind(self.host, self.port, timeout=self.timeout)
        try:
            try:
                connection.request("POST", self.path, body, {"Content-Type": "application/json"})
            except (BrokenPipeError, ConnectionResetError):
                if connection.sock is None:
                    raise
                # A server that refuses a large body answers before it has read it all.
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self.kept.connection = None
            if not fresh and isinstance(error, (http.client.RemoteDisconnected, ConnectionError)):
                return self._post(body)  # the server had closed the connection meanwhile
            raise _Retry(_reason(error, self.timeout)) from error


class _Grpc:
    """Asks by gRPC, with the official stubs."""

    def __init__(self, address, model, signature, version, label, timeout):
        try:
            import grpc
            from tensorflow_serving.apis import prediction_service_pb2_grpc
        except ImportError as error:
            raise InceptionTFError(
                "gRPC needs tensorflow-serving-api: pip install inception-tf[serving]. REST does without."
            ) from error
        _, host, port = _parsed(address, GRPC_PORT)
        self.address, self.timeout, self.signature = f"{host}:{port}", timeout, signature
        self.model, self.version, self.label = model, version, label
        host = f"[{host}]" if ":" in host else host
        channel = grpc.insecure_channel(f"{host}:{port}", [("grpc.max_receive_message_length", -1)])
        self.stub, self.grpc = prediction_service_pb2_grpc.PredictionServiceStub(channel), grpc

    def __call__(self, data):
        import tensorflow as tf
        from tensorflow_serving.apis import classification_pb2, predict_pb2

        if self.signature == "classify":
            message, call = classification_pb2.ClassificationRequest(), self.stub.Classify
            example = message.input.example_list.examples.add()
            example.features.feature["image/encoded"].bytes_list.value.append(data)
        else:
            message, call = predict_pb2.PredictRequest(), self.stub.Predict
            message.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([data]))
        message.model_spec.name, message.model_spec.signature_name = self.model, self.signature
        if self.label:
            message.model_spec.version_label = self.label
        elif self.version is not None:
            message.model_spec.version.value = self.version
        codes = self.grpc.StatusCode
        try:
            response = call(message, timeout=self.timeout)
        except self.grpc.RpcError as error:
            code, details = error.code(), error.details()
            if code in (codes.UNAVAILABLE, codes.DEADLINE_EXCEEDED):
                raise _Retry(details) from error
            for_every_file = code in (codes.NOT_FOUND, codes.UNIMPLEMENTED, codes.FAILED_PRECONDITION)
            if for_every_file or "label" in details or "signature" in details:
                raise NoAnswer(f"{self.address} refuses: {details[:500]}") from error
            raise _Refused(details[:500]) from error
        if self.signature == "classify":
            classes = response.result.classifications[0].classes
            return _answer([one.label for one in classes], [one.score for one in classes])
        try:
            outputs = {key: tf.make_ndarray(response.outputs[key])[0] for key in response.outputs}
            classes = [name.decode("utf-8", "replace") for name in outputs["classes"]]
            return _answer(classes, outputs["scores"].tolist(), outputs.get("status", b"").decode())
        except (KeyError, AttributeError):
            raise NoAnswer(f"{model_output(self.signature)} Received: {', '.join(response.outputs)}") from None


def model_output(signature):
    """What a signature must give."""
    return f"The signature {signature} gives no classes and scores, as those of image files do."


def _answer(classes, scores, status=""):
    if status or not any(classes):  # Classify has no status
        return Answer([], status or "The image cannot be read.")
    return Answer(list(zip(classes, scores)))


def _reason(error, timeout):
    if isinstance(error, (TimeoutError, socket.timeout)):
        return f"nothing came within {timeout:g} seconds"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
