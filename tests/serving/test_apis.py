"""REST and gRPC: the same tests for the local server and for TensorFlow Serving."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from grpc_calls import classify_request, predict_request, refused
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


@pytest.fixture(scope="module")
def stub(served):
    with grpc.insecure_channel(served.grpc) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def status_stub(served):
    with grpc.insecure_channel(served.grpc) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture(scope="module")
def expected(served, signatures, files):
    """What the SavedModel answers here, by signature."""
    run = signatures(served.version)
    images = np.random.default_rng(5).uniform(-1, 1, (3, 28, 28, 1)).astype("float32")
    answers = {name: run[name](images=tf.constant(images)) for name in ("serving_default", "features")}
    answers["predict_image_bytes"] = run["predict_image_bytes"](image_bytes=tf.constant(files))
    return images, {name: {key: o.numpy() for key, o in outputs.items()} for name, outputs in answers.items()}


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


def strings(array):
    return [[one.decode() for one in row] for row in array]


def same_images(rows, expected):
    """Rows of REST's predict_image_bytes, a bad image among them."""
    assert [row["classes"] for row in rows] == strings(expected["classes"])
    np.testing.assert_allclose([row["scores"] for row in rows], expected["scores"], rtol=1e-5)
    assert [row["status"].encode() for row in rows] == expected["status"].tolist()


def test_predict_rows(served, rest, expected, files):
    images, answers = expected
    path = f"/v1/models/{served.model}:predict"
    for instances in (images.tolist(), [{"images": image} for image in images.tolist()]):
        status, answer = rest(served.url, path, {"instances": instances})
        assert status == 200
        for key, value in answers["serving_default"].items():
            rows = [row[key] for row in answer["predictions"]]
            np.testing.assert_allclose(rows, value, rtol=1e-4, atol=1e-5)
    body = {"signature_name": "features", "instances": images.tolist()}
    features = rest(served.url, path, body)[1]["predictions"]  # one output: plain values
    np.testing.assert_allclose(features, answers["features"]["features"], rtol=1e-4, atol=1e-5)
    body = {"signature_name": "predict_image_bytes", "instances": list(map(b64, files))}
    same_images(rest(served.url, path, body)[1]["predictions"], answers["predict_image_bytes"])


def test_base64_as_serving_takes_it(served, rest, files):
    """White space, line ends, no padding; a plain string is told what is wanted."""
    path, text = f"/v1/models/{served.model}:predict", base64.b64encode(files[0]).decode()
    lines = base64.encodebytes(files[0]).decode().replace("\n", "\r\n \t")
    instances = [{"b64": one} for one in (text, text.rstrip("="), lines, text.rstrip("=") + "\n")]
    plain = [text, "photo.jpg", "BMW äöü.jpg", 99 * "猫"]
    body = {"signature_name": "predict_image_bytes", "instances": [*instances, *plain]}
    rows = rest(served.url, path, body)[1]["predictions"]
    assert [row["status"] for row in rows[:4]] == [""] * 4 and all(row == rows[0] for row in rows[1:4])
    assert all('{"b64":' in row["status"] and set(row["scores"]) == {0} for row in rows[4:])


def test_predict_columns(served, rest, expected, files):
    images, answers = expected
    path = f"/v1/models/{served.model}:predict"
    for inputs in (images.tolist(), {"images": images.tolist()}):
        outputs = rest(served.url, path, {"inputs": inputs})[1]["outputs"]
        for key, value in answers["serving_default"].items():
            np.testing.assert_allclose(outputs[key], value, rtol=1e-4, atol=1e-5)
    body = {"signature_name": "predict_image_bytes", "inputs": {"image_bytes": list(map(b64, files))}}
    outputs = rest(served.url, path, body)[1]["outputs"]
    assert outputs["classes"] == strings(answers["predict_image_bytes"]["classes"])
    assert [bool(status) for status in outputs["status"]] == [False, False, True, True, False]


def test_classify_by_rest(served, rest, expected, files):
    wanted = expected[1]["predict_image_bytes"]
    examples = [{"image/encoded": b64(data), "image/format": "jpeg", "n": 1} for data in files]
    body = {"signature_name": "classify", "examples": examples}
    status, answer = rest(served.url, f"/v1/models/{served.model}:classify", body)
    assert status == 200
    names = [[name for name, _ in row] for row in answer["results"]]
    assert names == strings(wanted["classes"]) and names[2] == ["", "", ""]
    scores = [[score for _, score in row] for row in answer["results"]]
    np.testing.assert_allclose(scores, wanted["scores"], rtol=1e-5)


