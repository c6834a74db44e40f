"""Encoded images to pixels, outside and inside a TensorFlow graph."""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np

from inception_tf.errors import ImageError, UsageError, raising
from inception_tf.remote import is_url, read_url

# Above this an image is refused by its header, before anything is decoded; the bound of Pillow's own warning.
MAX_PIXELS = 89_478_485
# In a graph, where nothing else stops a decoder: every scan of a JPEG goes over all its pixels, and a block of a GIF is
# a turn of a loop. Files that need more exist as attacks.
MAX_SCANS, MAX_BLOCKS = 64, 200_000
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
_FORMATS_TEXT = "JPEG, PNG, GIF, BMP or WEBP"
_ORIENTATION = 0x0112  # the EXIF tag


def decode_image(data, exif_rotation=False, max_pixels=MAX_PIXELS, decoder="tensorflow", scaled_for=None):
    """Decodes JPEG, PNG, GIF (first frame), BMP or WEBP (first frame).

    Grayscale, palette and CMYK images become RGB; 16 bits a channel keep the upper 8; an alpha channel is dropped, not
    blended, and a GIF's transparent pixels are black, all as TensorFlow does it.

    The decoders give the same pixels but for JPEG, where TensorFlow, and so Slim, takes libjpeg's fast transform and
    Pillow the accurate one: 1.1 of 255 apart on average over 202 photographs, 21 at most. GIF, BMP and WEBP always go
    through Pillow: TensorFlow takes a BMP palette's indices for gray values, misplaces a GIF frame that is smaller than
    its canvas, and does not read WEBP with animation, nor drop a WEBP's alpha.

    Args:
        data: the bytes of the file.
        exif_rotation: whether to turn the image as its EXIF orientation says. Slim does not.
        max_pixels: the most pixels (height × width) to decode; the header is checked before memory is taken.
        decoder: "tensorflow" (the pixels Slim saw), or "pillow", which does not import TensorFlow.
        scaled_for: a `Preprocessing`. A JPEG is then decoded to a half, a quarter or an eighth of its sides, by Pillow,
            where what is resized still is no smaller than its result. Much faster for large photographs, whose pixels
            are averaged that the bilinear would skip: answers change a little.

    Returns:
        uint8 array of shape (height, width, 3), 0 to 255, RGB.

    Raises:
        ImageError: empty, truncated, too large, or not an image of these formats.
    """
    if decoder not in ("tensorflow", "pillow"):
        raise UsageError(f'`decoder` must be "tensorflow" or "pillow". Received: {decoder!r}')
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise UsageError(f"decode_image expects the bytes of an image file. Received: {type(data).__name__}")
    data = bytes(data)
    header = _open(data, max_pixels)
    scaled = scaled_for is not None and _scale(header, scaled_for, exif_rotation)
    if not scaled and decoder == "tensorflow" and header.format in ("JPEG", "MPO", "PNG"):
        pixels = _decode_tensorflow(data, header.format)
    else:
        pixels = decode_pillow(header)
    return _rotated(pixels, header) if exif_rotation else pixels


