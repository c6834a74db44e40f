"""A child process that runs one thing for `rounds`: `python worker.py MODULE:FUNCTION ARGUMENTS`.

It imports nothing of this library, so that any Python can run it. MODULE is a module's name or a file; FUNCTION, called
with the JSON object ARGUMENTS as keywords, returns a function without arguments, each call of which does one piece of
work and comes back when that is done. What it answers to on standard input, a line each, and what it writes, as JSON:

    (when the first call is done)   {"facts": {…}}: the attribute `facts` of the function, if it has one
    run SECONDS                     {"calls": n, "seconds": s, "processor": s}: as many calls as fit, at least one
    memory                          {"peak": bytes}
"""

import importlib
import importlib.util
import json
import os
import resource
import sys
import time
from pathlib import Path


def main(what, arguments):
    # Libraries print; what the parent reads keeps a descriptor of its own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    call = function(what)(**json.loads(arguments))
    call()
    answer(facts=getattr(call, "facts", {}))
    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "run":
            answer(**run(call, float(numbers[0])))
        elif command == "memory":
            answer(peak=peak_memory())
        else:
            raise ValueError(f"Unknown command: {line!r}")


def function(what):
    module, _, name = what.rpartition(":")
    if not module.endswith(".py"):
        return getattr(importlib.import_module(module), name)
    sys.path.insert(0, os.path.dirname(module))
    spec = importlib.util.spec_from_file_location("peer", module)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, name)


def run(call, seconds):
    processor, start, calls = time.process_time(), time.perf_counter(), 0
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return {"calls": calls, "seconds": elapsed, "processor": time.process_time() - processor}


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
