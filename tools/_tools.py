"""What the tools share: their command lines, and candidates in another Python or on another backend."""

import argparse
import fnmatch
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inception_tf.benchmark.rounds import BenchmarkError, Candidate, Child
from inception_tf.cli.bench import add_benchmark_arguments
from inception_tf.errors import InceptionTFError

HERE = Path(__file__).resolve().parent
FORMS = ("eager", "channels_last", "compiled")  # of torch's network


def benchmark_parser(doc, **defaults):
    """A parser with the options of every benchmark; see `add_benchmark_arguments`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_benchmark_arguments(parser, **defaults)
    return parser


def add_peer_arguments(parser):
    """Which rows there are, and the Python of torch's."""
    parser.add_argument("--only", default="*", metavar="GLOBS", help='of rows, such as "ours*,torch eager" (*)')
    parser.add_argument(
        "--torch-python",
        default=os.environ.get("TORCH_PYTHON", sys.executable),
        metavar="PYTHON",
        help="a Python with torch and timm; default: TORCH_PYTHON, or this one",
    )


def start(parser, run, arguments=None):
    """Calls `run` with the arguments; an error of this library is a line."""
    args = parser.parse_args(arguments)
    try:
        run(args)
    except InceptionTFError as error:
        sys.exit(f"{parser.prog}: {error}")


def wanted(name, globs):
    """Whether one of the globs, separated by commas, is a name's, in capitals or not."""
    return any(fnmatch.fnmatchcase(name.lower(), glob) for glob in globs.lower().split(","))


def usable(args, frameworks, report, stack):
    """The processes of those of "torch", "jax", "tensorflow" that start on the device, a dict by name.

    Notes their versions, and what is left out. They end with `stack`, an `ExitStack`.
    """

    def attempt(framework):
        try:
            return Child(candidate(args, framework, framework, "probe"))
        except BenchmarkError as error:
            return error

    found = {}
    with ThreadPoolExecutor() as pool:
        for framework, child in zip(frameworks, pool.map(attempt, frameworks)):
            if isinstance(child, BenchmarkError):
                report.left_out.append(str(child))
                continue
            stack.callback(child.close)
            report.machine["packages"] |= child.facts["versions"]
            report.machine["device"] = child.facts["device"]
            found[framework] = child
    return found


def candidate(args, name, framework, function, work=1, **arguments):
    """A function of _torch_steps.py, or of _keras_steps.py on a backend."""
    variables = {"KERAS_BACKEND": framework, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
    if args.device == "cpu":
        variables |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    file, python = (
        ("_torch_steps.py", args.torch_python) if framework == "torch" else ("_keras_steps.py", sys.executable)
    )
    return Candidate(name, f"{HERE / file}:{function}", {"device": args.device, **arguments}, work, python, variables)