def read_image(path, exif_rotation=False, max_pixels=MAX_PIXELS, decoder="tensorflow", scaled_for=None):
    """`decode_image` of a file, or of a URL that fsspec reads; its errors name the file."""
    with raising(ImageError, f"Cannot read {path}"):
        if is_url(path):
            data = read_url(path)
        elif (path := Path(path)).exists() and not path.is_file():
            raise ImageError(f"{path} is not a file.")
        else:
            data = path.read_bytes()
    try:
        return decode_image(data, exif_rotation, max_pixels, decoder, scaled_for)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def _scale(header, preprocessing, exif_rotation):
    """Has Pillow decode a JPEG at the least of its scales that `preprocessing` can do with; whether it is below 1."""
    width, height = header.size
    turned = exif_rotation and header.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    axes = preprocessing.geometry(*((width, height) if turned else (height, width)))
    factor = min((used.stop - used.start) // resized for used, resized, _ in axes)
    return factor > 1 and header.draft(None, (width // factor, height // factor)) is not None


def _open(data, max_pixels):
    from PIL import Image

    if not data:
        raise ImageError("The file is empty.")
    try:
        with _quiet():  # the size is checked below
            header = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"The image is too large to decode: {error}") from error
    except Exception as error:  # a parser fed with anything may raise anything
        received = f"{len(data)} bytes that begin with {data[:16]!r}"
        raise ImageError(f"Not an image. Expected {_FORMATS_TEXT}. Received: {received}.") from error
    width, height = header.size
    if width * height > max_pixels:
        raise ImageError(
            f"The image is too large to decode: {width} × {height} pixels, more than {max_pixels:,}. "
            "Scale it down, or raise max_pixels."
        )
    return header


@contextlib.contextmanager
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _decode_tensorflow(data, kind):
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImageError('This needs TensorFlow, which is not installed. Pass decoder="pillow".') from error
    decode = tf.io.decode_png if kind == "PNG" else tf.io.decode_jpeg
    try:
        with tf.device("CPU"):
            return decode(data, channels=3).numpy()
    except tf.errors.OpError as error:
        raise ImageError(f"The {kind} image is truncated or corrupted.") from error


def decode_pillow(image):
    """The pixels of a `PIL.Image`, uint8 H×W×3; see `decode_image`, errors too."""
    kind = image.format or "PIL"
    with raising(ImageError, f"The {kind} image is truncated or corrupted", Exception):
        if image.mode.startswith("I"):  # 16-bit gray, which convert() would clip, not scale
            gray = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
            return np.repeat(gray[:, :, None], 3, axis=2)
        image.load()  # before the mode is looked at: a GIF gets its own on loading
        transparent = image.info.get("transparency") if kind == "GIF" and image.mode in ("P", "L") else None
        with _quiet():  # about transparency, which is dropped on purpose
            pixels = np.array(image.convert("RGB"))
        if transparent is not None:
            pixels[np.asarray(image) == transparent] = 0
        return pixels


def _rotated(pixels, header):
    from PIL import Image, ImageOps

    image = Image.fromarray(pixels)
    with contextlib.suppress(Exception):  # a broken EXIF block is no broken image
        image.getexif()[_ORIENTATION] = header.getexif().get(_ORIENTATION, 1)
    return np.array(ImageOps.exif_transpose(image))


def decode_image_graph(data, max_pixels=MAX_PIXELS):
    """`decode_image` in TensorFlow ops, for a `tf.function` or a SavedModel.

    Checks stand before the decoder: the format, the size in the header, and what TensorFlow's decoders get wrong. An
    animated WEBP even corrupts the process's memory (TensorFlow 2.21): a server must never let one through. Of a GIF
    the decoder sees the first frame alone, since it would unpack all of them, of whatever size.

    Args:
        data: scalar string tensor, the bytes of one file.
        max_pixels: as in `decode_image`.

    Returns:
        uint8 tensor of shape (height, width, 3).

    Raises:
        tf.errors.InvalidArgumentError, at run time: not an image of the five formats; too large; truncated; a BMP with
            a palette or compression; an animated WEBP; a GIF whose first frame does not fill its canvas, or comes
            after `MAX_BLOCKS` blocks; a JPEG of more than `MAX_SCANS` scans.
    """
    import tensorflow as tf

    size, problem = inspect_header_graph(data, max_pixels)
    with tf.control_dependencies([tf.debugging.Assert(problem == "", [problem])]):
        data = tf.identity(data)
    kind = tf.strings.substr(data, 0, 4)
    data, size = tf.cond(kind == "GIF8", lambda: _first_frame_graph(data, size), lambda: (data, size))
    # TensorFlow does not drop the alpha of a WEBP by itself.
    image = tf.cond(
        kind == "RIFF",
        lambda: tf.io.decode_image(data, channels=0, expand_animations=False)[:, :, :3],
        lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
    )
    with tf.control_dependencies([_assert_size(tf.shape(image, tf.int64)[:2], size)]):
        return tf.ensure_shape(image, (None, None, 3))


def inspect_header_graph(data, max_pixels=MAX_PIXELS):
    """What the beginning of a file says about its size, and against decoding it, in TensorFlow ops.

    Args:
        data, max_pixels: as in `decode_image_graph`.

    Returns:
        The (height, width) as an int64 tensor, and a scalar string tensor: a sentence, or empty where
        `decode_image_graph` would go on to the decoder.

    Raises:
        tf.errors.InvalidArgumentError, at run time: a JPEG without a readable header.
    """
    import tensorflow as tf

    head = tf.cast(tf.io.decode_raw(data, tf.uint8, fixed_length=68), tf.int64)

    def starts(text, at=0):
        return tf.reduce_all(head[at : at + len(text)] == list(text))

    def little(at, count):
        return tf.reduce_sum(head[at : at + count] * [1 << 8 * i for i in range(count)])

    def big(at):
        return tf.reduce_sum(head[at : at + 4] * [1 << 24, 1 << 16, 1 << 8, 1])

    jpeg, png, gif = starts(b"\xff\xd8\xff"), starts(b"\x89PNG\r\n\x1a\n"), starts(b"GIF8")
    bmp, webp = starts(b"BM"), starts(b"RIFF") & starts(b"WEBP", 8)

    vp8x, vp8l, lossless, signed = webp & starts(b"VP8X", 12), webp & starts(b"VP8L", 12), little(21, 4), little(22, 4)
    size = tf.zeros(2, tf.int64)
    for found, height, width in [
        (png, big(20), big(16)),
        (gif, little(8, 2), little(6, 2)),
        (bmp, tf.minimum(signed, 2**32 - signed), little(18, 4)),  # negative where the rows run down
        (webp, little(28, 2) % 2**14, little(26, 2) % 2**14),
        (vp8x, little(27, 3) + 1, little(24, 3) + 1),
        (vp8l, (lossless // 2**14) % 2**14 + 1, lossless % 2**14 + 1),
    ]:
        size = tf.where(found, [height, width], size)
    size = tf.cond(jpeg, lambda: tf.cast(tf.image.extract_jpeg_shape(data)[:2], tf.int64), lambda: size)
    height, width = tf.unstack(size)
    octets = tf.io.decode_raw(tf.where(jpeg, data, ""), tf.uint8)
    scans = tf.math.count_nonzero((octets[:-1] == 0xFF) & (octets[1:] == 0xDA))  # in a scan's data 0 follows 0xFF
    masks = (little(54, 4) == 0xFF0000) & (little(58, 4) == 0xFF00) & (little(62, 4) == 0xFF)
    depth, compression = little(28, 2), little(30, 4)
    plain = (little(14, 4) >= 40) & (
        ((compression == 0) & ((depth == 24) | (depth == 32))) | ((compression == 3) & (depth == 32) & masks)
    )
    animated = vp8x & (head[20] // 2 % 2 == 1)
    pixels = tf.strings.join([tf.as_string(width), " × ", tf.as_string(height)])
    problem = tf.constant("")
    for wrong, text in [  # the last that is wrong counts
        (bmp & ~plain, "Only BMP of 24 or 32 bits without compression is read here."),
        (animated, "An animated WEBP is not read here."),
        (scans > MAX_SCANS, f"A JPEG of more than {MAX_SCANS} scans is not read here."),
        # Division, since the product of two 32-bit sizes may overflow.
        (
            height > max_pixels // tf.maximum(width, 1),
            tf.strings.join(["The image is too large to decode: ", pixels, f" pixels, more than {max_pixels:,}."]),
        ),
        (~(jpeg | png | gif | bmp | webp), f"Not an image. Expected {_FORMATS_TEXT}."),
        (tf.strings.length(data) == 0, "The file is empty."),
    ]:
        problem = tf.where(wrong, text, problem)
    return size, problem


def _assert_size(size, header):
    import tensorflow as tf

    text = "The image is not as large as its header says. Height, width:"
    return tf.debugging.Assert(tf.reduce_all(size == header), [text, size, header])


def _first_frame_graph(data, size):
    """A GIF that ends after its first frame, which must fill the canvas; and its size. GIF89a, appendices A and B."""
    import tensorflow as tf

    octets = tf.cast(tf.io.decode_raw(data, tf.uint8), tf.int32)

    def table(flags):  # the bytes of a color table
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    # `inside` a block the sub-blocks are skipped: 1 in an extension, 2 in the frame; 3 when that is over.
    def step(at, inside, frame):
        octet = octets[at]

        def introduction():
            extension = octet == 0x21
            check = tf.debugging.Assert(extension | (octet == 0x2C), ["The GIF image is truncated or corrupted."])
            with tf.control_dependencies([check]):
                extension = tf.identity(extension)
            descriptor = octets[at + 1 : at + 10]  # padded below: an extension at the very end has none
            descriptor = tf.pad(descriptor, [[0, 9 - tf.size(descriptor)]])
            high, wide = descriptor[6] + 256 * descriptor[7], descriptor[4] + 256 * descriptor[5]
            return tf.cond(
                extension,
                lambda: (at + 2, 1, frame),
                lambda: (at + 11 + table(descriptor[8]), 2, tf.stack([high, wide])),
            )

        def sub_block():
            return at + 1 + octet, tf.where(octet > 0, inside, tf.where(inside == 1, 0, 3)), frame

        return tf.cond(inside == 0, introduction, sub_block)

    end, _, frame = tf.while_loop(
        lambda at, inside, frame: inside < 3,
        step,
        (13 + table(octets[10]), 0, tf.zeros(2, tf.int32)),
        maximum_iterations=MAX_BLOCKS,  # a frame that is not found by then is not as large as the header says
    )
    frame = tf.cast(frame, tf.int64)
    with tf.control_dependencies([_assert_size(frame, size)]):
        return tf.strings.join([tf.strings.substr(data, 0, end), b"\x3b"]), frame
