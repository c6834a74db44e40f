"""What the benchmarks in tools/ share: options, who takes turns with whom, the report."""

import argparse
import fnmatch
import json
import math
import os
import re
import shutil
import statistics
import sys
from pathlib import Path

from inception_tf.benchmark.report import machine
from inception_tf.benchmark.rounds import BenchmarkError, Child, Contestant, companies, compete
from inception_tf.errors import InceptionTFError
from inception_tf.files import atomic_write, refuse_existing

TORCH = Path(__file__).resolve().with_name("_torch_steps.py")
FORMS = ("eager", "channels_last", "compiled")  # of torch's network
OUT_OF_MEMORY = re.compile("out of memory|exit status -9$", re.IGNORECASE)


def contest(contestants, together, rounds, seconds, say):
    """Contestants in companies that take turns, the first of them, the base, in every company.

    Where memory is short in company, those left out run by themselves, after the others.

    Args:
        contestants: `Contestant`s of inception_tf.benchmark.
        together: how many processes there may be at a time; 1: nobody takes turns.
        rounds, seconds: as `compete`.
        say: takes a line for each contestant that is left out.

    Returns:
        A list of JSON-like dicts in the contestants' order: name, speed and its range over the rounds, ratio to the
        base and its range (None without a base), whether it took turns with the base, and what `Result` tells.
    """
    if not contestants:
        return []
    base, *others = contestants
    waiting = [[one] for one in contestants] if together == 1 else companies([base], others, together)
    found = {}
    while waiting:
        company, reasons = waiting.pop(0), []
        results = compete(company, rounds, seconds, say=reasons.append)
        base_there = next((result for result in results if result.contestant is base), None)
        for result in results:
            found.setdefault(result.contestant.name, (result, base_there))
        if len(company) > 1 and any(map(OUT_OF_MEMORY.search, reasons)):
            waiting += [[contestant] for contestant in company if contestant.name not in found]
        else:
            for reason in reasons:
                say(reason)
    base = found.get(base.name, (None,))[0]
    order = [contestant.name for contestant in contestants]
    return [_row(*found[name], base) for name in order if name in found]


def _row(result, beside, base):
    ratios = result.ratios(beside or base) if base else None
    return {
        "name": result.contestant.name,
        "speed": result.speed,
        "speed_range": [min(result.speeds), max(result.speeds)],
        "ratio": statistics.median(ratios) if ratios else None,
        "ratio_range": [min(ratios), max(ratios)] if ratios else None,
        "took_turns": beside is not None,
        "rounds": result.speeds,
        "foreign": result.foreign,
        "disturbed": result.disturbed,
        "repeated": result.repeated,
        "peak_memory": result.memory,
        "start_seconds": result.first,
        **result.facts,
    }


def contestant(args, name, framework, file, function, arguments, work=1):
    """What a Python that has the framework runs of a file, or of torch's."""
    python, backend = sys.executable, framework
    if framework == "torch":
        python, file, backend = args.torch_python, TORCH, None
    return Contestant(name, f"{file}:{function}", arguments, work, python, environment(args.device, backend))


def wanted(name, globs):
    """Whether one of the globs, separated by commas, is a name's, in capitals or not."""
    return any(fnmatch.fnmatchcase(name.lower(), glob) for glob in globs.lower().split(","))


def number(value):
    """Three digits of a positive number, and all of those ahead of the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def span(pair):
    """A range of numbers, or nothing."""
    return f"{number(pair[0])}–{number(pair[1])}" if pair else ""


def options(description, device, batches):
    """A parser with the options that bench_gpu.py and bench_training.py have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("gpu", "cpu"), default=device, help=f"default: {device}")
    parser.add_argument("--batches", type=counts, default=counts(batches), help=f"default: {batches}")
    turns(parser, 5, 1.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="what was found so far, after every batch")
    parser.add_argument("--force", action="store_true", help="replace FILE")
    torch_python(parser)
    return parser


def turns(parser, rounds, seconds):
    """The options for how many and how long."""
    parser.add_argument("--rounds", type=whole, default=rounds, help=f"default: {rounds}")
    text = f"of a turn, which is at least a step; default: {seconds:g}"
    parser.add_argument("--seconds", type=positive, default=seconds, help=text)


def torch_python(parser):
    """The option for torch's Python."""
    parser.add_argument(
        "--torch-python",
        default=os.environ.get("TORCH_PYTHON", sys.executable),
        type=_program,
        metavar="PYTHON",
        help="a Python with torch, and timm or torchvision; default: TORCH_PYTHON, or this one",
    )


def start(parser, run):
    """Calls `run` with the arguments; an error of this library is a line."""
    args = parser.parse_args()
    try:
        run(args)
    except InceptionTFError as error:
        sys.exit(f"{parser.prog}: {error}")


class Report:
    """What a run finds.

    Attributes:
        data: a JSON-like dict; "rows" holds what `contest` gives.
    """

    def __init__(self, args):
        if args.json:
            refuse_existing(args.json, args.force)
        self.path = args.json
        settings = {name: value for name, value in vars(args).items() if name not in ("json", "force")}
        self.data = {"machine": machine(), "settings": settings, "versions": {}, "left_out": [], "rows": []}

    def leave_out(self, reason):
        """Notes, and says, what is left out and why."""
        self.data["left_out"].append(reason)
        print(f"left out: {reason}", file=sys.stderr, flush=True)

    def probe(self, contestant):
        """What a contestant tells of itself once it has started, its "versions" noted; None where it does not start."""
        try:
            found = facts(contestant)
        except BenchmarkError as error:
            self.leave_out(str(error))
            return None
        self.data["versions"] |= found["versions"]
        return found

    def add(self, rows):
        """Adds rows, and writes the file anew."""
        self.data["rows"] += rows
        if self.path:
            with atomic_write(self.path, overwrite=True) as part:
                part.write_text(json.dumps(self.data, indent=1) + "\n", "utf-8")


def facts(contestant):
    """What a contestant tells of itself once it has started.

    Raises:
        BenchmarkError: it does not start.
    """
    child = Child(contestant)
    child.close()
    return child.facts


def environment(device, backend=None):
    """The variables for a process on a device, and for Keras's backend."""
    variables = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
    variables |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "JAX_TRACEBACK_FILTERING": "off"}
    if device == "cpu":
        variables |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    return variables | ({"KERAS_BACKEND": backend} if backend else {})


def _program(name):
    if not shutil.which(name):
        raise argparse.ArgumentTypeError(f"there is no program {name}")
    return name


def whole(text):
    """A type for argparse: a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0. Received: {text}")
    return int(text)


def positive(text):
    """A type for argparse: a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0. Received: {text}")
    return number


def counts(text):
    """A type for argparse: whole numbers above 0, separated by commas."""
    return [whole(word) for word in text.split(",")]


def some_of(names):
    """A type for argparse: some of `names`, separated by commas, in their order."""

    def parse(text):
        words = text.split(",")
        unknown = [word for word in words if word not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(names)}")
        return [name for name in names if name in words]

    return parse
