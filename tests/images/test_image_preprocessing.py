import functools
import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import inception_tf as itf
from inception_tf.errors import ImageError, UsageError
from inception_tf.images.decoding import read_image
from inception_tf.images.preprocessing import Preprocessing, preprocess_input

v1 = tf.compat.v1


def slim_inception(image, height, width, central_fraction=0.875):
    """inception_preprocessing.preprocess_for_eval, op for op."""
    image = tf.image.convert_image_dtype(image, tf.float32)
    image = tf.image.central_crop(image, central_fraction)
    image = v1.image.resize_bilinear(image[None], [height, width], align_corners=False)[0]
    return tf.multiply(tf.subtract(image, 0.5), 2.0).numpy()


def slim_vgg(image, height, width, side=256):
    """vgg_preprocessing.preprocess_for_eval, op for op."""
    rows, columns = float(image.shape[0]), float(image.shape[1])
    scale = tf.constant(float(side)) / (columns if rows > columns else rows)
    size = [int(v1.rint(rows * scale)), int(v1.rint(columns * scale))]
    image = v1.image.resize_bilinear(image[None], size, align_corners=False)[0]
    top, left = int((size[0] - height) / 2), int((size[1] - width) / 2)
    return (image[top : top + height, left : left + width] - [123.68, 116.78, 103.94]).numpy()


def slim_lenet(image, height, width):
    image = v1.image.resize_image_with_crop_or_pad(tf.cast(image, tf.float32), height, width)
    return ((image - 128.0) / 128.0).numpy()


SIZES = [(1, 1), (1, 7), (2, 3), (37, 91), (91, 37), (224, 224), (299, 299), (300, 301), (341, 342), (640, 481)]


def noise(height, width, channels=3):
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("height, width", SIZES)
def test_numpy_and_graph_equal_slim(height, width):
    image = noise(height, width)
    for preprocessing, expected in [
        (Preprocessing(), slim_inception(image, 299, 299)),
        (Preprocessing(size=224), slim_inception(image, 224, 224)),
        (Preprocessing(size=(75, 130), central_fraction=0.6), slim_inception(image, 75, 130, 0.6)),
        (Preprocessing(central_fraction=None), slim_inception(image, 299, 299, 1.0)),
        (Preprocessing("vgg"), slim_vgg(image, 224, 224)),
        (Preprocessing("vgg", size=(299, 150), resize_side=320), slim_vgg(image, 299, 150, 320)),
        (Preprocessing("lenet", channels=3), slim_lenet(image, 28, 28)),
        (Preprocessing("lenet", size=(33, 90), channels=3), slim_lenet(image, 33, 90)),
    ]:
        scale = 127.5 if preprocessing.kind == "vgg" else 1
        graph = tf.function(preprocessing.graph, input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)])
        for result in (preprocessing(image)[0], graph(image).numpy(), preprocessing(image.astype(np.float64))[0]):
            assert result.dtype == np.float32
            np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6 * scale)


def test_photographs(shared):
    path = shared / "data" / "images" / "grace_hopper.jpg"
    expected = slim_inception(tf.io.decode_jpeg(path.read_bytes(), channels=3), 299, 299)
    np.testing.assert_allclose(preprocess_input(path)[0], expected, rtol=0, atol=1e-6)
    # What the other JPEG decoder costs.
    difference = np.abs(preprocess_input(path, decoder="pillow")[0] - expected)
    assert difference.max() < 6 / 127.5 + 1e-6 and difference.mean() < 1.1 / 127.5


def test_graph_takes_batches_and_unknown_sizes():
    images = np.stack([noise(60, 50), noise(60, 50)[::-1]])
    for preprocessing in (Preprocessing(size=20), Preprocessing("vgg", 20, resize_side=24), Preprocessing("lenet")):
        graph = tf.function(preprocessing.graph, input_signature=[tf.TensorSpec((None, None, None, None), tf.uint8)])
        result = graph(images)
        np.testing.assert_allclose(result, preprocessing(images), rtol=0, atol=1e-4)
        assert result.shape == (2, *preprocessing.size, preprocessing.channels)
    with pytest.raises(UsageError, match=r"Received: \(60,\)"):
        preprocessing.graph(images[0, :, 0, 0])


