"""What is the local server's own: limits, metrics, the page's requests, versions that come and go."""

import asyncio
import base64
import http.client
import json
import shutil
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_service_pb2_grpc

from inception_tf.errors import InceptionTFError, UsageError
from inception_tf.serving.models import ModelConfig, find_models, read_config
from inception_tf.serving.server import LocalServer, Settings, check_host


@pytest.fixture(scope="module")
def server(digits, start):
    with start(digits, max_bytes=2**20) as server:
        yield server


@pytest.fixture(scope="module")
def url(server):
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def refused(call, request):
    with pytest.raises(grpc.RpcError) as error:
        call(request)
    return error.value


def test_a_body_that_is_too_large(url, rest, server):
    """By its length, and without one; the answer comes before the body has."""
    path = "/v1/models/digits:predict"
    status, answer = rest(url, path, b" " * (2**20 + 1))
    assert (status, answer) == (413, {"error": "The body is larger than 1,048,576 bytes"})
    assert rest(url, "/page/classify?model=digits", b" " * (2**20 + 1))[0] == 413
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", path, iter([b" " * 2**16] * 40), encode_chunked=True, headers={})
    assert connection.getresponse().status == 413
    connection.close()
    with socket.create_connection(("127.0.0.1", server.port), 120) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_a_message_that_is_too_large(server):
    channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.max_send_message_length", -1)])
    with channel:
        request = predict_pb2.PredictRequest()
        request.inputs["image_bytes"].string_val.append(bytes(2**20))
        error = refused(prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict, request)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_bytes_that_are_no_message(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        for method, code in [
            ("tensorflow.serving.PredictionService/Predict", grpc.StatusCode.INVALID_ARGUMENT),
            ("tensorflow.serving.ModelService/GetModelStatus", grpc.StatusCode.INVALID_ARGUMENT),
            ("tensorflow.serving.PredictionService/Explain", grpc.StatusCode.UNIMPLEMENTED),
        ]:
            assert refused(channel.unary_unary(f"/{method}"), b"\xff\xff no message").code() == code


def test_short_messages_that_stand_for_much(stub):
    """A value that stands for all of a tensor, a string for many, a context for every example."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "digits"
    tensor = request.inputs["images"]
    tensor.dtype = tf.float32.as_datatype_enum
    tensor.float_val.append(1)
    for size in (4000, 28, 28, 1):
        tensor.tensor_shape.dim.add(size=size)
    assert "too large" in refused(stub.Predict, request).details()
    tensor.tensor_shape.dim[0].size = 2**40
    assert "4096 rows" in refused(stub.Predict, request).details()

    request.model_spec.signature_name = "predict_image_bytes"
    request.inputs.clear()
    tensor = request.inputs["image_bytes"]
    tensor.dtype = tf.string.as_datatype_enum
    tensor.string_val.append(bytes(5000))
    tensor.tensor_shape.dim.add(size=4000)
    assert "has 1 strings" in refused(stub.Predict, request).details()

    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "digits", "classify"
    given = request.input.example_list_with_context
    given.context.features.feature["image/encoded"].bytes_list.value.append(bytes(5000))
    for _ in range(4000):
        given.examples.add()
    error = refused(stub.Classify, request)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "context is too large" in error.details()


def test_metrics(url, rest, server):
    rest(url, "/v1/models/digits:predict", {"instances": [np.zeros((28, 28, 1)).tolist()]})
    rest(url, "/v1/models/made-up:predict", {})
    status, text = rest(url, "/metrics", raw=True)
    samples = [s for family in text_string_to_metric_families(text.decode()) for s in family.samples]
    counts = {
        (s.labels["model"], s.labels["code"]): s.value for s in samples if s.name == "inception_tf_requests_total"
    }
    assert status == 200 and counts["digits", "OK"] >= 1
    assert counts["", "NOT_FOUND"] >= 1  # a name that senders make up is no label
    assert any(s.name == "inception_tf_batch_rows_sum" and s.value >= 1 for s in samples)
    assert any(s.name == "process_resident_memory_bytes" for s in samples)


def test_what_the_page_asks(url, rest, files):
    status, page = rest(url, "/", raw=True)
    assert status == 200 and b"http://" not in page and b"https://" not in page and b"src=" not in page
    assert rest(url, "/page/models") == (200, [{"name": "digits", "version": 1}])
    status, answer = rest(url, "/page/classify?model=digits", files[0])
    assert status == 200 and len(answer["classes"]) == 3 and answer["status"] == ""
    status, answer = rest(url, "/page/classify?model=digits", files[2])
    assert (status, answer["classes"]) == (200, []) and answer["status"] == "The image is truncated, corrupted."
    assert rest(url, "/page/classify?model=nothing", files[0])[0] == 404
    assert rest(url, "/nothing")[0] == 404


def test_clients_that_go_away_leave_nothing_behind(server, url, rest):
    for request in (
        b"POST /v1/models/digits:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"GET /",
        b"\0\1",
    ):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(request)
    until(lambda: b"inception_tf_requests_in_flight 0.0" in rest(url, "/metrics", raw=True)[1])


# Versions that come and go.


def ask(rest, server, path="digits"):
    """Which seed's version answers."""
    body = {"signature_name": "predict_image_bytes", "instances": [{"b64": PNG}]}
    status, answer = rest(f"http://127.0.0.1:{server.port}", f"/v1/models/{path}:predict", body)
    if status != 200:
        return status
    return int(answer["predictions"][0]["classes"][0].split()[0].removeprefix("v"))


PNG = base64.b64encode(tf.io.encode_png(np.full((8, 8, 1), 99, np.uint8)).numpy()).decode()


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def states(rest, server, model="digits"):
    answer = rest(f"http://127.0.0.1:{server.port}", f"/v1/models/{model}")[1]
    return {entry["version"]: entry["state"] for entry in answer.get("model_version_status", [])}


def place(version, base, number):
    """Beside its name and then renamed, as an export does it; without warm-up, which is most of loading so little."""
    part = base / f".{number}"
    shutil.copytree(version, part, ignore=shutil.ignore_patterns("tf_serving_warmup_requests"))
    part.rename(base / str(number))


def test_a_new_version_takes_over_and_no_request_is_lost(make_version, start, tmp_path, rest):
    make_version(2)
    place(make_version(1), tmp_path / "digits", 1)
    with start(tmp_path, threads=1) as server:
        stop, seen, failures = threading.Event(), [], []

        def client():
            while not stop.is_set():
                answer = ask(rest, server)
                (seen if answer in (1, 2) else failures).append(answer)

        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: seen or failures)
        place(make_version(2), tmp_path / "digits", 2)
        until(lambda: states(rest, server) == {"2": "AVAILABLE", "1": "END"})
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures and {1, 2} == set(seen)
        assert ask(rest, server) == 2 and ask(rest, server, "digits/versions/1") == 404

        shutil.rmtree(tmp_path / "digits/2")  # rolled back
        until(lambda: ask(rest, server) == 1)
        shutil.rmtree(tmp_path / "digits")  # what is served stays
        time.sleep(0.3)
        assert ask(rest, server) == 1


