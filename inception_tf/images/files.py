"""Finds the files that a list of arguments stands for."""

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
    expanded it. The arguments keep their order, each one's files are sorted, and no file is listed twice.

    Args:
        paths: a path or a sequence of them.

    Returns:
        A list of `Path`.

    Raises:
        UsageError: an argument that matches nothing, a directory without images or that cannot be read; no argument.
    """
    found = {}
    for argument, matches in expand(paths):
        files = [file for match in matches for file in (walk_images(match) if match.is_dir() else [match])]
        if not files:
            raise UsageError(f"No images in {argument!r}. Looked for files that end in {', '.join(IMAGE_SUFFIXES)}.")
        for file in files:
            found.setdefault(os.path.abspath(file), file)
    if not found:
        raise UsageError("No images given. Pass files, patterns such as 'photos/*.jpg', or directories.")
    return list(found.values())


def expand(paths):
    """Yields each argument with the files and directories it stands for, as a path or as a pattern.

    Raises:
        UsageError: an argument that matches nothing.
    """
    for argument in map(os.fspath, [paths] if isinstance(paths, (str, os.PathLike)) else paths):
        path = os.path.expanduser(argument)
        # An existing name is never a pattern: `photo[1].jpg` is a common name of a download.
        matches = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
        if not matches:
            raise UsageError(f"No such file or directory, and no pattern that matches one: {argument!r}.")
        yield argument, list(map(Path, matches))


def walk_images(directory):
    """The image files at any depth below a directory, sorted; see `find_images`."""
    return sorted(map(Path, iterate_images(directory)))


def iterate_images(directory):
    """Yields what `walk_images` lists, strings, one by one, in the order of the file system."""
    waiting = [os.fspath(directory)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if not entry.is_dir():
                        if is_image_name(entry.name):
                            yield entry.path
                    elif not entry.name.startswith(".") and not entry.is_symlink():
                        waiting.append(entry.path)
        except OSError as error:
            raise UsageError(f"Cannot read the directory {error.filename}: {error.strerror}.") from error


def is_image_name(name):
    """Whether a file of that name counts as an image inside a directory."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)