def test_graph_refuses_to_resize_a_thread_to_a_rope():
    image = np.zeros((1, 20000, 3), np.uint8)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too long and narrow"):
        Preprocessing("vgg").graph(image)
    np.testing.assert_allclose(Preprocessing("vgg")(image)[0, 0, 0], [-123.68, -116.78, -103.94])


def test_gray():
    preprocessing = Preprocessing("lenet")
    gray = noise(28, 28, 1)
    expected = slim_lenet(gray, 28, 28)
    np.testing.assert_array_equal(preprocessing(gray)[0], expected)
    np.testing.assert_array_equal(preprocessing(np.repeat(gray, 3, axis=-1))[0], expected)
    np.testing.assert_array_equal(preprocessing.graph(np.repeat(gray, 3, axis=-1)), expected)
    color = noise(28, 28)
    luminance = tf.image.rgb_to_grayscale(color.astype(np.float32))
    np.testing.assert_allclose(preprocessing(color)[0], slim_lenet(luminance, 28, 28), rtol=0, atol=3e-4)
    np.testing.assert_allclose(preprocessing.graph(color), preprocessing(color)[0], rtol=0, atol=1e-6)


def test_whatever_holds_images(tmp_path, pixels, encode):
    data = encode(pixels, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    expected = preprocess_input(pixels)
    assert expected.shape == (1, 299, 299, 3) and expected.dtype == np.float32
    for image in (pixels[None], [pixels], data, path, str(path), [path], Image.fromarray(pixels), tf.constant(pixels)):
        np.testing.assert_array_equal(preprocess_input(image), expected)
    for dtype in (np.int64, np.uint16, np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(preprocess_input(pixels.astype(dtype)), expected)
    mixed = preprocess_input([pixels, noise(9, 5), path, data], size=(40, 30))
    assert mixed.shape == (4, 40, 30, 3)
    np.testing.assert_array_equal(mixed[1], preprocess_input(noise(9, 5), size=(40, 30))[0])
    assert preprocess_input(pixels, kind="vgg").shape == (1, 224, 224, 3)
    assert (preprocess_input(np.zeros((9, 9, 3))) == -1).all()  # black is an image
    np.testing.assert_array_equal(preprocess_input(read_image(path)), expected)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((5, 5)), r"shape \(H, W, 3\) or \(N, H, W, 3\).*Received: \(5, 5\)"),
        (np.zeros((5, 5, 4)), r"Received: \(5, 5, 4\)"),
        (np.zeros((3, 5, 5)), r"channels last. Received: \(3, 5, 5\)"),
        (np.zeros((0, 5, 5, 3)), r"Received: \(0, 5, 5, 3\)"),
        ([], "empty list"),
        ([np.zeros((5, 5, 3)), np.zeros((1, 5, 5, 3))], r"Image 1: .*shape \(H, W, 3\).*Received: \(1, 5, 5, 3\)"),
        (np.full((5, 5, 3), np.nan), "Received: NaN"),
        (np.full((5, 5, 3), np.inf), "infinity"),
        (np.linspace(-1, 1, 75).reshape(5, 5, 3), "preprocessed already.*Received: values from -1 to 1"),
        (np.linspace(0, 1, 75).reshape(5, 5, 3), "multiply by 255.*Received: values from 0 to 1"),
        (np.full((5, 5, 3), 65535, np.uint16), "Divide 16-bit values by 257"),
        (np.full((5, 5, 3), True), "Received: dtype bool"),
        (np.full((5, 5, 3), "x"), "Received: dtype <U1"),
        (None, "Received: dtype object"),
        ([[[1, 2, 3], [1]]], "Image 0: .*no array"),
    ],
)
def test_wrong_images(images, message):
    with pytest.raises(UsageError, match=message):
        preprocess_input(images)


def test_bad_files(tmp_path):
    with pytest.raises(ImageError, match=r"Cannot read .*absent\.png"):
        preprocess_input([tmp_path / "absent.png"])
    with pytest.raises(ImageError, match="Image 1: Not an image"):
        preprocess_input([np.zeros((9, 9, 3)), b"<html>"])


def test_larger_images_are_resized_in_proportion():
    sides = {size: Preprocessing("vgg", size).resize_side for size in (64, 224, 256, (300, 200), 320, 448)}
    assert sides == {64: 256, 224: 256, 256: 256, (300, 200): 343, 320: 366, 448: 512}
    image = noise(500, 640)
    np.testing.assert_allclose(Preprocessing("vgg", 320)(image)[0], slim_vgg(image, 320, 320, 366), rtol=0, atol=2e-4)