def test_predict_by_grpc(served, stub, expected, files):
    images, answers = expected
    inputs = {"serving_default": {"images": images}, "features": {"images": images}}
    inputs["predict_image_bytes"] = {"image_bytes": files}
    for signature, arrays in inputs.items():
        response = stub.Predict(predict_request(served.model, signature, **arrays))
        assert set(response.outputs) == set(answers[signature])
        assert response.model_spec.name == served.model and response.model_spec.version.value > 0
        for key, value in answers[signature].items():
            got = tf.make_ndarray(response.outputs[key])
            if value.dtype == object:
                assert got.tolist() == value.tolist()
            else:
                np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-5)
    request = predict_request(served.model, "predict_image_bytes", image_bytes=files)
    request.output_filter.append("scores")
    assert set(stub.Predict(request).outputs) == {"scores"}


def test_classify_by_grpc(served, stub, expected, files):
    wanted = expected[1]["predict_image_bytes"]
    for kind in ("example_list", "example_list_with_context"):
        request = classify_request(served.model)
        given = getattr(request.input, kind)
        for data in files:
            given.examples.add().features.feature["image/encoded"].bytes_list.value.append(data)
        if kind.endswith("context"):
            given.context.features.feature["camera"].bytes_list.value.append(b"x")
        rows = stub.Classify(request).result.classifications
        assert [[one.label for one in row.classes] for row in rows] == strings(wanted["classes"])
        scores = [[one.score for one in row.classes] for row in rows]
        np.testing.assert_allclose(scores, wanted["scores"], rtol=1e-5)


def test_no_rows(served, stub):
    images = np.zeros((0, 28, 28, 1), "float32")
    response = stub.Predict(predict_request(served.model, "serving_default", images=images))
    assert tf.make_ndarray(response.outputs["logits"]).shape[0] == 0


def test_metadata(served, rest, stub):
    status, answer = rest(served.url, f"/v1/models/{served.model}/metadata")
    assert status == 200
    found = answer["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "features", "predict_image_bytes", "classify"} <= set(found)
    assert found["classify"]["method_name"] == "tensorflow/serving/classify"
    assert found["predict_image_bytes"]["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    dims = found["features"]["inputs"]["images"]["tensor_shape"]["dim"]
    assert [dim["size"] for dim in dims][1:] == ["28", "28", "1"]

    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = served.model
    response, signatures = stub.GetModelMetadata(request), get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    assert set(found) == set(signatures.signature_def)
    request.metadata_field[:] = ["weather"]
    refused(grpc.StatusCode.INVALID_ARGUMENT, stub.GetModelMetadata, request)


def test_status(served, rest, status_stub):
    status, answer = rest(served.url, f"/v1/models/{served.model}")
    (entry,) = answer["model_version_status"]
    assert status == 200 and entry["state"] == "AVAILABLE"
    assert entry["status"] == {"error_code": "OK", "error_message": ""}
    assert rest(served.url, f"/v1/models/{served.model}/versions/{entry['version']}")[1] == answer

    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = served.model
    (entry,) = status_stub.GetModelStatus(request).model_version_status
    assert entry.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    request.model_spec.name = "nothing"
    refused(grpc.StatusCode.NOT_FOUND, status_stub.GetModelStatus, request)


@pytest.mark.parametrize(
    "path, status",
    [
        ("/v1/models/nothing:predict", 404),
        ("/v1/models/{}/versions/77:predict", 404),
        ("/v1/models/{}/labels/nothing:predict", 400),
        ("/v1/models/{}:explain", 400),
        ("/v1/models/{}/versions/one:predict", 400),
        ("/v1/models/{}/versions/99999999999999999999:predict", 400),
        ("/v1/nothing", 400),
    ],
)
def test_paths_that_are_none(served, rest, path, status):
    got, answer = rest(served.url, path.format(served.model), {"instances": [1]})
    assert got == status and list(answer) == ["error"] and isinstance(answer["error"], str)


IMAGE = np.zeros((28, 28, 1)).tolist()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[1]",
        b"{} {",
        b"[" * 100_000,
        {},
        {"instances": []},
        {"instances": 3},
        {"instances": [IMAGE], "inputs": [IMAGE]},
        {"instances": [IMAGE[:27]]},
        {"instances": [IMAGE, IMAGE[:27]]},
        {"instances": ["text"]},
        {"instances": [None]},
        {"instances": [[["x"] * 28] * 28]},
        {"instances": [b64(b"x")]},
        {"instances": [{"image": IMAGE}]},
        {"instances": [{"images": IMAGE, "more": 1}]},
        {"instances": [{"images": IMAGE}, IMAGE]},
        {"inputs": {"image": [IMAGE]}},
        {"inputs": 1},
        {"signature_name": "nothing", "instances": [IMAGE]},
        {"signature_name": 7, "instances": [IMAGE]},
        {"signature_name": "predict_image_bytes", "instances": [{"b64": "***"}]},
        {"signature_name": "predict_image_bytes", "instances": [{"b64": 5}]},
        {"signature_name": "predict_image_bytes", "instances": [{"b64": "AAAAA"}]},
        {"signature_name": "predict_image_bytes", "instances": [{"b64": "AA="}]},
        {"signature_name": "predict_image_bytes", "instances": [{"b64": "AAAA===="}]},
        {"signature_name": "predict_image_bytes", "instances": [{"b64": "A=AA"}]},
        {"signature_name": "predict_image_bytes", "instances": [3]},
        {"signature_name": "predict_image_bytes", "instances": [["a", "b"]]},
        {"signature_name": "predict_image_bytes", "inputs": "one"},
    ],
    ids=lambda body: (body if isinstance(body, bytes) else json.dumps(body).encode())[:40].decode(errors="replace"),
)
def test_malformed_predictions(served, rest, body):
    status, answer = rest(served.url, f"/v1/models/{served.model}:predict", body)
    assert status == 400 and list(answer) == ["error"] and len(answer["error"]) < 1000


