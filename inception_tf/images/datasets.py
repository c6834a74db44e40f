"""Any tf.data.Dataset of images and labels as `Examples`."""

from pathlib import Path

from inception_tf.errors import UsageError
from inception_tf.images.examples import Examples, numbered_classes
from inception_tf.images.labels import load_labels
from inception_tf.progress import Progress


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
        labels, labels_offset: see `examples.open_examples`. Default: "class 0", "class 1", …

    Raises:
        UsageError: other elements; an infinite or an empty dataset; labels out of range.
    """
    import tensorflow as tf

    expected = "Expected a tf.data.Dataset of (image, label): an encoded image or uint8 (H, W, 3), and an integer."
    spec = dataset.element_spec
    if not (isinstance(spec, (tuple, list)) and len(spec) == 2 and all(isinstance(s, tf.TensorSpec) for s in spec)):
        raise UsageError(f"{expected} Of tensorflow_datasets: load(…, as_supervised=True). Received: {spec}")
    image, label = spec
    rank = {tf.string: 0, tf.uint8: 3}.get(image.dtype)
    if rank is None or not label.dtype.is_integer:
        raise UsageError(f"{expected} Received: {image.dtype.name} and {label.dtype.name}")
    if image.shape.rank == rank + 1 and label.shape.rank == 1:
        raise UsageError(f"{expected} The dataset is batched: pass dataset.unbatch(). Received: {image.shape}")
    if label.shape.rank not in (0, None) or image.shape.rank not in (rank, None):
        raise UsageError(f"{expected} Received: shapes {image.shape} and {label.shape}")
    if rank and image.shape.rank and image.shape[-1] not in (1, 3, None):
        raise UsageError(f"{expected} Received: {image.shape[-1]} channels")
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
    if isinstance(labels, (str, Path)):
        labels = load_labels(labels)[labels_offset:]
    numbers, class_names = numbered_classes(raw, labels_offset, labels, "the labels given", names)
    return DatasetExamples(images, numbers, class_names, names)
