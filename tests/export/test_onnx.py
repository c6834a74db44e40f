"""`.onnx` files, checked by onnx and run by ONNX Runtime."""

import json

import numpy as np
import pytest
from photographs import write_photographs

from inception_tf.errors import UsageError
from inception_tf.export.onnx import to_onnx
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.inference.runtimes import OnnxRuntime
from inception_tf.slim.golden import deterministic_images

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")


def run(path, images):
    """What ONNX Runtime answers, asked without this library."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"images": images})
    return probabilities


@pytest.fixture(scope="module")
def images():
    return deterministic_images(5, 28, 28, 1)


@pytest.fixture(scope="module")
def written(lenet, tmp_path_factory):
    return to_onnx(lenet, tmp_path_factory.mktemp("onnx") / "digits.onnx")


def test_it_answers_as_the_model(lenet, written, images):
    onnx.checker.check_model(onnx.load(written), full_check=True)
    wanted = lenet.predict_on_batch(images)
    assert np.abs(run(written, images) - wanted).max() <= 1e-5 * wanted.max()


def test_the_card_is_in_its_metadata(written):
    card = json.loads({prop.key: prop.value for prop in onnx.load(written).metadata_props}["inception_tf"])
    assert card["labels"] == [f"class {i}" for i in range(10)] and card["preprocessing"]["size"] == [28, 28]
    assert card["export"]["format"] == "onnx"


def test_a_batch_of_its_own(lenet, tmp_path, images):
    path = to_onnx(lenet, tmp_path / "two.onnx", batch=2)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    assert np.allclose(OnnxRuntime(path)(images), lenet.predict_on_batch(images), atol=1e-6)


def test_float16(lenet, written, tmp_path, images):
    path = to_onnx(lenet, tmp_path / "half.onnx", precision="float16")
    assert path.stat().st_size < 0.51 * written.stat().st_size
    assert np.abs(run(path, images) - lenet.predict_on_batch(images)).max() < 1e-2


def test_int8(lenet, written, tmp_path):
    write_photographs(tmp_path, 8)
    path = to_onnx(lenet, tmp_path / "int8.onnx", precision="int8", calibrate=tmp_path, held_out=tmp_path)
    assert path.stat().st_size < 0.3 * written.stat().st_size
    images = preprocessing_of(lenet)(sorted(tmp_path.glob("*.png")))
    assert np.abs(run(path, images) - lenet.predict_on_batch(images)).max() < 0.1
    assert OnnxRuntime(path).card.export["verification"]["images"] == 8


def test_wrong_use(lenet, tmp_path):
    with pytest.raises(UsageError, match="ends in .onnx"):
        to_onnx(lenet, tmp_path / "model")
    with pytest.raises(UsageError, match="no precision"):
        to_onnx(lenet, tmp_path / "a.onnx", precision="bfloat16")
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        to_onnx(lenet, tmp_path / "a.onnx", overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.onnx"]
