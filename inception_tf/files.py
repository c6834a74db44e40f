"""Writing files completely or not at all."""

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from inception_tf.errors import CheckpointError, InceptionTFError, UsageError, raising


@contextlib.contextmanager
def atomic_write(path, overwrite=False):
    """Yields a path beside `path` to write to, a file or a directory; renames it to `path` on success.

    A process that dies leaves the old `path`, or none, and never half of a new one. The yielded path keeps the
    suffix, since writers choose their format by it.

    Args:
        path: where the result goes. Missing parent directories are created.
        overwrite: whether an existing `path` may be replaced.

    Raises:
        UsageError: `path` exists and `overwrite` is false, or it is a directory and what was written is a file.
        InceptionTFError: the operating system refused: a full disk, no permission.
    """
    path = Path(path)
    refuse_existing(path, overwrite, directory=True)  # what it is to be, only the caller knows
    with raising(InceptionTFError, f"Cannot write {path}"), created_dirs(path.parent):
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            part = scratch / path.name
            yield part
            replace(part, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def created_dirs(directory):
    """Makes a directory and its parents; when the body fails, those that were not there before go again."""
    new = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def refuse_lfs_pointer(path, name=None):
    """Raises a `CheckpointError` for a text that Git LFS leaves in place of a file; `name` is what it is called."""
    path = Path(path)
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size < 1024:
            text = path.read_bytes()
            if text.startswith(b"version https://git-lfs.github.com/spec/"):
                size = re.search(rb"\nsize (\d+)", text)
                of = f" of {int(size[1]):,} bytes" if size else ""
                raise CheckpointError(
                    f"{name or path} is a Git LFS pointer: the file itself{of} was not downloaded. Run `git lfs pull` "
                    "in its repository, or download it from there by hand."
                )


def refuse_existing(path, overwrite=False, directory=False):
    """Raises a `UsageError` when `path` exists and may not be replaced: call it before long work too.

    Args:
        directory: whether a directory is to be written. A file never replaces one.
    """
    if not overwrite and os.path.lexists(path):
        raise UsageError(f"{path} exists. Choose another name, or pass --force (overwrite=True) to replace it.")
    if not directory and os.path.isdir(path):
        raise UsageError(f"{path} is a directory: --force does not replace it with a file. Choose another name.")


def replace(source, target):
    """Renames `source` to `target`. A directory gives way to another, moved aside first, since rename() cannot do it.

    Raises:
        UsageError: `target` is a directory, and `source` is none.
    """
    refuse_existing(target, overwrite=True, directory=source.is_dir())
    if target.is_dir() and not target.is_symlink():
        aside = source.parent / (target.name + ".old")
        os.rename(target, aside)
        try:
            os.rename(source, target)
        except OSError:
            os.rename(aside, target)
            raise
    elif source.is_dir() and os.path.lexists(target):
        os.unlink(target)
        os.rename(source, target)
    else:
        os.replace(source, target)
