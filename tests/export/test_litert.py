"""`.tflite` files, run by LiteRT's own interpreter, and read by zipfile."""

import json
import zipfile

import numpy as np
import pytest
from photographs import write_photographs
from random_weights import randomized

from inception_tf.errors import CheckpointError, ExportError, ImageError, UsageError
from inception_tf.export import litert
from inception_tf.export.litert import to_litert
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.inference.runtimes import LiteRT
from inception_tf.slim.golden import deterministic_images
from inception_tf.zoo import create_model

interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT is not installed")

NAMES = [f"digit {i}" for i in range(10)]


def run(path, images):
    """What LiteRT answers, asked without this library."""
    network = interpreter.Interpreter(str(path))
    (given,), (result,) = network.get_input_details(), network.get_output_details()
    network.resize_tensor_input(given["index"], images.shape)
    network.allocate_tensors()
    network.set_tensor(given["index"], images)
    network.invoke()
    return network.get_tensor(result["index"])


@pytest.fixture(scope="module")
def images():
    return deterministic_images(5, 28, 28, 1)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of image files, one of them broken."""
    folder = write_photographs(tmp_path_factory.mktemp("photographs"), 12)
    (folder / "broken.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture(scope="module")
def written(lenet, tmp_path_factory):
    return to_litert(lenet, tmp_path_factory.mktemp("litert") / "digits.tflite", labels=NAMES)


def test_it_holds_the_weights_and_answers_as_the_model(lenet, written, images):
    assert written.stat().st_size > 4 * lenet.count_params()
    wanted = lenet.predict_on_batch(images)
    assert np.abs(run(written, images) - wanted).max() <= 1e-5 * wanted.max()


def test_labels_and_card_travel_in_it(lenet, written):
    with zipfile.ZipFile(written) as archive:
        assert archive.read("labels.txt").decode().splitlines() == NAMES
        card = json.loads(archive.read("inception_tf.json"))
    assert card["labels"] == NAMES and card["preprocessing"]["kind"] == "lenet"
    assert card["export"]["verification"]["difference"] <= card["export"]["verification"]["tolerance"] == 1e-5


def test_a_batch_of_its_own_takes_any_number(lenet, tmp_path, images):
    path = to_litert(lenet, tmp_path / "two.tflite", batch=2)
    network = LiteRT(path)
    assert network.batch == 2
    wanted = lenet.predict_on_batch(images)
    assert np.abs(network(images) - wanted).max() <= 1e-5 * wanted.max()


def test_float16_is_half_the_size(lenet, written, tmp_path, images):
    path = to_litert(lenet, tmp_path / "half.tflite", precision="float16")
    assert path.stat().st_size < 0.51 * written.stat().st_size
    assert np.abs(run(path, images) - lenet.predict_on_batch(images)).max() < 1e-2


@pytest.mark.parametrize("full_integer", [False, True])
def test_int8(lenet, written, tmp_path, photographs, full_integer):
    path = tmp_path / "int8.tflite"
    held_out = [photographs / f"{i:02}.png" for i in range(5)]
    options = {"calibrate": photographs, "held_out": held_out}
    with pytest.warns(UserWarning, match="1 of 13 images could not be read"):
        to_litert(lenet, path, precision="int8", full_integer=full_integer, **options)
    assert path.stat().st_size < 0.3 * written.stat().st_size
    network = LiteRT(path)
    details = interpreter.Interpreter(str(path)).get_input_details()
    assert details[0]["dtype"] == (np.int8 if full_integer else np.float32)
    images = preprocessing_of(lenet)(held_out)
    change = np.abs(network(images) - lenet.predict_on_batch(images))
    found = network.card.export["verification"]
    assert change.max() < 0.1 and found["worst_score_change"] == pytest.approx(change.max(), abs=1e-6)
    assert network.card.export["calibration_images"] == 12 and not network.card.export["fuse"]
    assert found["images"] == found["calibrated_on"] == 5 and not found["held_out"]
    agreement = network(images).argmax(1) == lenet.predict_on_batch(images).argmax(1)
    assert found["top1_agreement"] == agreement.mean()


@pytest.mark.slow
def test_an_inception(tmp_path):
    model = randomized(create_model("inception_v3", depth_multiplier=0.1, classes=7, input_shape=(75, 75, 3)))
    path = to_litert(model, tmp_path / "v3.tflite")
    images = deterministic_images(2, 75, 75)
    wanted = model.predict_on_batch(images)
    assert np.abs(run(path, images) - wanted).max() <= 1e-5 * wanted.max()


def test_a_file_that_answers_otherwise_is_not_written(lenet, tmp_path, monkeypatch):
    convert, other = litert._convert, randomized(create_model("lenet", classes=10), seed=1)

    def of_another(job, full_integer):
        object.__setattr__(job, "model", other)
        try:
            return convert(job, full_integer)
        finally:
            object.__setattr__(job, "model", lenet)

    monkeypatch.setattr(litert, "_convert", of_another)
    with pytest.raises(ExportError, match="differs from the Keras model"):
        to_litert(lenet, tmp_path / "other.tflite")
    assert not list(tmp_path.iterdir())


def test_wrong_use(lenet, tmp_path, photographs):
    target = tmp_path / "a.tflite"
    for options, message in [
        ({"precision": "bfloat16"}, "no precision 'bfloat16'"),
        ({"precision": "int8"}, "needs images to calibrate on"),
        ({"calibrate": photographs}, "needs images to calibrate on"),
        ({"batch": (1, 8)}, "one number"),
        ({"batch": 0}, "one number"),
        ({"full_integer": True}, "for the precision int8"),
        ({"labels": ["one"]}, "There are 10 classes"),
    ]:
        with pytest.raises(UsageError, match=message):
            to_litert(lenet, target, **options)
    with pytest.raises(UsageError, match="ends in .tflite"):
        to_litert(lenet, tmp_path / "model")
    with pytest.raises(ImageError, match="Not one of 1 images"):
        to_litert(lenet, target, precision="int8", calibrate=photographs / "broken.png")
    with pytest.raises(UsageError, match="no such|No such"):
        to_litert(lenet, target, precision="int8", calibrate=tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_damaged_files(written, tmp_path):
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(written.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be run by LiteRT"):
        LiteRT(cut)
    with pytest.raises(CheckpointError, match="no model"):
        LiteRT(tmp_path / "none.tflite")