def test_a_version_that_does_not_load_leaves_the_old_one(make_version, start, tmp_path, rest):
    place(make_version(1), tmp_path / "digits", 1)
    with start(tmp_path) as server:
        (tmp_path / "digits/2").mkdir()  # no SavedModel yet: not looked at
        (tmp_path / "digits/3").mkdir()
        (tmp_path / "digits/3/saved_model.pb").write_bytes(b"half")
        until(lambda: states(rest, server).get("3") == "END")
        assert states(rest, server) == {"3": "END", "1": "AVAILABLE"} and ask(rest, server) == 1
        answer = rest(f"http://127.0.0.1:{server.port}", "/v1/models/digits/versions/3")[1]
        status = answer["model_version_status"][0]["status"]
        assert status["error_code"] == "FAILED_PRECONDITION" and "Cannot load" in status["error_message"]
        shutil.copytree(make_version(2), tmp_path / "digits/3", dirs_exist_ok=True)  # the other half comes
        until(lambda: ask(rest, server) == 2)


def test_several_models_and_labels(make_version, start, tmp_path, rest):
    for number in (1, 2):
        place(make_version(number), tmp_path / "digits", number)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with start(tmp_path, labels={"digits": {"stable": 1, "broken": 9}}) as server:
        assert ask(rest, server) == 2
        assert ask(rest, server, "digits/labels/stable") == ask(rest, server, "digits/versions/1") == 1
        assert ask(rest, server, "digits/labels/broken") == 404
        place(make_version(1), tmp_path / "a letter: ä", 5)  # a model that comes later
        until(lambda: ask(rest, server, "a%20letter%3A%20%C3%A4") == 1)
        assert states(rest, server, "a%20letter%3A%20%C3%A4") == {"5": "AVAILABLE"}


