import io
import resource
import struct
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from pngs import png

from inception_tf.errors import ImageError, UsageError
from inception_tf.images import decoding
from inception_tf.images.decoding import decode_image, decode_image_graph, read_image
from inception_tf.images.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def files(pixels, encode):
    """A file of every kind that must decode, by name."""
    rgb, gray = Image.fromarray(pixels), Image.fromarray(pixels).convert("L")
    alpha = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))[..., None]
    rgba = np.concatenate([pixels, alpha], axis=-1)
    palette, turned = rgb.quantize(16), rgb.rotate(180)
    wide = np.random.default_rng(1).integers(0, 65536, (48, 64, 4), dtype=np.uint16)
    return {
        "jpeg": encode(rgb, "JPEG", quality=90),
        "jpeg progressive": encode(rgb, "JPEG", progressive=True, subsampling=0),
        "jpeg gray": encode(gray, "JPEG"),
        "jpeg cmyk": encode(rgb.convert("CMYK"), "JPEG", quality=95),
        "png": encode(rgb, "PNG"),
        "png gray": encode(gray, "PNG"),
        "png 1 bit": encode(rgb.convert("1"), "PNG"),
        "png palette": encode(palette, "PNG"),
        "png palette transparent": encode(palette, "PNG", transparency=3),
        "png palette alpha": encode(palette, "PNG", transparency=bytes(range(0, 160, 10))),
        "png rgba": encode(rgba, "PNG"),
        "png gray alpha": encode(rgba[..., 2:], "PNG"),
        "png 16 gray": encode(wide[..., 0], "PNG"),
        "png 16 rgb": tf.io.encode_png(wide[..., :3]).numpy(),
        "png 16 rgba": tf.io.encode_png(wide).numpy(),
        "png 16 gray alpha": tf.io.encode_png(wide[..., :2]).numpy(),
        "png 4 bit gray": png(2, 2, 4, 0, b"\0\x0f\0\x5a"),
        "gif": encode(palette, "GIF"),
        "gif gray": encode(gray, "GIF"),
        "gif transparent": encode(palette, "GIF", transparency=5),
        "gif animated": encode(palette, "GIF", save_all=True, append_images=[turned.quantize(16)]),
        "bmp": encode(rgb, "BMP"),
        "bmp rgba": encode(rgba, "BMP"),
        "webp": encode(rgb, "WEBP", quality=90),
        "webp lossless": encode(rgb, "WEBP", lossless=True),
        "webp alpha": encode(rgba, "WEBP", quality=90),
        "webp lossless alpha": encode(rgba, "WEBP", lossless=True, exact=True),
    }


@pytest.fixture(scope="module")
def graph():
    return tf.function(decode_image_graph, input_signature=[tf.TensorSpec((), tf.string)])


def test_every_kind_has_the_pixels_tensorflow_gives(files, graph):
    for name, data in files.items():
        # Of WEBP with alpha TensorFlow gives four channels or nothing.
        channels = 4 if name.startswith("webp") and "alpha" in name else 3
        expected = tf.io.decode_image(data, channels, expand_animations=False).numpy()[..., :3]
        for decoded in (decode_image(data), graph(data).numpy()):
            assert decoded.dtype == np.uint8
            np.testing.assert_array_equal(decoded, expected, err_msg=name)


def test_pillow_differs_for_jpeg_alone(files):
    for name, data in files.items():
        expected, decoded = decode_image(data).astype(int), decode_image(data, decoder="pillow").astype(int)
        assert np.abs(expected - decoded).max() <= (8 if name.startswith("jpeg") else 0), name
    accurate = tf.io.decode_jpeg(files["jpeg"], channels=3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(decode_image(files["jpeg"], decoder="pillow"), accurate)


def test_kinds_hold_the_original(files, pixels):
    for name in ("png", "png rgba", "bmp", "bmp rgba", "webp lossless", "webp lossless alpha"):
        np.testing.assert_array_equal(decode_image(files[name]), pixels, err_msg=name)
    assert np.abs(decode_image(files["jpeg cmyk"]).astype(int) - pixels).mean() < 4
    wide = np.random.default_rng(1).integers(0, 65536, (48, 64, 4), dtype=np.uint16)
    for decoder in ("tensorflow", "pillow"):  # the upper 8 of 16 bits
        np.testing.assert_array_equal(decode_image(files["png 16 rgb"], decoder=decoder), wide[..., :3] >> 8)
        np.testing.assert_array_equal(decode_image(files["png 16 gray"], decoder=decoder)[..., 1], wide[..., 0] >> 8)


def test_what_tensorflow_does_not_read(pixels, encode, graph):
    """Or not rightly: `decode_image` reads it."""
    rgb = Image.fromarray(pixels)
    palette, bits = rgb.quantize(16), rgb.convert("1")
    animated = encode(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(180)], lossless=True)
    for data, expected in [
        (encode(palette, "BMP"), palette.convert("RGB")),
        (encode(bits, "BMP"), bits.convert("RGB")),
        (animated, pixels),
    ]:
        np.testing.assert_array_equal(decode_image(data), expected)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)Only BMP of|animated WEBP"):
            graph(data)


