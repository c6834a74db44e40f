"""Servers to ask: the local one always, TensorFlow Serving where there is one.

The tests of `served` run against a tensorflow_model_server on the PATH, or against the server that these name:
    TF_SERVING_URL          of its REST port, http://host:8501
    TF_SERVING_GRPC         of its gRPC port, host:8500
    TF_SERVING_MODEL_PATH   where this machine has the base directory of the model that it serves, an export of this
                            library for images of 28×28×1; its name is the model's
"""

import functools
import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from random_weights import randomized

from inception_tf.exports.savedmodel import export_savedmodel
from inception_tf.exports.serving_files import models_config
from inception_tf.serving.deployment import monitoring_config, server_command
from inception_tf.serving.directories import find_models, versions_in
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


@pytest.fixture(scope="session")
def start():
    """A function from a directory of models to a `LocalServer` on free ports, not started."""

    def make(directory, **settings):
        return LocalServer(lambda: find_models(directory), **{"port": 0, "grpc_port": 0, "poll": 0.1, **settings})

    return make


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
                local=True,
            )
    elif "TF_SERVING_URL" in os.environ:
        base = Path(os.environ["TF_SERVING_MODEL_PATH"])
        version = base / str(max(versions_in(base)))
        grpc = os.environ["TF_SERVING_GRPC"]
        url = os.environ["TF_SERVING_URL"].rstrip("/")
        yield SimpleNamespace(url=url, grpc=grpc, model=base.name, version=version, local=False)
    elif shutil.which("tensorflow_model_server"):
        ports = [free_port(), free_port()]
        config = digits.parent
        (config / "models.config").write_text(models_config({"digits": digits / "digits"}))
        (config / "monitoring.config").write_text(monitoring_config())
        command = server_command({"digits": digits / "digits"}, *ports, config)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{ports[0]}"
        try:
            for _ in range(240):
                if process.poll() is not None:
                    pytest.fail(f"tensorflow_model_server ended with {process.returncode}")
                try:
                    if b"AVAILABLE" in urllib.request.urlopen(f"{url}/v1/models/digits").read():
                        break
                except OSError:
                    pass
                time.sleep(0.5)
            grpc = f"127.0.0.1:{ports[1]}"
            yield SimpleNamespace(url=url, grpc=grpc, model="digits", version=digits / "digits/1", local=False)
        finally:
            process.terminate()
            process.wait()
    else:
        pytest.skip("no tensorflow_model_server on the PATH and no TF_SERVING_URL")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


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
