"""Networks built for their shapes alone."""

import contextlib

import keras
from keras.src.backend.common import global_state


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