def test_it_stops_when_what_is_under_way_is_answered(make_version, start, tmp_path, rest):
    place(make_version(1), tmp_path / "digits", 1)
    server = start(tmp_path).__enter__()
    run, begun, go = server.models.run, threading.Event(), threading.Event()

    async def slow(*args):
        begun.set()
        while not go.is_set():
            await asyncio.sleep(0.01)
        return await run(*args)

    server.models.run = slow
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, rest, server)
        begun.wait()
        stopping = pool.submit(server.__exit__)
        time.sleep(0.3)
        assert not stopping.done()
        go.set()
        assert answer.result() == 1
        stopping.result()
    with pytest.raises(OSError):
        ask(rest, server)


def test_a_network_that_takes_too_long(make_version, start, tmp_path, rest):
    place(make_version(1), tmp_path / "digits", 1)
    with start(tmp_path, timeout=0.2) as server:

        async def never(*args):
            await asyncio.sleep(60)

        server.models.run = never
        assert ask(rest, server) == 504


# What it is asked to serve.


def test_a_port_that_is_taken(digits, start):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for settings in ({"port": port}, {"grpc_port": port}):
            with pytest.raises(InceptionTFError, match=f"Cannot listen on 127.0.0.1:{port}"), start(digits, **settings):
                pass


def test_directories_that_hold_no_models(tmp_path, make_version):
    with pytest.raises(UsageError, match="is not a directory"):
        find_models(tmp_path / "nothing")
    with pytest.raises(UsageError, match="holds no models.*inception-tf export"):
        find_models(tmp_path)
    with pytest.raises(UsageError, match="is a version of a model itself"):
        find_models(make_version(1))
    assert list(find_models(make_version(1).parent)) == ["digits"]


def test_configuration_files(tmp_path):
    path = tmp_path / "models.config"
    path.write_text(
        """model_config_list {
          config { name: "a" base_path: "/a" model_platform: "tensorflow"
                   model_version_policy { specific { versions: 1 versions: 3 } }
                   version_labels { key: "stable" value: 1 } }
          config { name: "b" base_path: "/b" model_version_policy { latest { num_versions: 2 } } }
          config { name: "c" base_path: "/c" model_version_policy { all {} } }
          config { name: "d" base_path: "/d" } }"""
    )
    models = read_config(path)
    assert models["a"].policy == {1, 3} and models["a"].labels == {"stable": 1}
    assert (models["b"].policy, models["b"].latest, models["c"].policy, models["d"].latest) == ("latest", 2, "all", 1)
    for number in (1, 2, 3, 10):
        (tmp_path / "m" / str(number)).mkdir(parents=True)
        (tmp_path / "m" / str(number) / "saved_model.pb").touch()
    wanted = [ModelConfig(tmp_path / "m", *policy).wanted() for policy in [("latest", 2), ("all",), ({1, 7},), ()]]
    assert wanted == [{3, 10}, {1, 2, 3, 10}, {1}, {10}]
    for text in ("", "nonsense {"):
        path.write_text(text)
        with pytest.raises(UsageError, match="models.config"):
            read_config(path)


def test_hosts():
    assert check_host("127.0.0.1") and check_host("localhost") and not check_host("0.0.0.0")
    with pytest.raises(UsageError, match="--host"):
        check_host("no such host.")


def test_a_missing_package_is_told_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(InceptionTFError, match=r"needs aiohttp: pip install inception-tf\[serving\]"):
        LocalServer(dict, Settings())


def test_json_of_statuses_is_strict(url, rest):
    text = rest(url, "/v1/models/digits", raw=True)[1]
    assert json.loads(text, parse_constant=pytest.fail)
