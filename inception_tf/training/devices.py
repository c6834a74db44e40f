"""The devices that share every batch: one, those of a machine, those of workers on several machines."""

import contextlib
import functools
import hashlib

import keras
import numpy as np
import tensorflow as tf

from inception_tf.errors import UsageError


class OneDevice:
    """A single device.

    Attributes:
        replicas: how many devices share a batch.
        worker, workers: which of the processes that train together this is, and how many they are.
    """

    replicas, worker, workers = 1, 0, 1

    def scope(self):
        """A context in which the model is built, compiled and trained."""
        return contextlib.nullcontext()

    def check(self, recipe):
        """Raises a `UsageError` where a `Recipe` would not train as on a single device."""

    def all_reduce_any(self, flag):
        """Whether the flag is set in any worker. Here as below, all workers must call, in the same order."""
        return flag

    def all_reduce_sum(self, values):
        """The sum of the workers' float64 arrays, in all of them."""
        return values

    def assert_equal(self, facts):
        """Makes sure that the workers do the same work.

        Args:
            facts: a dict from names, the same in all workers, to str.

        Raises:
            UsageError: they differ, in all workers alike.
        """

    def leave(self):
        """Ends the common work, in all workers at a time. Whatever comes after, every worker does alone."""


class Mirrored(OneDevice):
    """`tf.distribute.MirroredStrategy` over TensorFlow's devices, a list of their names."""

    def __init__(self, devices):
        self.scope = _mirrored(tuple(devices)).scope
        self.replicas = len(devices)

    def check(self, recipe):
        if recipe.accumulate > 1 or recipe.clip is not None:
            raise UsageError(
                "On several devices Keras's TensorFlow backend cannot accumulate gradients, and clips each device's by "
                "itself. Leave accumulate and clip out, use one device (devices=1), or KERAS_BACKEND=jax."
            )


@functools.cache  # a second one in the process would number its exchanges as the first, and mistake them for its own
def _mirrored(devices):
    return tf.distribute.MirroredStrategy(list(devices))


class DataParallel(OneDevice):
    """`keras.distribution.DataParallel` on Keras's JAX backend, over JAX's devices in all processes."""

    def __init__(self, devices):
        import jax

        names = [f"{device.platform}:{device.id}" for device in devices]
        # Every worker has its own part of a batch from `batches.Order`.
        self.scope = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False).scope
        self.replicas = len(devices)
        self.worker, self.workers = jax.process_index(), jax.process_count()

    def all_reduce_any(self, flag):
        return bool(self._gather(np.array(flag)).any())

    def all_reduce_sum(self, values):
        words = np.frombuffer(values.tobytes(), np.uint32)  # JAX would round float64 to float32
        return self._gather(words).view(np.float64).sum(axis=0).reshape(values.shape)

    def assert_equal(self, facts):
        digests = [hashlib.sha256(value.encode()).digest() for value in facts.values()]
        gathered = self._gather(np.frombuffer(b"".join(digests), np.uint8).reshape(len(facts), -1))
        # Not `multihost_utils.assert_equal`: it fails in the workers that differ from the first, the others then hang.
        for worker, same in enumerate((gathered == gathered[0]).all(axis=-1)):
            if not same.all():
                names = [name for name, equal in zip(facts, same) if not equal]
                raise UsageError(
                    f"Worker {worker} differs from worker 0 in: {', '.join(names)}. All workers need the same command, "
                    "the same data, and --out on a disk that all of them see."
                )

    def leave(self):
        import jax

        if self.workers > 1:
            jax.distributed.shutdown()

    def _gather(self, array):
        from jax.experimental.multihost_utils import process_allgather

        return process_allgather(array) if self.workers > 1 else array[np.newaxis]


def find_devices(wanted=None):
    """The devices to train on.

    Args:
        wanted: how many GPUs, or where there are none CPUs, of every worker; or a list of TensorFlow's device names.
            Default: all GPUs, or one CPU.

    Returns:
        A `OneDevice`, or one of the others.

    Raises:
        UsageError: there are fewer, or not as many in every worker.
    """
    if keras.backend.backend() == "jax":
        return _jax_devices(wanted)
    if keras.backend.backend() != "tensorflow":
        if wanted is not None:
            raise UsageError(f"devices needs Keras on TensorFlow or JAX. Received: {keras.backend.backend()}")
        return OneDevice()
    if wanted is not None and not isinstance(wanted, int):
        return Mirrored(wanted)
    gpus, cpus = ([device.name for device in tf.config.list_logical_devices(kind)] for kind in ("GPU", "CPU"))
    names = gpus if wanted is None else _first(wanted, gpus or cpus)
    return Mirrored(names) if len(names) > 1 else OneDevice()


def _jax_devices(wanted):
    import jax

    with contextlib.suppress(RuntimeError):  # TensorFlow runs already
        tf.config.set_visible_devices([], "GPU")  # it only reads images here, and would take the memory
    processes = jax.process_count()
    if processes > 1 and not jax.distributed.is_initialized():
        raise UsageError("The workers separated when their run ended. Start them again for another.")
    devices = [jax.local_devices(process) for process in range(processes)]
    if len({len(part) for part in devices}) > 1:
        raise UsageError(f"Every worker needs as many devices as the others. Received: {list(map(len, devices))}")
    if wanted is None:
        wanted = 1 if jax.default_backend() == "cpu" else len(devices[0])
    elif not isinstance(wanted, int):
        raise UsageError(f"On Keras's JAX backend, devices is a number. Received: {wanted!r}")
    devices = [device for part in devices for device in _first(wanted, part)]
    return DataParallel(devices) if len(devices) > 1 else OneDevice()


def _first(count, devices):
    if not 1 <= count <= len(devices):
        raise UsageError(f"There are {len(devices)} devices. Received: devices={count}")
    return devices[:count]
