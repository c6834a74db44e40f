"""Building networks without drawing their initial weights."""

import contextlib
import contextvars

_skipping = contextvars.ContextVar("skipping", default=False)


@contextlib.contextmanager
def meta_init():
    """A context in which layers are built with variables that have shapes and no values: no time, no memory.

    Keras keeps such variables on a list and fills them all as soon as any other model is built, gigabytes after a few
    networks. Those created in here are taken off it.
    """
    import keras
    from keras.src.backend.common import global_state

    waiting = global_state.get_global_attribute("uninitialized_variables", [], set_to_default=True)
    before = len(waiting)
    with keras.StatelessScope(initialize_variables=False):
        try:
            yield
        finally:
            del waiting[before:]


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
