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


def options(doc):
    """A parser of a command line, whose help is a module's docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def benchmark_options(doc, peers=False, **defaults):
    """The same with the options of every benchmark; of one beside peers, which rows there are and torch's Python."""
    parser = options(doc)
    add_benchmark_arguments(parser, **defaults)
    if peers:
        python = os.environ.get("TORCH_PYTHON", sys.executable)
        parser.add_argument("--only", default="*", metavar="GLOBS", help='of rows, such as "ours*,torch eager" (*)')
        parser.add_argument("--torch-python", default=python, metavar="PYTHON", help="that has torch (TORCH_PYTHON)")
    return parser


def start(parser, run, arguments=None):
    """Calls `run` with the arguments; an error of this library is a line."""
    args = parser.parse_args(arguments)
    try:
        return run(args)
    except InceptionTFError as error:
        sys.exit(f"{parser.prog}: {error}")


def wanted(name, globs):
    """Whether one of the globs, separated by commas, is a name's, in capitals or not."""
    return any(fnmatch.fnmatchcase(name.lower(), glob.strip()) for glob in globs.lower().split(","))


def usable(args, frameworks, report):
    """Those of "torch", "jax", "tensorflow" that start on the device; notes their versions, and what is left out."""

    def probe(framework):
        try:
            child = Child(candidate(args, framework, framework, "probe"))
        except BenchmarkError as error:
            return report.left_out.append(str(error))
        child.close()
        report.machine["packages"] |= child.facts["versions"]
        report.machine["device"] = child.facts["device"]
        return framework

    with ThreadPoolExecutor() as pool:
        return list(filter(None, pool.map(probe, frameworks)))


def candidate(args, name, framework, function, work=1, **arguments):
    """A function of _torch_steps.py, or of _keras_steps.py on a backend."""
    variables = {"KERAS_BACKEND": framework}
    if args.device == "cpu":
        variables |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    file, python = ("_torch", args.torch_python) if framework == "torch" else ("_keras", sys.executable)
    arguments = {"device": args.device, **arguments}
    return Candidate(name, f"{HERE / file}_steps.py:{function}", arguments, work, python, variables)
