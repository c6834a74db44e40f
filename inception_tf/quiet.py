"""Keeping TensorFlow's chatter off the terminal."""

import contextlib
import logging
import os
import sys
import tempfile
import warnings


@contextlib.contextmanager
def silent_start():
    """Keeps what TensorFlow's libraries say while they load off standard error; shows it when loading fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def no_deprecations():
    """Without the warnings that graphs of TensorFlow 1 bring about: they are old on purpose."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
