"""Batches for training and validation, out of `Examples`, as tf.data pipelines.

The training batches of a step follow from the seed and the step alone: a run that goes on at step n sees what an
unbroken one sees there, whatever the machine.
"""

import dataclasses
import threading

import numpy as np

from inception_tf.errors import ImageError
from inception_tf.images.augmentation import Augmentation
from inception_tf.images.decoding import decode_image

# Decoded photographs that are kept in memory, at most.
CACHE_BYTES = 2 << 30


class Decoded:
    """The decoded images of `Examples`, kept in memory as far as they fit.

    Args:
        examples: an `Examples`.
        limit: bytes of memory, at most.
    """

    def __init__(self, examples, limit=CACHE_BYTES):
        self._examples, self._left, self._kept, self._lock = examples, limit, {}, threading.Lock()

    def __len__(self):
        return len(self._examples)

    def image(self, index):
        """The uint8 image H×W×3 of an index."""
        kept = self._kept.get(int(index))
        if kept is not None:
            return kept
        name = self._examples.names[int(index)]
        try:
            image = decode_image(self._examples.read(int(index)))
        except (ImageError, OSError) as error:
            raise ImageError(f"{name} could be read when the run began, and cannot any more: {error}") from error
        with self._lock:
            if image.nbytes <= self._left and int(index) not in self._kept:
                self._left -= image.nbytes
                self._kept[int(index)] = image
        return image

    def graph(self, index):
        """`image` as a TensorFlow op."""
        import tensorflow as tf

        image = tf.numpy_function(self.image, [index], tf.uint8, stateful=False)
        return tf.ensure_shape(image, (None, None, 3))


