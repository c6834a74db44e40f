import argparse
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from inception_tf.cli import request as command
from inception_tf.errors import InceptionTFError, UsageError
from inception_tf.serving import client
from inception_tf.serving.client import ServerError, request


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    """Two directories of images, one image of which is broken."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for name, data in zip(("a.jpg", "b.png", "broken.jpg", "empty.jpg", "more/c.jpeg"), files):
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("signature", ["predict_image_bytes", "classify"])
@pytest.mark.parametrize("grpc", [False, True], ids=["REST", "gRPC"])
def test_files_and_directories(served, folder, files, signatures, grpc, signature):
    arguments = ["--grpc", served.grpc] if grpc else [served.url]
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    outcome = command.run(parser.parse_args([*arguments, served.model, str(folder), "--signature", signature]))
    import tensorflow as tf

    wanted = signatures(served.version)["predict_image_bytes"](image_bytes=tf.constant([files[0], files[1], files[4]]))
    answered = outcome.data["images"]
    assert [Path(one["image"]).name for one in answered] == ["a.jpg", "b.png", "c.jpeg"]
    for one, classes, scores in zip(answered, wanted["classes"].numpy(), wanted["scores"].numpy()):
        assert [each["name"] for each in one["classes"]] == [name.decode() for name in classes]
        assert [each["score"] for each in one["classes"]] == pytest.approx(scores.tolist(), rel=1e-5)
    assert [Path(one["image"]).name for one in outcome.data["failed"]] == ["broken.jpg", "empty.jpg"]
    assert outcome.code == 1 and "2 of 5 images were not answered" in outcome.text
    json.dumps(outcome.data, allow_nan=False)


@pytest.mark.parametrize("grpc", [False, True], ids=["REST", "gRPC"])
@pytest.mark.parametrize(
    "options, message",
    [
        ({"model": "nothing"}, "not found"),
        ({"version": 77}, "not found"),
        ({"label": "nothing"}, "label"),
        ({"signature": "nothing"}, "(?i)signature"),
    ],
    ids=["model", "version", "label", "signature"],
)
def test_what_no_file_would_change_is_told_once(served, folder, grpc, options, message):
    options = {"model": served.model, **options}
    with pytest.raises(ServerError, match=message) as error:
        request(served.grpc if grpc else served.url, paths=list(folder.glob("*.jpg")), grpc=grpc, **options)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("grpc", [False, True], ids=["REST", "gRPC"])
def test_no_server(folder, grpc, monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    with pytest.raises(ServerError, match="No answer from 127.0.0.1:1: .*(?i:refused)"):
        request("127.0.0.1:1", "digits", [folder / "a.jpg"], grpc=grpc, retries=1)


class Flaky(http.server.BaseHTTPRequestHandler):
    """Fails as `failures` says, one a request, and then answers."""

    failures, requests, late, protocol_version = [], 0, threading.Event(), "HTTP/1.1"

    def do_POST(self):
        type(self).requests += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        failure = self.failures.pop(0) if self.failures else 200
        if failure == "hang up":
            self.close_connection = True
            return
        if failure == "be late":
            self.late.wait(60)
        answer = {"predictions": [{"classes": ["cat"], "scores": [0.5], "status": ""}]}
        answer = {"results": [[]]} if failure == "no classes" else {"error": "busy"} if failure == 503 else answer
        text = b"<html>" if failure in ("html", 404) else json.dumps(answer).encode()
        assert json.loads(body)["signature_name"] in ("predict_image_bytes", "classify")
        self.send_response(500 if failure == "cut" else failure if isinstance(failure, int) else 200)
        self.send_header("Content-Length", str(len(text) + (failure == "cut")))
        self.close_connection = failure == "cut"
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def flaky(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    Flaky.failures, Flaky.requests, Flaky.late = [], 0, threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as server:
        server.handle_error = lambda *_: None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        Flaky.late.set()
        server.shutdown()


def test_tried_again(flaky, folder):
    Flaky.failures = [503, "hang up", 503]
    answers = request(flaky, "m", [folder / "a.jpg"], retries=3)
    assert answers[folder / "a.jpg"].classes == [("cat", 0.5)] and Flaky.requests == 4
    Flaky.failures = ["be late"]
    assert not request(flaky, "m", [folder / "a.jpg"], retries=1, timeout=2)[folder / "a.jpg"].error


def test_not_for_ever(flaky, folder):
    Flaky.failures = [503] * 9
    with pytest.raises(ServerError, match="busy"):
        request(flaky, "m", [folder / "a.jpg"], retries=2)
    assert Flaky.requests == 3
    Flaky.failures = ["be late"] * 2
    with pytest.raises(ServerError, match="nothing came within 0.5 seconds"):
        request(flaky, "m", [folder / "a.jpg"], retries=0, timeout=0.5)


def test_another_server(flaky, folder):
    for failure in ("html", 404):
        Flaky.failures = [failure]
        with pytest.raises(ServerError, match="without JSON"):
            request(flaky, "m", [folder / "a.jpg"])
    Flaky.failures = ["no classes"]
    with pytest.raises(ServerError, match="gives no classes"):
        request(flaky, "m", [folder / "a.jpg"], signature="classify")


def test_an_error_that_breaks_off_is_the_servers(flaky, folder):
    Flaky.failures = ["cut"]
    (answer,) = request(flaky, "m", [folder / "a.jpg"]).values()
    assert answer.error.startswith("500")


def test_wrong_use(folder):
    for address in ("", "http://", "ftp://host", "host:port", "host:1/path", "host:99999"):
        with pytest.raises(UsageError, match="Expected HOST:PORT"):
            request(address, "m", [folder / "a.jpg"])
    for options in ({"timeout": 0}, {"retries": -1}, {"parallel": 0}):
        with pytest.raises(UsageError, match="Received: timeout="):
            request("localhost", "m", [], **options)


def test_a_file_that_cannot_be_read(flaky, tmp_path):
    (answer,) = request(flaky, "m", [tmp_path / "nothing.jpg"]).values()
    assert answer.error == "Cannot read it: No such file or directory"


def test_rest_needs_neither_tensorflow_nor_keras(flaky, folder, tmp_path):
    for name in ("tensorflow", "keras", "tf_keras", "tensorflow_serving", "grpc", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(tmp_path), *map(os.path.abspath, filter(None, sys.path))])
    run = [sys.executable, "-m", "inception_tf", "request", flaky, "m", str(folder / "a.jpg")]
    done = subprocess.run(run, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0 and "cat" in done.stdout, done.stderr
    done = subprocess.run([*run, "--grpc"], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr


def test_grpc_without_its_package(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(
        InceptionTFError, match=r"gRPC needs tensorflow-serving-api: pip install inception-tf\[serving\]"
    ):
        request("localhost", "m", [folder / "a.jpg"], grpc=True)
