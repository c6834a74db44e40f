"""Every format in every precision it has, of an Inception-v3: run by its engine, beside the Keras model."""

import numpy as np
import pytest
from PIL import Image
from random_weights import randomized

from inception_tf.exports.formats import export
from inception_tf.inference.engines import open_engine
from inception_tf.slim.golden import deterministic_images
from inception_tf.zoo import create_model

pytestmark = pytest.mark.slow  # eight exports, each checked in a process of its own or calibrated

TARGETS = {"savedmodel": "served", "litert": "v3.tflite", "onnx": "v3.onnx", "openvino": "v3.xml"}
NEEDED = {"litert": "ai_edge_litert", "onnx": "onnxruntime", "openvino": "openvino"}


@pytest.fixture(scope="module")
def inception():
    """An Inception-v3 of an eighth of the width, of images 107×107×3 and 7 classes."""
    return randomized(create_model("inception_v3", depth_multiplier=0.125, classes=7, input_shape=(107, 107, 3)))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """16 image files: a quantizer's ranges want more than a dozen."""
    folder = tmp_path_factory.mktemp("photographs")
    for i, pixels in enumerate(deterministic_images(16, 120, 140)):
        Image.fromarray(np.uint8((pixels + 1) * 127.5)).save(folder / f"{i:02}.png")
    return folder


@pytest.mark.parametrize(
    ("format", "precision", "limit"),
    [
        ("litert", "float32", 1e-5),
        ("onnx", "float32", 1e-5),
        ("openvino", "float32", 1e-5),
        ("savedmodel", "float16", 1e-2),
        ("savedmodel", "bfloat16", 8e-2),
        ("litert", "float16", 1e-2),
        ("onnx", "float16", 1e-2),
        ("openvino", "float16", 1e-2),
        ("openvino", "bfloat16", 8e-2),
        ("litert", "int8", 0.1),
        ("onnx", "int8", 0.1),
        ("openvino", "int8", 0.1),
    ],
)
def test_it_answers_as_the_model(inception, photographs, tmp_path, format, precision, limit):
    if format in NEEDED:
        pytest.importorskip(NEEDED[format], reason=f"{format} is not installed")
    files = sorted(photographs.glob("[0-9]*.png"))
    options = {"calibrate": files, "held_out": files, "features": True} if precision == "int8" else {}
    path = export(inception, tmp_path / TARGETS[format], format, precision=precision, **options)
    engine = open_engine(path)
    images = engine.preprocessing(files, decoder=engine.decoder)
    wanted = inception.predict_on_batch(images)
    change, told_apart = np.abs(engine(images) - wanted).max(), np.ptp(wanted, axis=0).max()
    assert change < min(limit, told_apart / 2)
    verification = engine.card.export["verification"]
    if precision == "int8":
        vectors, features = engine.embed(images), open_engine(inception).embed(images)
        assert abs(vectors - features).sum() < 0.1 * features.sum()  # they are not negative
        assert verification["top1_agreement"] == (engine(images).argmax(1) == wanted.argmax(1)).mean() > 0.8
