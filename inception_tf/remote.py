"""Files behind URLs (`s3://`, `gs://`, `az://`, `file://`, `memory://`, …), through fsspec."""

import contextlib
import os
import re
import tempfile
from pathlib import Path

from inception_tf.errors import UsageError, need, raising, reason

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two characters at least: C: is a drive


def is_url(path):
    """Whether a path is a URL."""
    return isinstance(path, str) and bool(_URL.match(path))


def open_filesystem(url):
    """fsspec's filesystem of a URL or a path, and the path in it. It keeps no listings, which would fill the memory.

    Raises:
        UsageError: no such protocol, or its package is not installed.
    """
    fsspec = need("fsspec", "data", url)
    if not is_url(url):
        return fsspec.filesystem("file"), os.path.abspath(url)
    with raising(UsageError, f"{url} cannot be opened", ImportError, ValueError):
        return fsspec.core.url_to_fs(url, use_listings_cache=False)


def open_binary(path):
    """A file or a URL, opened to be read in binary."""
    if not is_url(path):
        return Path(path).open("rb")
    filesystem, inner = open_filesystem(path)
    return filesystem.open(inner, "rb")


@contextlib.contextmanager
def local_copy(path):
    """Yields a file's path, or that of a copy of what is behind a URL, which goes again."""
    if not is_url(path):
        yield path
        return
    filesystem, inner = open_filesystem(path)
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, os.path.basename(inner))
        filesystem.get_file(inner, target)
        yield target


def read_url(url):
    """The bytes behind a URL.

    Raises:
        UsageError: as `open_filesystem`.
        OSError: it cannot be read.
    """
    filesystem, path = open_filesystem(url)
    try:
        return filesystem.cat_file(path)
    except OSError:
        raise
    except Exception as error:  # each filesystem has its own
        raise OSError(reason(error)) from error
