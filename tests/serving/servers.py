"""Servers in processes of their own: the local one, and TensorFlow Serving where there is one."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from inception_tf.training.workers import _free_port as free_port


class Process:
    """`inception-tf serve` of a model, by an engine, on free ports. A context manager.

    Attributes:
        url, grpc: where it listens; grpc is host:port.
        base: the model's base directory; its name is the model's.
        pid: of the process.
        local: whether it is known to be the local server.
    """

    def __init__(self, base, engine):
        self.base, self.local = Path(base), engine == "local"
        ports = [free_port(), free_port()]
        self.url, self.grpc = f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
        self.command = [sys.executable, "-m", "inception_tf", "serve", str(base), "--engine", engine, "--poll", "0.2"]
        self.command += ["--port", str(ports[0]), "--grpc-port", str(ports[1])]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.pid, end = self.process.pid, time.monotonic() + 900
        try:
            while not available(self):
                assert self.process.poll() is None and time.monotonic() < end, f"it does not serve: {self.command}"
                time.sleep(0.2)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(600)


class Remote:
    """The server that TF_SERVING_URL names, with a `Process`'s attributes; its pid is None where it is not known."""

    local = False

    def __init__(self):
        self.url, self.grpc = os.environ["TF_SERVING_URL"].rstrip("/"), os.environ.get("TF_SERVING_GRPC")
        self.base = Path(os.environ["TF_SERVING_MODEL_PATH"])
        self.pid = int(os.environ["TF_SERVING_PID"]) if "TF_SERVING_PID" in os.environ else None


@contextlib.contextmanager
def tensorflow_serving(base):
    """The server that TF_SERVING_URL names, or else a tensorflow_model_server on the PATH, of the model in `base`."""
    if "TF_SERVING_URL" in os.environ:
        yield Remote()
    elif shutil.which("tensorflow_model_server"):
        with Process(base, "tensorflow") as server:
            yield server
    else:
        pytest.skip("no tensorflow_model_server on the PATH and no TF_SERVING_URL")


def states(server):
    """The states of a model's versions, a dict by number."""
    with urllib.request.urlopen(f"{server.url}/v1/models/{server.base.name}", timeout=60) as response:
        return {int(one["version"]): one["state"] for one in json.load(response)["model_version_status"]}


def available(server):
    with contextlib.suppress(OSError):  # it does not listen yet
        return "AVAILABLE" in states(server).values()


def terminate(server):
    os.kill(server.pid, signal.SIGTERM)
