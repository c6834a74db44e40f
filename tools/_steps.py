"""A step of a network as a candidate of a benchmark. It imports no other package, so that any Python can run it."""

import math
import sys

WARM_UP = 5  # steps on a GPU; torch records CUDA graphs in the second


def repeated(step, value, device, count=1, **facts):
    """A function for inception_tf/benchmark/worker.py that does steps, and returns when the device has done the last.

    Args:
        step: a function that starts one step on data that is on the device already.
        value: a function from what `step` returns to a float; it waits for the device.
        device: "gpu" or "cpu".
        count: the steps in a call: a GPU is kept busy by more than one when they are short.
        **facts: what else there is to report.
    """

    def call(count=count):
        for _ in range(count):
            result = step()
        if not math.isfinite(value(result)):
            sys.exit("what it computes is not finite")

    if device == "gpu":
        call(WARM_UP)
    call.facts = facts
    return call
