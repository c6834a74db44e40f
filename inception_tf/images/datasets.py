"""Any tf.data.Dataset of images and labels as `Examples`."""

import tensorflow as tf

from inception_tf.errors import UsageError
from inception_tf.images.examples import Examples, numbered_classes
from inception_tf.progress import Progress

_EXPECTED = (
    "Expected a tf.data.Dataset of (image, label), the image encoded or uint8 (H, W, 3), the label an integer; not "
    "batched (dataset.unbatch()); of tensorflow_datasets, load(…, as_supervised=True)."
)


class DatasetExamples(Examples):
    """The elements of a `tf.data.Dataset`, held in memory as encoded images."""

    def read(self, index):
        return self._sources[index]

    def _size(self, index):
        return len(self._sources[index])


def open_dataset(dataset, labels=None, labels_offset=0):
    """Runs through a dataset once and keeps its images in memory, which is what reading them in any order costs.

    Encoded images stay as they are. Arrays become PNG, which loses nothing and takes one to two thirds of a
    photograph's array. The elements' numbers are their names, so the dataset must give the same order every time.

    Args:
        dataset: a finite `tf.data.Dataset` of (image, label), not batched: the image a string scalar (an encoded
            image) or uint8 of shape (H, W, 3) or (H, W, 1), the label an integer scalar.
        labels, labels_offset: see `sources.open_examples`. Default: "class 0", "class 1", …

    Raises:
        UsageError: other elements; an infinite or an empty dataset; labels out of range.
    """
    spec = dataset.element_spec
    if not (isinstance(spec, (tuple, list)) and len(spec) == 2 and all(isinstance(s, tf.TensorSpec) for s in spec)):
        raise UsageError(f"{_EXPECTED} Received: {spec}")
    image, label = spec
    rank = {tf.string: 0, tf.uint8: 3}.get(image.dtype)
    ranks_fit = image.shape.rank in (rank, None) and label.shape.rank in (0, None)
    channels_fit = not rank or not image.shape.rank or image.shape[-1] in (1, 3, None)
    if rank is None or not label.dtype.is_integer or not ranks_fit or not channels_fit:
        received = (f"{part.dtype.name} of shape {part.shape}" for part in spec)
        raise UsageError(f"{_EXPECTED} Received: {' and '.join(received)}")
    count = dataset.cardinality()
    if count == tf.data.INFINITE_CARDINALITY:
        raise UsageError("The dataset never ends, so it cannot be held in memory. Remove repeat(), or add take(n).")
    if rank:
        encode = tf.function(lambda pixels: tf.io.encode_png(pixels, compression=1))
        dataset = dataset.map(lambda pixels, number: (encode(pixels), number), num_parallel_calls=tf.data.AUTOTUNE)
    images, raw = [], []
    total = None if count == tf.data.UNKNOWN_CARDINALITY else int(count)
    try:
        with Progress("reading", total, "images") as progress:
            for data, number in dataset.as_numpy_iterator():
                images.append(data)
                raw.append(int(number))
                progress.advance()
    except (tf.errors.OpError, TypeError, ValueError) as error:
        raise UsageError(f"The dataset failed at element {len(images)}: {str(error).splitlines()[0]}") from error
    if not images:
        raise UsageError("The dataset is empty.")
    names = [f"element {i}" for i in range(len(images))]
    return DatasetExamples(images, *numbered_classes(raw, labels_offset, labels, names), names)
