"""What the exports to LiteRT, ONNX and OpenVINO share, with engines that answer as they are told."""

from types import SimpleNamespace

import numpy as np
import pytest
from photographs import write_photographs

from inception_tf.errors import ExportError, ImageError
from inception_tf.export import portable
from inception_tf.zoo import create_model


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Six image files, and one that is none."""
    folder = write_photographs(tmp_path_factory.mktemp("photographs"), 6)
    (folder / "broken.png").write_bytes(b"\x89PNG")
    return folder


def prepare(model, folder, precision="float32", **options):
    given = {"labels": None, "batch": 4, "calibrate": None, "held_out": None, "overwrite": False, "fuse": None}
    return portable.prepare(
        model, folder / "model.any", ".any", "any", ("float32", "int8"), [], precision=precision, **{**given, **options}
    )


def answering(model, offsets=()):
    """A runtime that answers as the model; the i-th time off by offsets[i]."""
    offsets = iter(offsets)
    return lambda images: model.predict_on_batch(images) + np.float32(next(offsets, 0))


def test_noise_is_in_the_range_of_the_preprocessing(lenet):
    vgg = {"preprocessing": {"kind": "vgg", "size": [320, 320], "channels": 3}}
    job = SimpleNamespace(model=SimpleNamespace(input_shape=(None, 320, 320, 3), card=vgg), image_shape=(320, 320, 3))
    images = portable.any_images(job)
    assert images.shape == (2, 320, 320, 3) and images.dtype == np.float32
    assert -124 < images.min() < -100 and 100 < images.max() < 152
    job = SimpleNamespace(model=lenet, image_shape=(28, 28, 1))
    assert -1 <= portable.any_images(job).min() < -0.9


def test_photographs_held_out_count(lenet, photographs, tmp_path):
    job = prepare(lenet, tmp_path, held_out=[photographs / f"{i:02}.png" for i in range(6)])
    found = portable.compare(job, answering(lenet))
    assert found["difference"] < 1e-6 and found["compared"].endswith("on noise and photographs")
    assert found["images"] == 6 and found["held_out"] and found["top1_agreement"] == 1
    with pytest.raises(ExportError, match="noise and photographs"):
        portable.compare(job, answering(lenet, [0, 0, 0.01]))  # right on noise and the first four


def test_broken_weights_are_not_the_exports_fault(tmp_path):
    model = create_model("lenet", classes=3)
    model.get_layer("conv1").kernel.assign(np.full((5, 5, 1, 32), np.nan))
    with pytest.raises(ExportError, match="The Keras model itself answers NaN"):
        portable.compare(prepare(model, tmp_path), answering(model))


def test_images_that_it_was_calibrated_on_are_told(lenet, photographs, tmp_path):
    files = sorted(photographs.glob("[0-9]*.png"))
    for held_out, text in [
        (None, "On 3 images that it was calibrated on:"),
        (files, "On 6 images, 3 of which it was calibrated on:"),
        (files[3:], "On 3 images held out:"),
    ]:
        job = prepare(lenet, tmp_path, "int8", calibrate=files[:3], held_out=held_out)
        found = portable.compare(job, answering(lenet))
        assert found["held_out"] == ("held out" in text) and text in portable.verdict(found)


def test_images_that_cannot_be_read_are_told(lenet, photographs, tmp_path):
    with pytest.warns(UserWarning, match="1 of 7 images could not be read. .*broken.png"):
        job = prepare(lenet, tmp_path, "int8", calibrate=photographs)
    assert len(job.calibration) == 6
    with pytest.raises(ImageError, match="Not one of 1 images could be read"):
        prepare(lenet, tmp_path, held_out=photographs / "broken.png")


def test_the_file_with_its_card_answers_the_same(lenet, tmp_path):
    job, cards = prepare(lenet, tmp_path), []
    portable.finish(job, "part", lambda _: answering(lenet), cards.append)
    assert len(cards) == 1 and '"verification": {"difference"' in cards[0]
    offsets = iter([0, 1e-6])
    with pytest.raises(ExportError, match="answers otherwise once its card is in it"):
        portable.finish(job, "part", lambda _: answering(lenet, [next(offsets)] * 2), cards.append)
