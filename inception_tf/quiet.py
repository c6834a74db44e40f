"""Keeping TensorFlow's log messages off the terminal."""

import contextlib
import logging
import os
import sys
import tempfile
import warnings


def start_keras():
    """Imports Keras and has its backend find its devices, without a word unless that fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with suppress_stderr():
        import keras

        if keras.backend.backend() == "tensorflow":
            start_tensorflow()


def start_tensorflow():
    """Imports TensorFlow, and not Keras, and has it find its devices, without a word unless that fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with suppress_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def suppress_stderr():
    """Keeps what libraries write to the process's standard error; shows it when the body fails."""
    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception:  # not Ctrl-C, which is the user's
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def no_deprecations():
    """Silences the warnings that graphs of TensorFlow 1 cause: they are old on purpose."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
