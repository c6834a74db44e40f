"""Building networks: without initial weights, or with those that NumPy draws in one go."""

import contextlib
import contextvars
import math

import numpy as np

_skipping = contextvars.ContextVar("skipping", default=False)


@contextlib.contextmanager
def meta_init():
    """A context in which layers are built with variables that have shapes and no values: no time, no memory.

    Keras keeps such variables on a list and fills them all as soon as any other model is built, gigabytes after a few
    networks. Those created in here are taken off it.
    """
    with _without_values():
        yield


@contextlib.contextmanager
def drawn_on_host():
    """A context in which layers are built, and NumPy draws their initial weights at its end.

    An accelerator would be called, and on JAX something compiled, for every variable: 39 s of Inception-v3 on a GPU.
    Distributions and seeds are those of Keras's initializers; others than those known here are called as they are.
    Inside another such context, or inside `meta_init`, that one decides.
    """
    import keras

    if keras.src.backend.common.stateless_scope.in_stateless_scope():
        yield
        return
    with _without_values() as variables:
        yield
    for variable in variables:
        drawn = _drawn(variable._initializer, variable.shape)
        if drawn is not None:
            variable._initializer = lambda *_, dtype, drawn=drawn: keras.ops.convert_to_tensor(drawn, dtype)
        variable._deferred_initialize()


@contextlib.contextmanager
def _without_values():
    """The list of the variables that are created in it, once it is left."""
    import keras
    from keras.src.backend.common import global_state

    waiting, created = global_state.get_global_attribute("uninitialized_variables", [], set_to_default=True), []
    before = len(waiting)
    with keras.StatelessScope(initialize_variables=False):
        try:
            yield created
        finally:
            created += waiting[before:]
            del waiting[before:]


def _drawn(initializer, shape):
    """What an initializer of Keras gives, float32 of NumPy; None where it is not one of those known here."""
    from keras import initializers
    from keras.src.initializers.random_initializers import compute_fans

    call, shape = type(initializer).__call__, tuple(shape)
    for kind, value in (initializers.Zeros, 0), (initializers.Ones, 1):
        if call is kind.__call__:
            return np.full(shape, value, np.float32)
    if not isinstance(getattr(initializer, "seed", None), int):
        return None
    generator = np.random.default_rng(initializer.seed)
    if call is initializers.TruncatedNormal.__call__:
        return _truncated(generator, shape) * np.float32(initializer.stddev) + np.float32(initializer.mean)
    if call is not initializers.VarianceScaling.__call__:
        return None
    # Not every Keras knows of axes.
    axes = {axes: getattr(initializer, axes) for axes in ("input_axes", "output_axes") if hasattr(initializer, axes)}
    fan_in, fan_out = compute_fans(shape, **axes)
    fan = {"fan_in": fan_in, "fan_out": fan_out}.get(initializer.mode, (fan_in + fan_out) / 2)
    deviation = math.sqrt(initializer.scale / max(1.0, fan))
    if initializer.distribution == "truncated_normal":
        return _truncated(generator, shape) * np.float32(deviation / 0.87962566103423978)  # its own deviation
    if initializer.distribution == "uniform":
        return (2 * generator.random(shape, np.float32) - 1) * np.float32(math.sqrt(3) * deviation)
    return generator.standard_normal(shape, np.float32) * np.float32(deviation)


def _truncated(generator, shape):
    """A normal distribution of deviation 1 from which what is beyond 2 is drawn again."""
    drawn = generator.standard_normal(shape, np.float32)
    while (beyond := np.abs(drawn) > 2).any():
        drawn[beyond] = generator.standard_normal(np.count_nonzero(beyond), np.float32)
    return drawn


@contextlib.contextmanager
def skip_init(all_loaded=True):
    """A context in which kernels are zeros: drawing random ones, which are replaced next, takes half of the building.

    Args:
        all_loaded: whether every variable will be loaded; else nothing is changed.
    """
    token = _skipping.set(all_loaded)
    try:
        yield
    finally:
        _skipping.reset(token)


def initializer_for(initializer):
    """The initializer to build a kernel with, for the one that its layer has."""
    return "zeros" if _skipping.get() else initializer
