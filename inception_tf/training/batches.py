"""Batches for training and validation, out of `Examples`, as tf.data pipelines.

The training batches of a step follow from the seed and the step alone: a run that resumes at step n sees what an
uninterrupted one sees there, whatever the machine.
"""

import dataclasses
import threading

import numpy as np
import tensorflow as tf

from inception_tf.errors import ImageError
from inception_tf.images.augmentation import Augmentation
from inception_tf.images.decoding import decode_image

# Decoded photographs are cached in memory up to this size.
CACHE_BYTES = 2 << 30


class Decoded:
    """The decoded images of `Examples`, cached in memory as far as they fit.

    Args:
        examples: an `Examples`.
        limit: bytes of memory, at most.
    """

    def __init__(self, examples, limit=CACHE_BYTES):
        self._examples, self._left, self._cache, self._lock = examples, limit, {}, threading.Lock()

    def __len__(self):
        return len(self._examples)

    def image(self, index):
        """The uint8 image H×W×3 of an index."""
        cached = self._cache.get(int(index))
        if cached is not None:
            return cached
        name = self._examples.names[int(index)]
        try:
            image = decode_image(self._examples.read(int(index)))
        except (ImageError, OSError) as error:
            raise ImageError(f"{name} was readable when the run began, but no longer is: {error}") from error
        with self._lock:
            if image.nbytes <= self._left and int(index) not in self._cache:
                self._left -= image.nbytes
                self._cache[int(index)] = image
        return image

    def graph(self, index):
        """`image` as a TensorFlow op."""
        image = tf.numpy_function(self.image, [index], tf.uint8, stateful=False)
        return tf.ensure_shape(image, (None, None, 3))


@dataclasses.dataclass(frozen=True)
class Order:
    """Which examples the steps see: every epoch its own permutation, cut to full batches.

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

    def positions(self, step=0):
        """The endless dataset of this worker's positions in the sequence of examples, int64 scalars, from `step` on."""
        first, local = step * self.batch_size + self.worker * self.local_batch, self.local_batch
        return tf.data.Dataset.counter().map(lambda i: first + i // local * self.batch_size + i % local)

    def index(self, position):
        """The examples at positions, int64 tensors of any shape up to a vector."""
        per_epoch = self.steps_per_epoch * self.batch_size
        epoch = tf.cast(position // per_epoch, tf.uint32)
        seed = tf.stack([tf.ones_like(epoch) * np.uint32(part) for part in (0, self.seed)] + [epoch], axis=-1)
        # The op behind tf.random.experimental.index_shuffle, which takes no vectors.
        return tf.raw_ops.RandomIndexShuffle(
            index=position % per_epoch, seed=seed, max_index=np.int64(self.examples - 1), rounds=4
        )


@dataclasses.dataclass(frozen=True)
class Targets:
    """What `fit` compares the outputs with: for an example, a one-hot label and a weight for every head.

    Attributes:
        labels: int64 array, the class of every example; or float32 N×classes, of several.
        classes: how many there are.
        heads: the names of the outputs that have a loss.
        factors: float32 array, a factor for every class on the weight, or None.
    """

    labels: np.ndarray
    classes: int
    heads: tuple
    factors: np.ndarray = None

    def __call__(self, inputs, index, weight=1.0):
        """(inputs, {labels}, {weights}) of the examples at `index`, an int64 tensor."""
        labels = tf.gather(self.labels, index)
        weights = tf.ones_like(index, tf.float32) if self.factors is None else tf.gather(self.factors, labels)
        one_hot = labels if np.ndim(self.labels) == 2 else tf.one_hot(labels, self.classes)
        return inputs, dict.fromkeys(self.heads, one_hot), dict.fromkeys(self.heads, weights * weight)


def images(decoded, preprocessing, recipe=None):
    """A function from (an index, a seed) to an image, both as tensors, which `training_batches` and others take.

    Args:
        decoded: a `Decoded`.
        preprocessing: the network's.
        recipe: a `Recipe`, by which the images are augmented: `augment`, `crop_area`, `train_scale`. Default: as for
            evaluation.
    """
    if recipe is None:
        return lambda index, seed=None: preprocessing.graph(decoded.graph(index))
    if recipe.augment != "none":
        preprocessing = dataclasses.replace(preprocessing, size=scaled(preprocessing.size, recipe.train_scale))
    augmentation = Augmentation(preprocessing, recipe.augment, recipe.crop_area)
    return lambda index, seed: augmentation.graph(decoded.graph(index), seed)


def scaled(sides, scale):
    """The (height, width) of training images, by `train_scale`."""
    return tuple(max(round(side * scale), 1) for side in sides)


def features(arrays):
    """As `images`, of features that were computed before: a dict of arrays, N×… each."""
    with tf.device("CPU"):
        arrays = {name: tf.constant(values) for name, values in arrays.items()}
    return lambda index, seed=None: {name: tf.gather(values, index) for name, values in arrays.items()}


def training_batches(inputs, targets, order, recipe):
    """A function from a step to the endless dataset of batches for `fit` from there on.

    Args:
        inputs: from `images` or `features`.
        targets: a `Targets`.
        order: an `Order`.
        recipe: a `Recipe`: `mixup`, `seed`.
    """

    def example(position):
        index = order.index(position)
        return targets(inputs(index, tf.stack([tf.constant(recipe.seed, tf.int64), position])), index)

    def batches(step):
        data = order.positions(step).map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        data = data.batch(order.local_batch, drop_remainder=True)
        if recipe.mixup:
            data = tf.data.Dataset.zip(tf.data.Dataset.counter(step), data)
            data = data.map(_mixup(recipe, order.worker), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return data.prefetch(2)

    return batches


def _mixup(recipe, worker):
    """Every image of a batch blended with another of it (arXiv 1710.09412), their labels and weights too."""

    def blend(step, batch):
        seed = tf.stack([tf.constant(recipe.seed * 1000 + worker, tf.int64), step])
        alpha = tf.constant(recipe.mixup, tf.float32)
        one, other = (tf.random.stateless_gamma((), seed + [i, 0], alpha) for i in (1, 2))
        fraction = one / (one + other)
        return tf.nest.map_structure(
            lambda values: fraction * values + (1 - fraction) * tf.reverse(values, (0,)), batch
        )

    return blend


def validation_batches(inputs, targets, order):
    """The batches for `evaluate`: all of one size, the last filled up with images of weight 0.

    Args:
        order: an `Order`, of which the batch and the worker are taken.
        Others as in `training_batches`.
    """
    count = len(targets.labels)

    def example(position):
        index = tf.minimum(position, count - 1)
        return targets(inputs(index), index, weight=tf.cast(position < count, tf.float32))

    data = order.positions().take(-(-count // order.batch_size) * order.local_batch)
    data = data.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return data.batch(order.local_batch, drop_remainder=True).prefetch(2)


def all_images(decoded, preprocessing, batch_size, shard=(1, 0)):
    """A dataset of (images, indices): every example once, in order, preprocessed as for evaluation.

    `shard`: of so many workers, the one to give the batches of; each has other ones.
    """
    image = images(decoded, preprocessing)
    data = tf.data.Dataset.range(len(decoded)).batch(batch_size).shard(*shard).unbatch()
    data = data.map(lambda index: (image(index), index), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return data.batch(batch_size).prefetch(2)
