"""Which images a list of arguments means."""

import glob
import os
from pathlib import Path

from inception_tf.errors import UsageError

# What counts as an image inside a directory. A file that is named counts whatever it is called.
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".png", ".webp")


def find_images(paths):
    """The image files that files, patterns and directories stand for.

    A directory is searched to the bottom for `IMAGE_SUFFIXES` in either case; hidden files and directories (`.name`)
    and linked directories are left out. A pattern (`*`, `?`, `[…]`, `**`) means what it matches, as if the shell had
    expanded it. The arguments keep their order, each one's files are sorted, and a file comes once.

    Args:
        paths: a path or a sequence of them.

    Returns:
        A list of `Path`.

    Raises:
        UsageError: an argument that matches nothing, a directory without images or that cannot be read; no argument.
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not paths:
        raise UsageError("No images given. Pass files, patterns such as 'photos/*.jpg', or directories.")
    found = {}
    for argument in map(os.fspath, paths):
        matches = _matches(os.path.expanduser(argument))
        if not matches:
            raise UsageError(f"No such file or directory, and no pattern that matches one: {argument!r}.")
        files = [file for match in matches for file in (_walk(match) if match.is_dir() else [match])]
        if not files:
            raise UsageError(f"No images in {argument!r}. Looked for files that end in {', '.join(IMAGE_SUFFIXES)}.")
        for file in files:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def _matches(argument):
    # An existing name is never a pattern: `photo[1].jpg` is a common name of a download.
    if argument and Path(argument).exists():
        return [Path(argument)]
    return sorted(map(Path, glob.glob(argument, recursive=True)))


def _walk(directory):
    def fail(error):
        raise UsageError(f"Cannot read the directory {error.filename}: {error.strerror}.") from error

    files = []
    for folder, subfolders, names in os.walk(directory, onerror=fail):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        files += [
            Path(folder, name) for name in names if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)
        ]
    return sorted(files)
