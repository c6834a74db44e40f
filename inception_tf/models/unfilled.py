"""Networks built for weights that come next. It imports no Keras, which loads `blocks`, which needs this."""

import contextlib
import contextvars

_unfilled = contextvars.ContextVar("unfilled", default=False)


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
