"""The errors of the library: one family, so that a command can print any of them in a line or two."""

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
