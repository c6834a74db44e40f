"""What the candidates of test_benchmark.py run."""

import os
import sys
import time


def sleep(seconds, megabytes=0):
    kept = bytearray(os.urandom(1000)) * (1000 * megabytes)
    print("libraries print")
    print("and complain", file=sys.stderr)

    def call():
        time.sleep(seconds)
        return len(kept)

    call.facts = {"slept": seconds}
    return call


def fails():
    raise ValueError("no such engine")


def dies():
    calls = []

    def call():
        calls.append(None)
        if len(calls) > 1:
            sys.exit("died under way")

    return call


def batched(batch, most=4):
    if batch > most:
        raise ValueError("too many")
    return sleep(0.001)


def shadowed():
    """The worker's own directory is not searched."""
    import rounds

    raise AssertionError(rounds.__file__)


def alone(marker):
    """Runs out of memory the first time."""
    if not os.path.exists(marker):
        os.mkdir(marker)
        raise MemoryError("out of memory")
    return sleep(0.001)
