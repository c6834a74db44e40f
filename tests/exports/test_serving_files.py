"""What stands beside a SavedModel for TensorFlow Serving, read by Serving's own protocol buffers."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image

from inception_tf.errors import CheckpointError
from inception_tf.exports.model_card import card_text, published_facts
from inception_tf.exports.savedmodel import export_savedmodel
from inception_tf.exports.serving_files import jpegs, models_config
from inception_tf.models.card import Card, Weights, read_card
from inception_tf.zoo import create_model

apis = pytest.importorskip("tensorflow_serving.apis", reason="needs tensorflow-serving-api")


@pytest.fixture(scope="module")
def version(lenet, tmp_path_factory):
    return export_savedmodel(lenet, tmp_path_factory.mktemp("served") / "digits", batch=(4, 1), check=False)


@pytest.fixture(scope="module")
def records(version):
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    file = version / "assets.extra/tf_serving_warmup_requests"
    return [PredictionLog.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(file))]


def request_of(record):
    """The request of a record, and its inputs: a dict from names to arrays."""
    if record.HasField("predict_log"):
        request = record.predict_log.request
        return request, {key: tf.make_ndarray(tensor) for key, tensor in request.inputs.items()}
    request = record.classify_log.request
    return request, {"inputs": np.array([e.SerializeToString() for e in request.input.example_list.examples], object)}


def test_a_warm_up_request_of_every_signature_at_every_size(version, records):
    seen = {}
    for record in records:
        request, inputs = request_of(record)
        ((key, values),) = inputs.items()
        encoded = list(values)
        if key == "inputs":
            features = [tf.train.Example.FromString(value).features.feature for value in values]
            encoded = [feature["image/encoded"].bytes_list.value[0] for feature in features]
        elif key != "image_bytes":
            assert values.shape[1:] == (28, 28, 1) and values.dtype == np.float32
            encoded = []
        assert {Image.open(io.BytesIO(data)).format for data in encoded} <= {"JPEG"}
        assert request.model_spec.name == "digits"
        seen.setdefault(request.model_spec.signature_name, []).append(len(values))
    signatures = tf.saved_model.load(str(version)).signatures
    assert seen == {name: [1, 4] for name in signatures} and len(seen) == 4


def test_the_records_are_what_the_official_protos_write(records, version):
    file = version / "assets.extra/tf_serving_warmup_requests"
    raw = [record.numpy() for record in tf.data.TFRecordDataset(str(file))]
    assert [record.SerializeToString(deterministic=True) for record in records] == raw


def test_warm_up_replays_in_a_session_as_serving_has_it(version, records):
    """By the tensors' names in the SignatureDef, which is how TensorFlow Serving runs a request."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], str(version)).signature_def
        assert signatures["classify"].method_name == "tensorflow/serving/classify"
        for name in ("serving_default", "features", "predict_image_bytes"):
            assert signatures[name].method_name == "tensorflow/serving/predict"
        for record in records:
            request, inputs = request_of(record)
            signature = signatures[request.model_spec.signature_name]
            feed = {signature.inputs[key].name: value for key, value in inputs.items()}
            outputs = session.run({key: info.name for key, info in signature.outputs.items()}, feed)
            count = len(next(iter(inputs.values())))
            assert all(len(output) == count for output in outputs.values())
            assert "status" not in outputs or not any(outputs["status"])


def test_configuration(version):
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    (entry,) = text_format.Parse(
        (version / "assets.extra/models.config").read_text(), ModelServerConfig()
    ).model_config_list.config
    assert (entry.name, entry.base_path, entry.model_platform) == ("digits", "/models/digits", "tensorflow")

    name = 'a "name", \\ with Ümlaut\n'
    config = text_format.Parse(models_config({name: "/x", "b": "/y"}), ModelServerConfig())
    assert [(model.name, model.base_path) for model in config.model_config_list.config] == [(name, "/x"), ("b", "/y")]


def test_batching(version):
    # BatchingParameters is not among the messages of tensorflow-serving-api.
    lines = (version / "batching_params.pbtxt").read_text().splitlines()
    assert "max_batch_size { value: 4 }" in lines
    assert [line for line in lines if line.startswith("allowed")] == [f"allowed_batch_sizes: {size}" for size in (1, 4)]


def test_the_jpegs_are_the_same_every_time_and_differ(monkeypatch):
    assert jpegs() == jpegs() and len(set(jpegs())) == 4
    assert {Image.open(io.BytesIO(data)).mode for data in jpegs(1)} == {"L"}


def test_card(tmp_path, checked_here):
    model = create_model("lenet", classes=3)
    weights = Weights("inception_v3_2016_08_28.tar.gz", complete=True)  # of another network: nothing to say of it
    model.card = dataclasses.replace(model.card, weights=weights, evaluation={"top1": 0.9})
    path = export_savedmodel(model, tmp_path / "digits", labels=["a", "b", "c"])
    card, text = read_card(path), (path / "assets.extra/MODEL_CARD.md").read_text("utf-8")
    export = card.export
    assert card.network == "lenet" and card.preprocessing["kind"] == "lenet"
    assert export["name"] == "digits" and export["batch"] == [1, 8, 32] and export["published"] is None
    differences = export["verification"]["differences"]
    scores = {"predict_image_bytes/scores", "classify/scores"}
    assert set(differences) == {"serving_default/logits", "serving_default/probabilities", "features/features"} | scores
    assert max(differences.values()) <= export["verification"]["tolerance"]
    for part in (
        "# digits",
        "inception_v3_2016_08_28.tar.gz",
        '`{"top1": 0.9}`',
        "kind: lenet",
        "classify/scores: ",
        "2.12.1",
    ):
        assert part in text


def test_the_published_accuracy_holds_until_the_weights_change():
    def text(weights):
        card = Card("inception_v3", weights=weights)
        facts = {"batch": [1], "xla": False, "precision": None, "max_pixels": 9, "verification": None}
        facts |= {"name": "photos", "signatures": ["features"], "published": published_facts(card)}
        return card_text(dataclasses.replace(card, export=facts))

    weights = Weights("inception_v3_2016_08_28.tar.gz", complete=True)
    assert "top-1 78.0%" in text(weights) and "was not compared" in text(weights)
    assert "step 0" in text(dataclasses.replace(weights, step=0))
    tuned = text(dataclasses.replace(weights, fine_tuned_on=3670))
    assert "fine tuned on 3670" in tuned and "78" not in tuned.replace("3670", "")


def test_a_tuned_card_says_what_was_measured():
    measured = {"data": "flowers", "images": 80, "accuracy": 0.8625, "loss": 0.4, "step": 1500}
    card = Card(
        "inception_v3", weights=Weights("trunk", fine_tuned_on=320), labels=["rose", "tulip"], evaluation=measured
    )
    facts = {"batch": [1], "xla": False, "precision": None, "max_pixels": 9, "verification": None}
    text = card_text(dataclasses.replace(card, export={"name": "x", "signatures": [], "published": None, **facts}))
    assert "80 images of flowers" in text and "step 1500" in text and "86.3 %" in text and "rose, tulip" in text
    assert "None," not in text and ": None" not in text


def test_no_card(tmp_path):
    with pytest.raises(CheckpointError, match="was not exported by this library"):
        read_card(tmp_path)
