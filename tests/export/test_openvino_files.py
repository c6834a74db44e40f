"""OpenVINO's `.xml` and `.bin`, run by OpenVINO."""

import numpy as np
import pytest

from inception_tf.errors import UsageError
from inception_tf.export.openvino import to_openvino
from inception_tf.inference.runtimes import OpenVino
from inception_tf.slim.golden import deterministic_images

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def images():
    return deterministic_images(3, 28, 28, 1)


@pytest.mark.parametrize("precision, limit", [("float32", 1e-5), ("float16", 1e-2)])
def test_it_answers_as_the_model(lenet, tmp_path, images, precision, limit):
    path = to_openvino(lenet, tmp_path / "digits.xml", precision=precision)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["digits.bin", "digits.xml"]
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    wanted = lenet.predict_on_batch(images)
    assert np.abs(compiled({"images": images})["probabilities"] - wanted).max() <= limit * wanted.max()
    assert OpenVino(path).card["preprocessing"]["kind"] == "lenet"


def test_nothing_is_replaced_unasked(lenet, tmp_path):
    (tmp_path / "digits.bin").write_text("mine")
    with pytest.raises(UsageError, match="digits.bin exists"):
        to_openvino(lenet, tmp_path / "digits.xml")
    with pytest.raises(UsageError, match="ends in .xml"):
        to_openvino(lenet, tmp_path / "digits")
    assert [file.name for file in tmp_path.iterdir()] == ["digits.bin"]
