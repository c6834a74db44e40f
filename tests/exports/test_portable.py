"""What the exports to LiteRT, ONNX and OpenVINO share, with engines whose answers the tests choose."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from inception_tf.errors import ExportError, ImageError
from inception_tf.exports.formats import validate
from inception_tf.exports.portable import PortableFormat, compare_with_model, noise_images, verdict
from inception_tf.inference.runtimes import Runtime
from inception_tf.models.card import Card
from inception_tf.zoo import create_model


@pytest.fixture(scope="module")
def six(photographs):
    return [photographs / f"{i:02}.png" for i in range(6)]


class AnyPortable(PortableFormat):
    name = "onnx"


def prepare(model, folder, **options):
    format = AnyPortable()
    return format.prepare(model, folder / "model.onnx", validate(format, {"batch": 4, **options}))


class Answering(Runtime):
    """A runtime that answers as the model; the i-th time off by offsets[i]."""

    def __init__(self, model, offsets=()):
        self.model, self.offsets = model, iter(offsets)

    def _run(self, images):
        return [self.model.predict_on_batch(images) + np.float32(next(self.offsets, 0))]


def test_noise_is_in_the_range_of_the_preprocessing(lenet):
    card = Card("vgg_16", preprocessing={"kind": "vgg", "size": [320, 320], "channels": 3})
    images = noise_images(SimpleNamespace(input_shape=(None, 320, 320, 3), card=card))
    assert images.shape == (2, 320, 320, 3) and images.dtype == np.float32
    assert -124 < images.min() < -100 and 100 < images.max() < 152
    assert -1 <= noise_images(lenet).min() < -0.9


def test_photographs_held_out_count(lenet, six, tmp_path):
    export = prepare(lenet, tmp_path, held_out=six)
    found = compare_with_model(export, Answering(lenet))
    assert found["difference"] < 1e-6 and found["compared"].endswith("on noise and photographs")
    assert found["images"] == 6 and found["held_out"] and found["top1_agreement"] == 1
    with pytest.raises(ExportError, match="on photographs differs"):
        compare_with_model(export, Answering(lenet, [0, 0, 0.01]))  # right on noise and the first four


@pytest.mark.parametrize(
    "offset, answer",
    [(0.2, "scores that moved.*the same best class on .* of 6. Calibrate on more photographs"), (np.nan, "holds NaN")],
)
def test_integers_are_judged_by_the_scores_that_moved(lenet, six, tmp_path, offset, answer):
    export = prepare(lenet, tmp_path, precision="int8", calibrate=six)
    assert compare_with_model(export, Answering(lenet, [0.2]))["difference"] < 1e-6  # noise does not count
    with pytest.raises(ExportError, match=answer):
        compare_with_model(export, Answering(lenet, [0, offset, offset]))


def test_features_in_integers_are_judged_too(lenet, six, tmp_path):
    export = prepare(lenet, tmp_path, precision="int8", calibrate=six, features=True)
    network = keras.Model(lenet.inputs[0], [lenet.outputs[0], lenet.features])

    class Both(Runtime):
        offset = 0

        def _run(self, images):
            outputs, features = network.predict_on_batch(images)
            return [outputs, features.reshape(len(images), -1) + np.float32(self.offset)]

    runtime = Both()
    assert compare_with_model(export, runtime)["difference"] < 1e-6
    runtime.offset = 10
    with pytest.raises(ExportError, match="features that moved"):
        compare_with_model(export, runtime)


def test_broken_weights_are_not_the_exports_fault(tmp_path):
    model = create_model("lenet", classes=3)
    model.get_layer("conv1").kernel.assign(np.full((5, 5, 1, 32), np.nan))
    with pytest.raises(ExportError, match="The Keras model's own .* holds NaN"):
        compare_with_model(prepare(model, tmp_path), Answering(model))


def test_images_that_it_was_calibrated_on_are_counted(lenet, six, tmp_path):
    for held_out, text in [
        (None, "On 3 images that it was calibrated on:"),
        (six, "On 6 images, 3 of which it was calibrated on:"),
        (six[3:], "On 3 images held out:"),
    ]:
        export = prepare(lenet, tmp_path, precision="int8", calibrate=six[:3], held_out=held_out)
        found = compare_with_model(export, Answering(lenet))
        assert found["held_out"] == ("held out" in text) and text in verdict(found)


def test_images_that_cannot_be_read_are_reported(lenet, photographs, tmp_path):
    with pytest.warns(UserWarning, match="1 of 13 images could not be read. .*broken.png"):
        export = prepare(lenet, tmp_path, precision="int8", calibrate=photographs)
    assert len(export.calibration) == 12
    with pytest.raises(ImageError, match="Not one of 1 images could be read"):
        prepare(lenet, tmp_path, held_out=photographs / "broken.png")