@pytest.mark.parametrize(
    "body",
    [
        {"examples": [{"image/encoded": "x"}]},  # serving_default is none of Classify's
        {"signature_name": "nothing", "examples": [{}]},
        {"signature_name": "classify"},
        {"signature_name": "classify", "examples": []},
        {"signature_name": "classify", "examples": {}},
        {"signature_name": "classify", "examples": ["x"]},
        {"signature_name": "classify", "examples": [{"a": None}]},
        {"signature_name": "classify", "examples": [{"a": [1, "x"]}]},
    ],
    ids=str,
)
def test_malformed_examples(served, rest, body):
    status, answer = rest(served.url, f"/v1/models/{served.model}:classify", body)
    assert status == 400 and list(answer) == ["error"]


@pytest.mark.parametrize(
    "tensor",
    [
        "dtype: DT_DOUBLE tensor_shape { dim { size: 1 } } double_val: 1",
        "dtype: DT_STRING tensor_shape { dim { size: 1 } } string_val: 'x'",
        "dtype: DT_FLOAT tensor_shape { dim { size: 28 } dim { size: 28 } dim { size: 1 } } float_val: 1",
        "dtype: DT_FLOAT tensor_shape { dim { size: 1 } dim { size: 28 } dim { size: 28 } dim { size: 1 } } "
        "tensor_content: 'short'",
        "dtype: DT_FLOAT tensor_shape { dim { size: -2 } dim { size: 28 } dim { size: 28 } dim { size: 1 } } "
        "float_val: 1",
    ],
)
def test_malformed_tensors(served, stub, tensor):
    request = predict_request(served.model, "serving_default")
    text_format.Parse(tensor, request.inputs["images"])
    refused(grpc.StatusCode.INVALID_ARGUMENT, stub.Predict, request)


def test_malformed_messages(served, stub):
    images, codes = np.zeros((1, 28, 28, 1), "float32"), grpc.StatusCode
    unknown, version, label = (predict_request(served.model, images=images) for _ in range(3))
    unknown.output_filter.append("nothing")
    version.model_spec.version.value = 77
    label.model_spec.version_label = "nothing"
    for code, request in [
        (codes.INVALID_ARGUMENT, predict_pb2.PredictRequest()),
        (codes.INVALID_ARGUMENT, predict_request("", "features", images=images)),
        (codes.NOT_FOUND, predict_request("nothing", "features", images=images)),
        (codes.INVALID_ARGUMENT, predict_request(served.model, image=images)),
        (codes.INVALID_ARGUMENT, predict_request(served.model, images=images, more=images)),
        (codes.INVALID_ARGUMENT, unknown),
        (codes.NOT_FOUND, version),
        (codes.INVALID_ARGUMENT, label),
    ]:
        refused(code, stub.Predict, request)
    with pytest.raises(grpc.RpcError) as error:  # Serving says FAILED_PRECONDITION here
        stub.Predict(predict_request(served.model, "nothing", images=images))
    assert error.value.code() in (codes.INVALID_ARGUMENT, codes.FAILED_PRECONDITION)
    refused(codes.INVALID_ARGUMENT, stub.Classify, classify_request(served.model))  # no input


def test_many_at_once_are_all_answered_right(served, stub, signatures):
    """Of one signature, batched; every client gets its own rows."""
    random = np.random.default_rng(6)
    batches = [random.uniform(-1, 1, (1 + i % 3, 28, 28, 1)).astype("float32") for i in range(60)]
    with ThreadPoolExecutor(16) as pool:
        requests = [predict_request(served.model, "serving_default", images=images) for images in batches]
        answers = list(pool.map(stub.Predict, requests))
    run = signatures(served.version)["serving_default"]
    for images, answer in zip(batches, answers):
        wanted = run(images=tf.constant(images))["logits"].numpy()
        np.testing.assert_allclose(tf.make_ndarray(answer.outputs["logits"]), wanted, rtol=1e-4, atol=1e-5)
