"""Warm-up requests: TensorFlow Serving replays them before it lets a version answer.

Serving's protocol buffers are not needed to write them: the few messages around the tensors are put together here. The
numbers are those of Serving's apis/prediction_log.proto, predict.proto, classification.proto, input.proto, model.proto.
"""

import io
from pathlib import Path

import numpy as np

from inception_tf.export.encoded import FEATURE

NAME = "assets.extra/tf_serving_warmup_requests"


def write_warmup(savedmodel, model, signatures, batches, image_shape):
    """Writes a request of every signature at every batch size into a SavedModel directory.

    Args:
        savedmodel: the directory.
        model: the servable's name in the requests; Serving does not look at it here.
        signatures: the names of the signatures.
        batches: the batch sizes.
        image_shape: (height, width, channels) of the images that the signatures of floats take.
    """
    import tensorflow as tf

    path = Path(savedmodel, NAME)
    path.parent.mkdir(exist_ok=True)
    files = jpegs(image_shape[2])
    with tf.io.TFRecordWriter(str(path)) as records:
        for batch in batches:
            encoded = [files[i % len(files)] for i in range(batch)]
            for signature in signatures:
                spec = _field(1, _field(1, model) + _field(3, signature))
                if signature == "classify":
                    records.write(_field(2, _field(1, spec + _field(2, _field(1, _examples(encoded))))))
                    continue
                if signature in ("predict_image_bytes", "class_maps"):
                    key, tensor = "image_bytes", tf.make_tensor_proto(encoded)
                else:  # one value stands for all, so that the file stays small
                    key, tensor = "images", tf.make_tensor_proto(0.5, tf.float32, (batch, *image_shape))
                entry = _field(1, key) + _field(2, tensor.SerializeToString())
                records.write(_field(6, _field(1, spec + _field(2, entry))))


def jpegs(channels=3, count=4):
    """Photograph-like JPEG files of different sizes, the same every time: smooth noise.

    Returns:
        A list of `count` bytes.
    """
    from PIL import Image

    random = np.random.default_rng(0)
    files = []
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (6 + i, 8, 3), dtype=np.uint8))
        image = coarse.resize((640 - 96 * i, 480 - 32 * i), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.convert("L" if channels == 1 else "RGB").save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    return files


def _examples(encoded):
    import tensorflow as tf

    examples = b""
    for data in encoded:
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
        example = tf.train.Example(features=tf.train.Features(feature={FEATURE: feature}))
        examples += _field(1, example.SerializeToString())
    return examples


def _field(number, payload):
    """A field with a length in protocol buffers' wire format: a string or a message."""
    payload = payload.encode() if isinstance(payload, str) else payload
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value):
    octets = b""
    while value > 127:
        octets += bytes([value % 128 + 128])
        value //= 128
    return octets + bytes([value])
