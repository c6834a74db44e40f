"""Encoded images in a graph, each with its own fate: one that cannot be read does not fail the others."""

from inception_tf.images.decoding import decode_image_graph, inspect_header_graph

# The key of an image's bytes in a tf.Example, as TF-Slim's datasets and TensorFlow's object detection have it.
FEATURE = "image/encoded"

# What a file that was sent as a plain string of JSON looks like, its base64 or its name: UTF-8, at least its beginning.
_CHARACTER = r"[^\x00-\x08\x0e-\x1f\x7f]"
TEXT = rf"{_CHARACTER}{{32}}\C*|{_CHARACTER}{{1,31}}"
HINT = ' These bytes are text. TensorFlow Serving\'s REST takes a file as {"b64": "<its base64>"}.'

# Images decoded at once in one call: with the most pixels of one it bounds the memory of a call.
PARALLEL = 4


def example(data):
    """A serialized `tf.Example` of an image file's bytes."""
    import tensorflow as tf

    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
    return tf.train.Example(features=tf.train.Features(feature={FEATURE: feature})).SerializeToString()


def preprocess_each(data, preprocessing, max_pixels, examples=False):
    """Decodes and preprocesses a batch of encoded images in TensorFlow ops.

    A graph has no try. So every image goes through a data pipeline of one element that drops what fails; behind it
    wait others that find out why. No custom op: whatever runs a SavedModel runs it.

    Args:
        data: string tensor of shape (N,), the bytes of a file each; N may be 0.
        preprocessing: the `Preprocessing`.
        max_pixels: the most pixels of an image to decode.
        examples: whether `data` holds serialized `tf.Example`s with the bytes under `FEATURE`.

    Returns:
        images: float32 tensor of shape (N, height, width, channels); zeros where an image cannot be read.
        status: string tensor of shape (N,): empty, or why it cannot be read.
    """
    import tensorflow as tf

    blank = tf.zeros((*preprocessing.size, preprocessing.channels))
    broken = "The image is truncated, corrupted" + (" or too long." if preprocessing.kind == "vgg" else ".")

    def encoded(one):
        if not examples:
            return one
        return tf.io.parse_single_example(one, {FEATURE: tf.io.FixedLenFeature((), tf.string)})[FEATURE]

    def prepared(one):
        return preprocessing.graph(decode_image_graph(encoded(one), max_pixels)), tf.constant("")

    def explained(one):
        data = encoded(one)
        _, problem = inspect_header_graph(data, max_pixels)
        is_text = tf.strings.regex_full_match(tf.strings.substr(data, 0, 128), TEXT)  # 32 characters at least
        problem = tf.where(problem == "", broken, problem)
        return blank, tf.where(is_text, problem + HINT, problem)

    def undecodable(one):
        return blank, tf.strings.join([tf.strings.substr(encoded(one), 0, 0), broken])  # fails where encoded() does

    def no_example(one):
        return blank, tf.constant(f"Not a tf.Example with the feature {FEATURE}.")

    def outcome(one):
        one = tf.data.Dataset.from_tensors(one)
        first, *others = (one.map(step).ignore_errors() for step in (prepared, explained, undecodable, no_example))
        for other in others:
            first = first.concatenate(other)
        return first.take(1).get_single_element()

    spec = (tf.TensorSpec(blank.shape, tf.float32), tf.TensorSpec((), tf.string))
    return tf.map_fn(outcome, data, fn_output_signature=spec, parallel_iterations=PARALLEL)
