"""Others' readers and converters take the SavedModel as it is: by the signature's name, any number of images."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from inception_tf.exports.savedmodel import save_savedmodel


@pytest.fixture(scope="module")
def path(lenet, tmp_path_factory):
    return str(save_savedmodel(lenet, tmp_path_factory.mktemp("readers") / "digits", check=False))


def keras_layer(path, _):
    return keras.layers.TFSMLayer(path, call_endpoint="serving_default")


def session(path, _):
    """TensorFlow 1's loader and feeds by name."""
    v1 = tf.compat.v1
    session = v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        signature = v1.saved_model.load(session, ["serve"], path).signature_def["serving_default"]
    outputs = {key: info.name for key, info in signature.outputs.items()}
    return lambda images: session.run(outputs, {signature.inputs["images"].name: images})


def litert(path, _):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT is not installed")
    data = tf.lite.TFLiteConverter.from_saved_model(path, signature_keys=["serving_default"]).convert()

    def run(images):
        network = interpreter.Interpreter(model_content=data)
        network.resize_tensor_input(network.get_input_details()[0]["index"], images.shape)
        return {k: v.copy() for k, v in network.get_signature_runner("serving_default")(images=images).items()}

    return run


def onnx(path, folder):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", path, "--signature_def", "serving_default"]
    subprocess.run([*command, "--output", folder / "digits.onnx"], check=True, capture_output=True)
    network = runtime.InferenceSession(folder / "digits.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in network.get_outputs()]
    return lambda images: dict(zip(names, network.run(names, {"images": images})))


def openvino(path, _):
    reader = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    network = reader.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: {output.get_any_name(): value for output, value in network([images]).items()}


@pytest.mark.parametrize(
    "reader", [keras_layer, session, litert, *(pytest.param(r, marks=pytest.mark.slow) for r in (onnx, openvino))]
)
def test_it_answers_as_the_model(lenet, path, tmp_path, reader):
    images = np.random.default_rng(7).uniform(-1, 1, (3, 28, 28, 1)).astype("float32")
    wanted, run = lenet.predict_on_batch(images), reader(path, tmp_path)
    for count in (3, 1):
        outputs = run(images[:count])
        assert {"logits", "probabilities"} <= set(outputs)
        assert np.abs(outputs["probabilities"] - wanted[:count]).max() <= 1e-5 * wanted.max()
