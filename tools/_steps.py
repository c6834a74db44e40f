"""A step of a network as a contestant of inception_tf.benchmark. It imports nothing, so that any Python can run it."""

import math
import re
import sys
import time


def repeated(step, value, count=1, warm_up=0, **facts):
    """A function for worker.py that does steps and comes back when the device has done the last.

    Args:
        step: a function that starts one step on data that is on the device already.
        value: a function from what `step` gives to a float; it waits for the device.
        count: the steps in a call: a GPU is kept busy by more than one when they are short.
        warm_up: the steps before the first call, beside the very first one, which compiles.
        **facts: what else there is to tell.
    """

    def call(count=count):
        for _ in range(count):
            result = step()
        if not math.isfinite(value(result)):
            sys.exit("what it computes is not finite")

    start = time.perf_counter()
    try:
        call(1)
    except Exception as error:
        # Every framework says it in other words and many lines; the parent shows the last one.
        text = " ".join(str(error).split())
        short = re.search("out of memory|RESOURCE_EXHAUSTED", text, re.IGNORECASE)
        sys.exit("out of memory" if short else f"{type(error).__name__}: {text[:200]}")
    call.facts = {**facts, "first_step_seconds": time.perf_counter() - start}
    for _ in range(warm_up):
        call(1)
    return call
