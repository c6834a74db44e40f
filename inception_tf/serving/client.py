"""A client of TensorFlow Serving and of the local server: image files in, classes out, by REST or gRPC.

By REST it needs neither TensorFlow nor Keras; by gRPC it uses Serving's official stubs.
"""

import base64
import contextlib
import dataclasses
import http.client
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inception_tf.errors import InceptionTFError, UsageError
from inception_tf.progress import Progress

REST_PORT, GRPC_PORT = 8501, 8500

# Seconds before the second attempt; the wait doubles with each further one, up to the limit.
BACKOFF, MAX_BACKOFF = 0.2, 5


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer for an image: `classes`, pairs of a name and a score, best first; or `error`, why there are none."""

    classes: list
    error: str | None = None


class ServerError(InceptionTFError):
    """The server is not there, or refuses every request of this kind."""


class _Retry(Exception):
    """A failure that may be gone at the next attempt."""


class _ImageError(Exception):
    """The server's refusal of one image."""


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
        timeout: seconds for one attempt.
        retries: how often a request is repeated when there is no connection, or the server is unavailable or too
            slow. The wait grows each time.
        parallel: how many requests are sent at once.

    Returns:
        A dict from paths to `Answer`s.

    Raises:
        UsageError: not an address, or a value below its minimum.
        ServerError: there is no server, or no such model, version or signature.
        InceptionTFError: gRPC needs a package that is missing.
    """
    if timeout <= 0 or retries < 0 or parallel < 1:
        raise UsageError(
            "The timeout must be above 0, retries at least 0, parallel at least 1. "
            f"Received: timeout={timeout}, retries={retries}, parallel={parallel}"
        )
    scheme, host = _parsed(address, GRPC_PORT if grpc else REST_PORT)
    ask = (_grpc if grpc else _rest)(scheme, host, model, signature, version, label, timeout)
    with Progress("Asking", len(paths), "images") as progress, ThreadPoolExecutor(parallel) as pool:

        def answer(path):
            try:
                data = Path(path).read_bytes()
            except OSError as error:
                return Answer([], f"Cannot read it: {error.strerror or error}")
            try:
                return _retried(ask, data, retries)
            finally:
                progress.advance()

        futures = {path: pool.submit(answer, path) for path in paths}
        try:
            return {path: future.result() for path, future in futures.items()}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _retried(ask, data, retries):
    for attempt in range(retries + 1):
        try:
            classes, scores, status = ask(data)
            if status or not any(classes):  # Classify has no status
                return Answer([], status or "The image cannot be read.")
            return Answer(list(zip(classes, scores)))
        except _ImageError as error:
            return Answer([], str(error))
        except _Retry as failure:
            if attempt == retries:
                raise ServerError(str(failure)) from failure
            # Clients that failed together should not retry together.
            time.sleep(min(BACKOFF * 2**attempt, MAX_BACKOFF) * random.uniform(0.5, 1))


def _parsed(address, port):
    """The scheme of an address, and its "host:port"."""
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urllib.parse.urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return parts.scheme, f"{host}:{parts.port or port}"
    except ValueError:
        raise UsageError(f"Expected HOST:PORT. Received: {address!r}") from None


def _error(host, message, retry=False, for_all=False):
    """The exception for an error response: of this attempt, of this image, or of every image."""
    if retry:
        return _Retry(f"No answer from {host}: {message}")
    if for_all or "label" in message or "signature" in message:
        return ServerError(f"{host} refuses: {message[:500]}")
    return _ImageError(message[:500])


def _no_classes(signature, received):
    return ServerError(
        f"The signature {signature} gives no classes and scores, as those of image files do. Received: {received:.200}"
    )


def _rest(scheme, host, model, signature, version, label, timeout):
    """A function from a file's bytes to classes, scores and a status, by REST."""
    method = "classify" if signature == "classify" else "predict"
    which = f"/versions/{version}" if version is not None else ""
    which = f"/labels/{urllib.parse.quote(label, safe='')}" if label else which
    url = f"{scheme}://{host}/v1/models/{urllib.parse.quote(model, safe='')}{which}:{method}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(data):
        image = {"b64": base64.b64encode(data).decode()}
        rows = {"examples": [{"image/encoded": image}]} if method == "classify" else {"instances": [image]}
        body = json.dumps({"signature_name": signature, **rows}).encode()
        post = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with opener.open(post, timeout=timeout) as response:
                answer = json.loads(response.read())
        except urllib.error.HTTPError as error:
            message, code = f"{error.code} without JSON: is it a model server's REST port?", error.code
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
                message = str(json.loads(error.read())["error"])
            raise _error(host, message, code in (429, 502, 503, 504), code in (404, 405, 501)) from error
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)  # of a URLError
            if isinstance(cause, TimeoutError):
                cause = f"nothing came within {timeout:g} seconds"
            raise _error(host, getattr(cause, "strerror", None) or str(cause), retry=True) from error
        except ValueError:
            raise ServerError(f"{host} answers without JSON: is it a model server's REST port?") from None
        try:
            if method == "classify":
                classes, scores = zip(*answer["results"][0])
                return classes, scores, ""
            row = answer["predictions"][0]
            return row["classes"], row["scores"], row.get("status", "")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise _no_classes(signature, str(answer)) from None

    return ask


def _grpc(scheme, host, model, signature, version, label, timeout):
    """A function from a file's bytes to classes, scores and a status, by gRPC, with the official stubs."""
    try:
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
        from tensorflow_serving.apis.model_pb2 import ModelSpec
        from tensorflow_serving.apis.predict_pb2 import PredictRequest
        from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
    except ImportError as error:
        raise InceptionTFError(
            "gRPC needs tensorflow-serving-api: pip install inception-tf[serving]. REST does without."
        ) from error
    stub = PredictionServiceStub(grpc.insecure_channel(host, [("grpc.max_receive_message_length", -1)]))
    spec = ModelSpec(name=model, signature_name=signature, version_label=label)
    if version is not None:
        spec.version.value = version

    def ask(data):
        try:
            if signature == "classify":
                message = ClassificationRequest(model_spec=spec)
                example = message.input.example_list.examples.add()
                example.features.feature["image/encoded"].bytes_list.value.append(data)
                classes = stub.Classify(message, timeout=timeout).result.classifications[0].classes
                return [one.label for one in classes], [one.score for one in classes], ""
            message = PredictRequest(model_spec=spec)
            message.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([data]))
            outputs = stub.Predict(message, timeout=timeout).outputs
        except grpc.RpcError as error:
            name = error.code().name
            retry, for_all = ("UNAVAILABLE", "DEADLINE_EXCEEDED"), ("NOT_FOUND", "UNIMPLEMENTED", "FAILED_PRECONDITION")
            raise _error(host, error.details(), name in retry, name in for_all) from error
        try:
            row = {key: tf.make_ndarray(tensor)[0] for key, tensor in outputs.items()}
            classes = [name.decode("utf-8", "replace") for name in row["classes"]]
            return classes, row["scores"].tolist(), row.get("status", b"").decode()
        except (KeyError, IndexError, TypeError, AttributeError):
            raise _no_classes(signature, ", ".join(outputs)) from None

    return ask
