"""What is the local server's own: limits, metrics, versions that come and go. The rest is in test_apis.py."""

import base64
import http.client
import json
import shutil
import socket
import threading
import time
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_calls import classify_request, predict_request, refused
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.predict_pb2 import PredictResponse

from inception_tf.errors import InceptionTFError, UsageError
from inception_tf.serving import rest_json
from inception_tf.serving.directories import find_models
from inception_tf.serving.models import RpcError, Servable


@pytest.fixture(scope="module")
def server(digits, start):
    with start(digits, max_bytes=2**20) as server:
        yield server


@pytest.fixture(scope="module")
def url(server):
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def channel(server):
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def test_a_body_that_is_too_large(url, rest, server):
    """By its length, and without one; the answer comes before the body has."""
    path = "/v1/models/digits:predict"
    status, answer = rest(url, path, b" " * (2**20 + 1))
    assert status == 413 and "1,048,576 bytes" in answer["error"]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", path, iter([b" " * 2**16] * 40), encode_chunked=True, headers={})
    assert connection.getresponse().status == 413
    connection.close()
    with socket.create_connection(("127.0.0.1", server.port), 120) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_that_is_not_what_its_headers_say(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", "/v1/models/digits:predict", b"{}", {"Content-Encoding": "gzip"})
    response = connection.getresponse()
    assert response.status == 400 and "Cannot read the body" in json.load(response)["error"]
    connection.close()


def test_a_message_that_is_too_large(stub):
    request = predict_request("digits", "predict_image_bytes", image_bytes=[bytes(2**20)])
    refused(grpc.StatusCode.RESOURCE_EXHAUSTED, stub.Predict, request)


@pytest.mark.parametrize(
    "method, code",
    [
        ("PredictionService/Predict", grpc.StatusCode.INVALID_ARGUMENT),
        ("ModelService/GetModelStatus", grpc.StatusCode.INVALID_ARGUMENT),
        ("PredictionService/Regress", grpc.StatusCode.UNIMPLEMENTED),
        ("PredictionService/Explain", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_bytes_that_are_no_message(channel, method, code):
    refused(code, channel.unary_unary(f"/tensorflow.serving.{method}"), b"\xff\xff no message")


def test_short_messages_that_stand_for_much(stub):
    """A value that stands for all of a tensor, a string for many, a context for every example."""
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    request = predict_request("digits", images=np.ones((1, 1, 1, 1), "float32"))
    for dim, size in zip(request.inputs["images"].tensor_shape.dim, (4000, 28, 28, 1)):
        dim.size = size
    assert "larger than 1,048,576 bytes" in refused(invalid, stub.Predict, request)
    request = predict_request("digits", "predict_image_bytes", image_bytes=[bytes(5000)])
    request.inputs["image_bytes"].tensor_shape.dim[0].size = 4000
    assert "1 strings" in refused(invalid, stub.Predict, request)
    request = predict_request("digits", "predict_image_bytes", image_bytes=[b""] * 5000)
    assert "4096 rows" in refused(invalid, stub.Predict, request)

    request = classify_request("digits")
    given = request.input.example_list_with_context
    given.context.features.feature["image/encoded"].bytes_list.value.append(bytes(5000))
    for _ in range(4000):
        given.examples.add()
    assert "context is too large" in refused(invalid, stub.Classify, request)


def test_one_long_string_makes_no_other_longer(server):
    """NumPy's own strings are all as long as the longest: here that would be 2 and 4 GB."""
    request, servable = classify_request("digits"), server.models.servables["digits"]
    examples = [request.input.example_list.examples.add() for _ in range(4200)]
    examples[0].features.feature["image/encoded"].bytes_list.value.append(bytes(500_000))
    tracemalloc.start()
    with pytest.raises(RpcError, match="4096 rows"):
        servable.classify(request)
    with pytest.raises(RpcError, match="lists of equal sizes"):
        rest_json.predict(servable, json.dumps({"instances": ["a" * 500_000, *([0] * 2000)]}))
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_errors_of_any_kind_are_json(server, url, rest, monkeypatch):
    body = {"signature_name": "\ud800", "examples": [{}]}
    assert rest(url, "/v1/models/digits:classify", body)[0] == 400
    for error, wanted in (RpcError("busy", grpc.StatusCode.UNAVAILABLE), 503), (KeyError("digits"), 500):
        monkeypatch.setattr(server.models.servables["digits"], "predict", Mock(side_effect=error))
        status, answer = rest(url, "/v1/models/digits:predict", {"instances": np.zeros((1, 28, 28, 1)).tolist()})
        assert status == wanted and set(answer) == {"error"}


def test_more_rows_than_run_at_once(stub, signatures, digits):
    images = np.random.default_rng(3).uniform(-1, 1, (70, 28, 28, 1)).astype("float32")
    outputs = stub.Predict(predict_request("digits", images=images)).outputs
    wanted = signatures(digits / "digits/1")["serving_default"](images=tf.constant(images))
    np.testing.assert_allclose(tf.make_ndarray(outputs["logits"]), wanted["logits"], rtol=1e-4, atol=1e-5)


def test_what_json_cannot_write_is_null(server, url, rest, monkeypatch):
    response = PredictResponse(outputs={"logits": tf.make_tensor_proto(np.float32([[1, np.nan, -np.inf]]))})
    monkeypatch.setattr(server.models.servables["digits"], "predict", lambda _: response)
    body = {"instances": np.zeros((1, 28, 28, 1)).tolist()}
    assert rest(url, "/v1/models/digits:predict", body) == (200, {"predictions": [[1, None, None]]})


def samples(url, rest):
    """The metrics."""
    text = rest(url, "/metrics", raw=True)[1].decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def test_metrics(url, rest):
    rest(url, "/v1/models/digits:predict", {"instances": [np.zeros((28, 28, 1)).tolist()]})
    rest(url, "/v1/models/made-up:predict", {})
    names = {s.name for s in samples(url, rest)}
    counted = [s for s in samples(url, rest) if s.name == "inception_tf_request_seconds_count" and s.value >= 1]
    codes = {(s.labels["model"], s.labels["code"]) for s in counted}
    assert rest(url, "/monitoring/prometheus/metrics", raw=True)[0] == 200
    assert codes >= {("digits", "OK"), ("", "NOT_FOUND")}  # made-up names are no labels
    assert {"inception_tf_request_seconds_sum", "process_resident_memory_bytes"} <= names


def test_what_the_page_asks(url, rest):
    status, page = rest(url, "/", raw=True)
    assert status == 200 and b"http://" not in page and b"https://" not in page and b"src=" not in page
    assert rest(url, "/page/models") == (200, ["digits"])
    assert rest(url, "/nothing")[0] == 404


def test_clients_that_go_away_leave_nothing_behind(server, url, rest):
    def ended():
        return sum(s.value for s in samples(url, rest) if s.name == "inception_tf_request_seconds_count")

    before = ended()
    for request in (
        b"GET /",
        b"\0\1",
        b"POST /v1/models/digits:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    ):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(request)
    until(lambda: ended() == before + 1)


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
    with start(tmp_path) as server:
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
        until(lambda: 2 in seen)
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures and {1, 2} == set(seen)
        assert ask(rest, server, "digits/versions/2") == 2 and ask(rest, server, "digits/versions/1") == 404

        shutil.rmtree(tmp_path / "digits/2")  # rolled back
        until(lambda: ask(rest, server) == 1)
        shutil.rmtree(tmp_path / "digits")  # what is served stays
        time.sleep(0.3)
        assert ask(rest, server) == 1


def test_a_version_that_is_replaced_is_unloaded(make_version, start, tmp_path, rest):
    place(make_version(1), tmp_path / "digits", 1)
    with start(tmp_path) as server:
        old = weakref.ref(server.models.servables["digits"])
        place(make_version(2), tmp_path / "digits", 2)
        until(lambda: old() is None)


def test_a_version_that_does_not_load_leaves_the_old_one(make_version, start, tmp_path, rest):
    place(make_version(1), tmp_path / "digits", 1)
    (tmp_path / "digits/3").mkdir()
    (tmp_path / "digits/3/saved_model.pb").write_bytes(b"half")
    with start(tmp_path) as server:
        (tmp_path / "digits/2").mkdir()  # no SavedModel yet: not looked at
        assert states(rest, server) == {"3": "END", "1": "AVAILABLE"} and ask(rest, server) == 1
        answer = rest(f"http://127.0.0.1:{server.port}", "/v1/models/digits/versions/3")[1]
        status = answer["model_version_status"][0]["status"]
        assert status["error_code"] == "FAILED_PRECONDITION" and "Cannot load" in status["error_message"]
        shutil.copytree(make_version(2), tmp_path / "digits/3", dirs_exist_ok=True)  # the other half comes
        until(lambda: ask(rest, server) == 2)


def test_a_model_that_comes_later(make_version, start, tmp_path, rest):
    place(make_version(1), tmp_path / "digits", 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with start(tmp_path) as server:
        place(make_version(1), tmp_path / "a letter: ä", 5)
        until(lambda: ask(rest, server, "a%20letter%3A%20%C3%A4") == 1)
        assert states(rest, server, "a%20letter%3A%20%C3%A4") == {"5": "AVAILABLE"}


def test_it_stops_when_what_is_under_way_is_answered(start, digits, rest, monkeypatch):
    begun, go = threading.Event(), threading.Event()
    with ThreadPoolExecutor() as pool:
        with start(digits) as server:
            servable = server.models.servables["digits"]
            predict = servable.predict

            def slow(request):
                begun.set()
                go.wait(60)
                return predict(request)

            monkeypatch.setattr(servable, "predict", slow)
            answer = pool.submit(ask, rest, server)
            begun.wait()
            threading.Timer(0.3, go.set).start()
        assert go.is_set() and answer.result() == 1
    with pytest.raises(OSError):
        ask(rest, server)


def test_a_network_that_takes_too_long(start, digits, rest, monkeypatch):
    go = threading.Event()
    with start(digits, timeout=0.2) as server:
        monkeypatch.setattr(server.models.servables["digits"], "predict", lambda _: go.wait(60))
        assert ask(rest, server) == 504
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            request = predict_request("digits", images=np.zeros((1, 28, 28, 1), "float32"))
            assert "0.2 seconds" in refused(grpc.StatusCode.DEADLINE_EXCEEDED, predict, request)
        go.set()


def test_what_runs_too_long_is_stopped(digits, tmp_path):
    """Its thread is free again: TensorFlow stops between two ops."""
    v1, path = tf.compat.v1, str(tmp_path / "1")
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None])
        y = tf.while_loop(lambda y: tf.reduce_all(y < 2), lambda y: y * 1, [x])
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y[0] if isinstance(y, list) else y})
        builder = v1.saved_model.Builder(path)
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    servable = Servable("endless", 1, path, 2**20, 0.5)
    assert servable.predict(predict_request("", x=np.float32([3]))).outputs["y"].float_val == [3]
    with pytest.raises(RpcError) as error:
        servable.predict(predict_request("", x=np.float32([1])))
    assert error.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_classify_without_classes(tmp_path):
    """A SavedModel of another library may have scores alone."""
    v1, path = tf.compat.v1, str(tmp_path / "1")
    with tf.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None])
        tensors = {"inputs": examples}, {"scores": tf.ones_like(tf.strings.length(examples), tf.float32)}
        infos = ({name: v1.saved_model.utils.build_tensor_info(x) for name, x in part.items()} for part in tensors)
        signature = v1.saved_model.signature_def_utils.build_signature_def(*infos, "tensorflow/serving/classify")
        builder = v1.saved_model.Builder(path)
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    with pytest.raises(RpcError, match="with classes and scores"):
        Servable("other", 1, path, 2**20, 30).classify(ClassificationRequest())


# What it is asked to serve.


def test_a_port_that_is_taken(digits, start):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for settings in ({"port": port}, {"grpc_port": port}):
            with pytest.raises(InceptionTFError, match=f"Cannot listen on 127.0.0.1:{port}"), start(digits, **settings):
                pass


def test_hosts(digits, start, caplog):
    with start(digits, host="localhost"):
        assert "authentication" not in caplog.text
    with start(digits, host="0.0.0.0"):
        assert "no authentication" in caplog.text
    with pytest.raises(UsageError, match="Cannot listen on no such host"), start(digits, host="no such host."):
        pass


def test_directories_that_hold_no_models(tmp_path, make_version):
    with pytest.raises(UsageError, match="is not a directory"):
        find_models(tmp_path / "nothing")
    with pytest.raises(UsageError, match="holds no models.*inception-tf export"):
        find_models(tmp_path)
    with pytest.raises(UsageError, match="is a version of a model itself"):
        find_models(make_version(1))
    assert list(find_models(make_version(1).parent)) == ["digits"]