def test_jpeg_photographs(shared):
    for name in ("grace_hopper.jpg", "elephant.jpg"):
        path = shared / "data" / "images" / name
        slim = tf.io.decode_jpeg(path.read_bytes(), channels=3).numpy()
        np.testing.assert_array_equal(read_image(path), slim)
        difference = np.abs(read_image(path, decoder="pillow").astype(int) - slim)
        assert difference.max() <= 6 and difference.mean() < 1.1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_exif_rotation(pixels, encode, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(pixels, kind, exif=exif)
    plain = decode_image(data, decoder="pillow")
    assert plain.shape == pixels.shape
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode_image(data, exif_rotation=True, decoder="pillow"), expected)
    assert decode_image(data, exif_rotation=True).shape == expected.shape


def test_a_broken_exif_block_turns_nothing(pixels, encode):
    data = encode(pixels, "JPEG", exif=b"Exif\0\0II*\0garbage")
    np.testing.assert_array_equal(decode_image(data, exif_rotation=True), decode_image(data))


def test_a_huge_header_takes_no_memory(graph, files):
    changes = {  # the offset of the size in the header, and what it becomes
        "jpeg": (files["jpeg"].index(b"\xff\xc0") + 5, struct.pack(">HH", 50000, 50000)),
        "gif": (6, struct.pack("<HH", 50000, 50000)),
        "bmp": (18, struct.pack("<ii", 50000, -50000)),
        "webp": (26, struct.pack("<HH", 16383, 16383)),
        "webp lossless": (21, struct.pack("<I", 16382 | 16382 << 14)),
        "webp alpha": (24, b"\x4f\xc3\0" * 2),
    }
    huge = {"png": png(50000, 50000), "png 2^31": png(2**31 - 1, 2**31 - 1)}
    for name, (at, size) in changes.items():
        huge[name] = files[name][:at] + size + files[name][at + len(size) :]
    for name, data in huge.items():
        tracemalloc.start()
        with pytest.raises(ImageError, match=None if "webp" in name else "too large"):
            decode_image(data)
        assert tracemalloc.get_traced_memory()[1] < 5e6, name
        tracemalloc.stop()
        with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
            graph(data)


def test_max_pixels(files):
    assert decode_image(files["png"], max_pixels=48 * 64).shape == (48, 64, 3)
    for data in (files["png"], files["jpeg"], files["webp lossless alpha"], files["webp"], files["webp alpha"]):
        with pytest.raises(ImageError, match="64 × 48 pixels"):
            decode_image(data, max_pixels=48 * 64 - 1)
        assert decode_image_graph(data, max_pixels=48 * 64).shape == (48, 64, 3)
        with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
            decode_image_graph(data, max_pixels=48 * 64 - 1)


