"""The errors of the library: one family, so that a command can print any of them in a line or two."""

import contextlib
import importlib
import re


class InceptionTFError(Exception):
    """Something the user can fix. The message says what is wrong and what to do next."""


class UsageError(InceptionTFError, ValueError):
    """An argument that cannot be right, whatever the files hold."""


class CheckpointError(InceptionTFError):
    """A file that is no checkpoint, or a broken one."""


class MismatchError(InceptionTFError, ValueError):
    """A checkpoint and a model that do not fit. `report`, where there is one, lists every difference."""

    def __init__(self, message, report=None):
        super().__init__(message)
        self.report = report


class ImageError(InceptionTFError, ValueError):
    """Bytes or a file that is not an image we read."""


class DownloadError(InceptionTFError):
    """A published checkpoint that could not be downloaded."""


class ExportError(InceptionTFError):
    """An export that could not be written, or that does not answer as its model does."""


class TrainingError(InceptionTFError):
    """A training run that cannot continue. What it saved before stays."""


@contextlib.contextmanager
def raising(kind, what, *of):
    """Makes an error of the `kind` out of those of the types `of`, by default the operating system's: what, and why.

    Errors of this library stay as they are.
    """
    of = of or (OSError,)
    try:
        yield
    except InceptionTFError:
        raise
    except of as error:
        raise kind(f"{what}: {getattr(error, 'strerror', None) or reason(error)}") from error


def need(module, extra, what):
    """Imports a module of a package that `what` needs and an extra of this one installs.

    Raises:
        UsageError: it is not installed, or broken.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{what} needs {module.partition('.')[0]}, which cannot be imported ({reason(error)}): "
            f"pip install 'inception-tf[{extra}]'."
        ) from error


def reason(error):
    """What another library's error says, in a line of at most 200 characters.

    Neither where in its C++ it came from, which OpenVINO says first, nor the names that TensorFlow gives its
    operations and its scratch files.
    """
    lines = str(getattr(error, "message", error)).strip().splitlines() or [type(error).__name__]
    line = next((line for line in lines if not re.match(r"\s*$|Exception from |Check '", line)), lines[0])
    line = re.sub(r"\{\{.*?\}\} ?| \[Op:\w+\]", "", line)
    return re.sub(r"^/\S+; ", "", line)[:200]


def listed(values, most=5):
    """The first values in a sentence: "a, b, c, d, e and 7 more"."""
    values = list(map(str, values))
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")
