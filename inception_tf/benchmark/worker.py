"""A child process that runs one candidate for `rounds`: `python worker.py MODULE:FUNCTION ARGUMENTS`.

It imports nothing of this library, so that any Python can run it. MODULE is a module's name or a file; FUNCTION, called
with the JSON object ARGUMENTS as keywords, returns a function without arguments, each call of which does one piece of
work and comes back when that is done. What it answers to on standard input, a line each, and what it writes, as JSON:

    (when the first call is done)   {"facts": {…}}: the attribute `facts` of the function, if it has one
    SECONDS                         {"calls": n, "seconds": s, "processor": s, "peak": bytes}: as many calls as fit, at
                                    least one
"""

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path


def main(name, arguments):
    # Libraries print; what the parent reads keeps a descriptor of its own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    try:
        call = function(name)(**json.loads(arguments))
        call()
    except Exception as error:  # the parent shows it
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split())[:300])
    answer(facts=getattr(call, "facts", {}))
    for line in sys.stdin:
        answer(**run(call, float(line)), peak=peak_memory())


def function(name):
    """The function that "module:function" or "file.py:function" names."""
    module, _, attribute = name.rpartition(":")
    if module.endswith(".py"):
        path = Path(module)
        sys.path.insert(0, str(path.parent))
        module = path.stem
    return getattr(importlib.import_module(module), attribute)


def run(call, seconds):
    processor, start, calls = processor_time(), time.perf_counter(), 0
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return {"calls": calls, "seconds": elapsed, "processor": processor_time() - processor}


def processor_time():
    """The seconds of processors that this process and those that it started took."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def peak_memory():
    """The most bytes that were resident, of this process alone: `ru_maxrss` begins with the parent's."""
    try:
        with Path("/proc/self/status").open() as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    del sys.path[0]  # this file's directory, whose names are not for others to import
    main(*sys.argv[1:])