def test_a_gif_frame_that_does_not_fill_its_canvas(graph, encode):
    """TensorFlow makes the canvas as small as the largest frame."""
    data = bytearray(encode(np.full((4, 6, 3), 200, np.uint8), "GIF"))
    data[6:10] = struct.pack("<HH", 10, 8)
    assert decode_image(bytes(data)).shape == (8, 10, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not as large as its header says"):
        graph(bytes(data))


def test_of_an_animated_gif_the_first_frame_alone_is_unpacked(graph, encode, pixels):
    rgb = Image.fromarray(pixels).quantize(16)
    animated = encode(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90), rgb.rotate(180)], loop=0, comment=b"x")
    np.testing.assert_array_equal(graph(animated).numpy(), decode_image(animated))

    bomb = encode(Image.new("P", (3000, 3000)), "GIF")
    frame = bomb[bomb.index(b",") : -1]
    bomb = bomb[:-1] + 400 * frame + b";"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert graph(bomb).shape == (3000, 3000, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500e3  # kB; all frames are 3.6 GB

    larger = bytearray(bomb)
    larger[6:10] = struct.pack("<HH", 1, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not as large as its header says"):
        graph(bytes(larger))


def test_files_that_would_take_a_decoder_minutes(graph, encode, monkeypatch):
    """Scans that say nothing cost all the pixels' time each; so do blocks of one byte."""
    jpeg = encode(np.full((64, 64), 128, np.uint8), "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    assert graph(jpeg[:-2] + 20 * scan + jpeg[-2:]).shape == (64, 64, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 64 scans"):
        graph(jpeg[:-2] + 64 * scan + jpeg[-2:])

    gif = encode(np.full((4, 6), 200, np.uint8), "GIF")
    gif = gif.replace(b",", b"\x21\xfe" + 99 * b"\x01x" + b"\0,", 1)
    assert graph(gif).shape == (4, 6, 3)
    monkeypatch.setattr(decoding, "MAX_BLOCKS", 50)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not as large as its header says"):
        decode_image_graph(tf.constant(gif))


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", r"Not an image. Expected JPEG.*begin with b'<!DOCTYPE"),
        (b"\xff\xd8\xff", "Not an image"),
        (b"II*\0" + bytes(100), "Not an image"),
        (png(8, 8), "PNG image is truncated or corrupted"),
    ],
)
def test_what_is_no_image(graph, data, message):
    for decoder in ("tensorflow", "pillow"):
        with pytest.raises(ImageError, match=message):
            decode_image(data, decoder=decoder)
    with pytest.raises(tf.errors.InvalidArgumentError):
        graph(data)


def test_damaged_files_never_escape_as_another_error(files, graph):
    """Truncated or with bytes overwritten: pixels or an ImageError, and in the graph an InvalidArgumentError."""
    generator = np.random.default_rng(2)
    for name in ("jpeg", "png", "gif", "bmp", "webp", "webp alpha"):
        data = files[name]
        damaged = [data[: len(data) * i // 8] for i in range(1, 8)]
        for decoder in ("tensorflow", "pillow"):
            for half in damaged:
                with pytest.raises(ImageError):
                    decode_image(half, decoder=decoder)
        for _ in range(20):
            copy = bytearray(data)
            for at in generator.integers(0, len(data), 4):
                copy[at] = generator.integers(256)
            damaged.append(bytes(copy))
        for broken in damaged:
            for decode in (decode_image, graph):
                try:
                    decode(broken)
                except (ImageError, tf.errors.InvalidArgumentError) as error:
                    assert isinstance(error, ImageError) == (decode is decode_image)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"size": 96}, 4),  # 560 × 420 are left of the crop: over 4 × 96, below 8 × 96
        ({"size": (96, 20)}, 4),
        ({"size": 106}, 2),
        ({"size": 211}, 1),
        ({"kind": "inception_2015", "size": 60}, 8),
        ({"kind": "vgg", "resize_side": 240, "size": 224}, 2),
        ({"kind": "lenet"}, 1),  # crops
    ],
)
def test_a_jpeg_scaled_down(encode, pixels, options, scale, orientation):
    large = Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(large, "JPEG", quality=95, exif=exif)
    rotated, preprocessing = orientation == 6, Preprocessing(**options)
    scaled, whole = (decode_image(data, rotated, decoder="pillow", scaled_for=taken) for taken in (preprocessing, None))
    assert scaled.shape == (*(side // scale for side in whole.shape[:2]), 3)
    blocks = whole.reshape(scaled.shape[0], scale, scaled.shape[1], scale, 3).mean((1, 3))
    assert np.abs(blocks - scaled).mean() < 2
    assert preprocessing(scaled).shape == preprocessing(whole).shape


def test_only_jpegs_are_scaled_down(files):
    small = Preprocessing(size=10)
    for name, data in files.items():
        assert (decode_image(data, scaled_for=small).shape != (48, 64, 3)) == ("jpeg" in name or "4 bit" in name), name


def test_wrong_use():
    with pytest.raises(UsageError, match="Received: 'opencv'"):
        decode_image(b"", decoder="opencv")
    with pytest.raises(UsageError, match="Received: str"):
        decode_image("photo.jpg")


def test_read_image_names_the_file(tmp_path, files):
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(ImageError, match=r"page\.jpg: Not an image"):
        read_image(tmp_path / "page.jpg")
    with pytest.raises(ImageError, match=r"Cannot read .*absent\.jpg: No such file"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="is not a file"):
        read_image(tmp_path)
    (tmp_path / "named.wrongly").write_bytes(files["png"])
    assert read_image(str(tmp_path / "named.wrongly")).shape == (48, 64, 3)
