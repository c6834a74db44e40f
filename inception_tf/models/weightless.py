"""Networks built for their shapes alone, and those whose weights come later."""

import contextlib
import contextvars

import keras
from keras.src.backend.common import global_state

_unfilled = contextvars.ContextVar("unfilled", default=False)


@contextlib.contextmanager
def weightless():
    """A context in which layers are built with variables that have shapes and no values: no time, no memory.

    Keras keeps such variables on a list and fills them all as soon as any other model is built, gigabytes after a few
    networks. Those made in here are taken off it.
    """
    waiting = global_state.get_global_attribute("uninitialized_variables", [], set_to_default=True)
    before = len(waiting)
    with keras.StatelessScope(initialize_variables=False):
        try:
            yield
        finally:
            del waiting[before:]


@contextlib.contextmanager
def unfilled(all_loaded=True):
    """A context in which kernels are zeros: random ones, which loaded ones replace, take nearly half of the building.

    Args:
        all_loaded: whether every variable will be loaded; else nothing is changed.
    """
    token = _unfilled.set(all_loaded)
    try:
        yield
    finally:
        _unfilled.reset(token)


def initializer_for(initializer):
    """The initializer to build a kernel with, for the one that its layer has."""
    return "zeros" if _unfilled.get() else initializer