def test_config_survives_json():
    for preprocessing in (Preprocessing(), Preprocessing("vgg", (200, 100)), Preprocessing("lenet", 32, channels=3)):
        config = json.loads(json.dumps(preprocessing.to_config()))
        assert Preprocessing.from_config(config) == preprocessing
    assert Preprocessing(central_fraction=None) == Preprocessing(central_fraction=1.0)
    with pytest.raises(UsageError, match="Received: crop"):
        Preprocessing.from_config({"kind": "inception", "crop": 1})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "caffe"}, "Received: 'caffe'"),
        ({"size": 0}, "Received: 0"),
        ({"size": (299, 299, 3)}, "Received"),
        ({"central_fraction": 0}, "Received: 0"),
        ({"central_fraction": 87.5}, "Received: 87.5"),
        ({"kind": "vgg", "size": 299, "resize_side": 256}, "`resize_side` must be at least the size, 299"),
        ({"kind": "vgg", "channels": 1}, "mean RGB"),
        ({"channels": 4}, "Received: 4"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        Preprocessing(**options)


def test_without_tensorflow(tmp_path, pixels, encode):
    """Arrays, class folders, and files through Pillow, in a process where TensorFlow cannot be imported."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.jpg").write_bytes(encode(pixels, "JPEG"))
    script = f"""
        import sys
        sys.modules["tensorflow"] = None
        import numpy as np
        from inception_tf.errors import ImageError
        from inception_tf.images import files, labels, preprocessing, sources
        train, val = sources.open_training_data({str(tmp_path)!r}, val_fraction=0.5)
        assert train.read(0) and len(train) == len(val) == 2
        path, *_ = files.find_images({str(tmp_path)!r})
        batch = preprocessing.preprocess_input(path, decoder="pillow")
        labels.decode_predictions(np.eye(1001)[:1])
        try:
            preprocessing.preprocess_input(path)
        except ImageError as error:
            print(error)
        np.save({str(tmp_path / "batch.npy")!r}, batch)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "which is not installed" in result.stdout
    expected = preprocess_input(tmp_path / "a/0.jpg", decoder="pillow")
    np.testing.assert_array_equal(np.load(tmp_path / "batch.npy"), expected)


@pytest.mark.parametrize("kind, size", [("inception", (32, 40)), ("inception_2015", 40), ("vgg", 24), ("lenet", None)])
def test_inside_a_data_pipeline_and_as_a_layer(kind, size):
    """Symbolic tensors, in `tf.data` and in Keras: the pixels are those of an array."""
    images = np.stack([noise(60, 50), noise(60, 50)[::-1]])
    scale = 127.5 if kind == "vgg" else 1
    expected = preprocess_input(images, size, kind=kind)
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6 * scale)
    data = tf.data.Dataset.from_tensor_slices(images).map(lambda image: preprocess_input(image, size, kind=kind))
    close(np.stack(list(data.as_numpy_iterator())), expected)
    layer = itf.Preprocessing(kind, size)
    model = keras.Sequential([keras.Input((None, None, 3), dtype="uint8"), layer])
    assert model.output_shape == (None, *expected.shape[1:]) and model.compute_dtype == "float32"
    close(model.predict(images, verbose=0), expected)
    close(layer._computed(images), expected)  # what runs on JAX
    again = itf.Preprocessing.from_config(layer.get_config())
    assert again.preprocessing == layer.preprocessing


def test_a_model_says_its_preprocessing(tmp_path):
    network = itf.create_model("alexnet_v2", include_top=False, input_shape=(67, 75, 3))
    image = noise(90, 80)
    expected = preprocess_input(image, (67, 75), kind="vgg")
    np.testing.assert_array_equal(preprocess_input(image, model=network), expected)
    assert preprocess_input(image, 40, model=network).shape == (1, 40, 40, 3)
    whole = keras.Sequential([keras.Input((None, None, 3), dtype="uint8"), itf.Preprocessing(model=network), network])
    whole.save(tmp_path / "whole.keras")
    scores = network(expected)
    np.testing.assert_allclose(itf.load_model(tmp_path / "whole.keras")(image[None]), scores, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="kind` must be \"vgg\".*Received: 'inception'"):
        preprocess_input(image, kind="inception", model=network)
    with pytest.raises(UsageError, match="model` must be a model of this library"):
        itf.Preprocessing(model=whole)
