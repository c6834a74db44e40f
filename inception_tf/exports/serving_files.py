"""The files beside a SavedModel that TensorFlow Serving reads: its configuration, in protocol buffers' text form, and
warm-up requests, which it replays before a version takes requests.

Serving's protocol buffers are not needed to write them: the few messages around the tensors are put together here. The
numbers are those of Serving's apis/prediction_log.proto, predict.proto, classification.proto, input.proto, model.proto.
"""

import io
from pathlib import Path

import numpy as np

from inception_tf.exports.encoded import example

# Where Serving looks for it in a version, with --enable_batching --enable_per_model_batching_parameters.
BATCHING = "batching_params.pbtxt"
MODELS = "assets.extra/models.config"
WARMUP = "assets.extra/tf_serving_warmup_requests"

# How long a request waits for others to share its batch: little beside a network's own tens of milliseconds.
TIMEOUT_MICROS = 2000


def write_serving_files(savedmodel, name, signatures, batches, image_shape):
    """Writes `BATCHING`, `MODELS` and `WARMUP`, which has a request of every signature at every batch size.

    Args:
        savedmodel: the directory.
        name: the servable's name.
        signatures: the names of its signatures.
        batches: the batch sizes, ascending.
        image_shape: (height, width, channels) of the images that the signatures of floats take.
    """
    import tensorflow as tf

    Path(savedmodel, MODELS).parent.mkdir(exist_ok=True)
    Path(savedmodel, BATCHING).write_text(batching_params(batches), "utf-8")
    Path(savedmodel, MODELS).write_text(models_config({name: f"/models/{name}"}), "utf-8")
    files = jpegs(image_shape[2])
    with tf.io.TFRecordWriter(str(Path(savedmodel, WARMUP))) as records:
        for batch in batches:
            encoded = [files[i % len(files)] for i in range(batch)]
            for signature in signatures:
                spec = _field(1, _field(1, name) + _field(3, signature))
                if signature == "classify":
                    examples = b"".join(_field(1, example(data)) for data in encoded)
                    records.write(_field(2, _field(1, spec + _field(2, _field(1, examples)))))
                    continue
                if signature in ("predict_image_bytes", "class_maps"):
                    key, tensor = "image_bytes", tf.make_tensor_proto(encoded)
                else:  # one value stands for all, so that the file stays small
                    key, tensor = "images", tf.make_tensor_proto(0.5, tf.float32, (batch, *image_shape))
                entry = _field(1, key) + _field(2, tensor.SerializeToString())
                records.write(_field(6, _field(1, spec + _field(2, entry))))


def jpegs(channels=3, count=4):
    """Photograph-like JPEG files of different sizes, the same every time: smooth noise, a list of `count` bytes."""
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


def batching_params(batches):
    """Serving's `BatchingParameters`: the ascending sizes are those it fills a batch up to."""
    lines = [
        f"max_batch_size {{ value: {batches[-1]} }}",
        f"batch_timeout_micros {{ value: {TIMEOUT_MICROS} }}",
        "max_enqueued_batches { value: 100 }",
        *(f"allowed_batch_sizes: {size}" for size in batches),
    ]
    return "".join(f"{line}\n" for line in lines)


def models_config(paths):
    """Serving's `ModelServerConfig` of a dict from models' names to their base directories, as the server sees them."""
    lines = ["model_config_list {"]
    for name, path in paths.items():
        lines += ["  config {", f"    name: {_quoted(name)}", f"    base_path: {_quoted(path)}"]
        lines += ['    model_platform: "tensorflow"', "  }"]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text):
    """A string of the text form: UTF-8 as it is, but for quotes, backslashes and control characters."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else "".join(f"\\{b:03o}" for b in c.encode()) for c in escaped) + '"'