@dataclasses.dataclass(frozen=True)
class Order:
    """Which examples the steps see: every epoch its own permutation, cut to whole batches.

    Attributes:
        examples: how many there are, at least `batch_size`.
        batch_size: of all workers together.
        seed: of the permutations.
        worker, workers: this worker's part of every batch.
    """

    examples: int
    batch_size: int
    seed: int = 0
    worker: int = 0
    workers: int = 1

    @property
    def steps_per_epoch(self):
        return self.examples // self.batch_size

    @property
    def local_batch(self):
        return self.batch_size // self.workers

    def positions(self, step, steps):
        """A dataset of this worker's places in the endless row of examples, int64 scalars, from `step` on."""
        import tensorflow as tf

        first, local = step * self.batch_size + self.worker * self.local_batch, self.local_batch
        return tf.data.Dataset.range(steps * local).map(lambda i: first + i // local * self.batch_size + i % local)

    def index(self, position):
        """The examples at positions, int64 tensors of any shape up to a vector."""
        import tensorflow as tf

        per_epoch = self.steps_per_epoch * self.batch_size
        epoch = tf.cast(position // per_epoch, tf.uint32)
        seed = tf.stack([tf.ones_like(epoch) * np.uint32(part) for part in (0, self.seed)] + [epoch], axis=-1)
        # The op behind tf.random.experimental.index_shuffle, which takes no vectors.
        return tf.raw_ops.RandomIndexShuffle(
            index=position % per_epoch, seed=seed, max_index=np.int64(self.examples - 1), rounds=4
        )


def training_images(decoded, labels, classes, order, recipe, preprocessing, heads, weights=None):
    """A function (step, steps) to a dataset of batches for `fit`: ({images}, {one-hot labels a head}, {weights}).

    Args:
        decoded: a `Decoded`.
        labels: int64 array, a class each.
        classes: how many there are.
        order: an `Order`.
        recipe: a `Recipe`: `augment`, `mixup`, `seed`.
        preprocessing: the network's.
        heads: the names of the outputs that have a loss.
        weights: float32 array, a factor for every class, or None.
    """
    import tensorflow as tf

    augmentation = Augmentation(preprocessing, recipe.augment)

    def example(position):
        index = order.index(position)
        seed = tf.stack([tf.constant(recipe.seed, tf.int64), position])
        return augmentation.graph(decoded.graph(index), seed), tf.gather(labels, index)

    def batches(step, steps):
        data = order.positions(step, steps)
        data = data.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        data = data.batch(order.local_batch, drop_remainder=True)
        data = data.map(_targets(classes, heads, weights))
        if recipe.mixup:
            data = tf.data.Dataset.zip(tf.data.Dataset.range(step, step + steps), data)
            data = data.map(_mixup(recipe, order.worker), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return data.prefetch(2)

    return batches


def training_features(features, labels, classes, order, recipe, heads, weights=None):
    """As `training_images`, of features computed before: a dict of arrays, N×… each."""
    import tensorflow as tf

    with tf.device("CPU"):
        features = {name: tf.constant(values) for name, values in features.items()}

    def batches(step, steps):
        data = order.positions(step, steps).batch(order.local_batch, drop_remainder=True)

        def gather(positions):
            index = order.index(positions)
            return {name: tf.gather(values, index) for name, values in features.items()}, tf.gather(labels, index)

        data = data.map(gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        data = data.map(_targets(classes, heads, weights))
        if recipe.mixup:
            data = tf.data.Dataset.zip(tf.data.Dataset.range(step, step + steps), data)
            data = data.map(_mixup(recipe, order.worker))
        return data.prefetch(2)

    return batches


def _targets(classes, heads, weights):
    import tensorflow as tf

    def targets(inputs, labels):
        one_hot = tf.one_hot(labels, classes)
        factors = tf.ones_like(labels, tf.float32) if weights is None else tf.gather(weights, labels)
        return inputs, dict.fromkeys(heads, one_hot), dict.fromkeys(heads, factors)

    return targets


def _mixup(recipe, worker):
    """Every image of a batch blended with another of it (arXiv 1710.09412), their labels and weights too."""
    import tensorflow as tf

    def blend(step, batch):
        seed = tf.stack([tf.constant(recipe.seed * 1000 + worker, tf.int64), step])
        alpha = tf.constant(recipe.mixup, tf.float32)
        one, other = (tf.random.stateless_gamma((), seed + [i, 0], alpha) for i in (1, 2))
        share = one / (one + other)
        return tf.nest.map_structure(lambda values: share * values + (1 - share) * tf.reverse(values, (0,)), batch)

    return blend


def all_images(decoded, preprocessing, batch_size, shard=(1, 0)):
    """A dataset of (images, indices): every example once, in order, preprocessed as for evaluation.

    `shard`: of so many workers, the one to give the batches of; each has other ones.
    """
    import tensorflow as tf

    data = tf.data.Dataset.range(len(decoded)).batch(batch_size).shard(*shard).unbatch()
    data = data.map(
        lambda index: (preprocessing.graph(decoded.graph(index)), index),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return data.batch(batch_size).prefetch(2)


def validation_images(decoded, labels, classes, order, preprocessing, heads):
    """Batches for `evaluate`: all of one size, the last filled up with images of weight 0.

    Args:
        order: an `Order`, of which the batch and the worker are taken.
        Others as `training_images`.
    """

    def example(index):
        return preprocessing.graph(decoded.graph(index)), index

    return _filled_up(example, labels, classes, order, heads)


def validation_features(features, labels, classes, order, heads):
    """As `validation_images`, of features computed before: a dict of arrays, N×… each."""
    import tensorflow as tf

    with tf.device("CPU"):
        features = {name: tf.constant(values) for name, values in features.items()}
    return _filled_up(
        lambda index: ({name: tf.gather(values, index) for name, values in features.items()}, index),
        labels,
        classes,
        order,
        heads,
    )


def _filled_up(example, labels, classes, order, heads):
    import tensorflow as tf

    count = len(labels)

    def weighted(place):
        inputs, index = example(tf.minimum(place, count - 1))
        target = tf.one_hot(tf.gather(labels, index), classes)
        weight = tf.cast(place < count, tf.float32)
        return inputs, dict.fromkeys(heads, target), dict.fromkeys(heads, weight)

    places = order.positions(0, -(-count // order.batch_size))
    data = places.map(weighted, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return data.batch(order.local_batch, drop_remainder=True).prefetch(2)
