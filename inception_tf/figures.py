"""Figures, drawn with matplotlib where that is installed. Never through pyplot, whose state is the whole process's."""

import contextlib
from pathlib import Path

from inception_tf.errors import InceptionTFError, UsageError
from inception_tf.files import atomic_write, refuse_existing

SUFFIXES = (".png", ".pdf", ".svg")


class NoMatplotlibError(InceptionTFError, ImportError):
    """matplotlib is not installed."""


def check(path, overwrite=False):
    """What would keep `save` from writing a figure to `path`, found out before long work.

    Raises:
        UsageError: the name is not that of a picture, or is taken.
        NoMatplotlibError: matplotlib is not installed.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UsageError(f"A picture is written as {', '.join(SUFFIXES)}. Received: {path}")
    refuse_existing(path, overwrite)
    _figure_class()


def figure(width, height, layout="constrained", dpi=100):
    """An empty matplotlib `Figure` of that many inches; by default its axes are laid out so that nothing overlaps."""
    return _figure_class()(figsize=(width, height), layout=layout, dpi=dpi, facecolor="white")


@contextlib.contextmanager
def style(settings):
    """A context in which matplotlib has its default style and `settings`, a dict, whatever else the process has set."""
    _figure_class()
    import matplotlib.style

    with matplotlib.style.context(["default", settings]):
        yield


def save(figure, path, overwrite=False):
    """Writes a figure by `atomic_write`. Errors as `check`, and where the operating system refuses."""
    check(path, overwrite)
    with atomic_write(path, overwrite) as part:
        figure.savefig(part)


def _figure_class():
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoMatplotlibError("Pictures need matplotlib: pip install 'inception-tf[plots]'") from error
    return Figure
