"""Servers to ask: the local one always, TensorFlow Serving where there is one.

The tests of `served` and of test_faults.py run, as they are, against a tensorflow_model_server on the PATH, or against
the server that these name:
    TF_SERVING_URL          of its REST port, http://host:8501
    TF_SERVING_GRPC         of its gRPC port, host:8500: for test_apis.py
    TF_SERVING_MODEL_PATH   where this machine has the base directory of the model that it serves, an export of this
                            library for images of 28×28×1; its name is the model's. Faulty versions are put into it, and
                            taken out again
    TF_SERVING_PID          of its process on this machine: whose memory is looked at, and which SIGTERM ends at last
"""

import asyncio
import contextlib
import functools
import io
import json
import shutil
import threading
import urllib.error
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from random_weights import randomized
from servers import tensorflow_serving

from inception_tf.exports.savedmodel import export_savedmodel
from inception_tf.serving.directories import versions_in
from inception_tf.serving.server import LocalServer
from inception_tf.zoo import create_model


@pytest.fixture(scope="session")
def make_version(tmp_path_factory):
    """A function from a seed to a version of a LeNet of 5 classes that answers otherwise than those of other seeds."""

    @functools.cache
    def make(seed):
        model = randomized(create_model("lenet", classes=5), seed)
        names = [f"v{seed} {name}" for name in ("null", "eins", "zwei", "drei", "vier")]
        base = tmp_path_factory.mktemp("versions") / "digits"
        return export_savedmodel(model, base, labels=names, top=3, batch=8, check=False)

    return make


@pytest.fixture(scope="session")
def digits(make_version, tmp_path_factory):
    """A directory of models with one, `digits`, in version 1."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(make_version(1), models / "digits/1")
    return models


SETTINGS = {
    "host": "127.0.0.1",
    "port": 0,
    "grpc_port": 0,
    "poll": 0.1,
    "max_bytes": 2**26,
    "timeout": 30,
    "threads": 2,
}


@pytest.fixture(scope="session")
def start():
    """A context manager: a `LocalServer` of a directory of models, in a thread of its own, on free ports."""

    @contextlib.contextmanager
    def serving(directory, **settings):
        server, loop = LocalServer(directory, **SETTINGS | settings), asyncio.new_event_loop()
        context = server.serving()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result()
            try:
                yield server
            finally:
                asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    return serving


@pytest.fixture(scope="session", params=["local server", "TensorFlow Serving"])
def served(request, digits, start):
    """A server of the model `digits`. Attributes: url, grpc (host:port), model, version (its directory), local."""
    if request.param == "local server":
        with start(digits, max_bytes=8 * 2**20) as server:
            yield SimpleNamespace(
                url=f"http://127.0.0.1:{server.port}",
                grpc=f"127.0.0.1:{server.grpc_port}",
                model="digits",
                version=digits / "digits/1",
            )
    else:
        with tensorflow_serving(digits / "digits") as server:
            server.model, server.version = server.base.name, versions_in(server.base)[max(versions_in(server.base))]
            yield server


@pytest.fixture(scope="session")
def rest():
    """A function that asks by REST: (status, the JSON)."""

    def ask(url, path, body=None, raw=False):
        body = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(url + path, data=body), timeout=60) as response:
                status, text = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        return status, text if raw else json.loads(text, parse_constant=not_json)

    return ask


def not_json(constant):
    raise AssertionError(f"{constant} is no JSON: a browser refuses it")


@pytest.fixture(scope="session")
def signatures():
    """A function from a version's directory to its signatures, run here: what a server must answer."""
    loaded = functools.cache(lambda path: tf.saved_model.load(str(path)))
    return lambda path: loaded(path).signatures


@pytest.fixture(scope="session")
def files():
    """A JPEG, a PNG, one that is broken, none at all, a JPEG."""

    def encode(kind, seed):
        noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).resize((40 + seed, 30)).save(file, kind)
        return file.getvalue()

    jpeg, png, other = encode("JPEG", 1), encode("PNG", 2), encode("JPEG", 3)
    return [jpeg, png, jpeg[:200], b"", other]
