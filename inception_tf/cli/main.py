"""`inception-tf`: parses, runs one command, prints its result."""

import argparse
import importlib
import json
import os
import signal
import sys
import warnings

from inception_tf import __version__
from inception_tf.cli.outcome import Outcome
from inception_tf.errors import InceptionTFError, UsageError
from inception_tf.progress import Progress
from inception_tf.quiet import start_keras

# In the order of `--help`. Each is a module of this package with `add_arguments` and `run`.
COMMANDS = (
    *("inspect", "convert", "verify", "classify", "finetune", "evaluate", "fid", "explain", "dense"),
    *("embed", "similar", "export", "serve", "models", "profile", "bench", "doctor"),
)

# Where a package is not called as its module is.
PACKAGES_OF = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "tf_slim": "tf-slim"}


def parser():
    """The argument parser of all commands. Imports neither Keras nor TensorFlow."""
    top = argparse.ArgumentParser(
        prog="inception-tf",
        description="TF-Slim Inception checkpoints alive in Keras 3: converted, proven equal to the original, served.",
    )
    top.add_argument("--version", action=_Version, help="print the versions of this and of what it runs on")
    shells = {"choices": ("bash", "zsh", "tcsh"), "help": "print what completes commands in a shell"}
    top.add_argument("--print-completion", action=_Completion, **shells)
    raw = argparse.RawDescriptionHelpFormatter
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = command_module(name)
        summary = module.__doc__.strip().splitlines()[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__, formatter_class=raw)
        command.add_argument("--json", action="store_true", help="print the result as JSON")
        command.add_argument("--quiet", action="store_true", help="show no progress, print the result alone")
        command.add_argument("--debug", action="store_true", help="print a traceback when something fails")
        module.add_arguments(command)
    return top


class _Version(argparse.Action):
    """Prints the versions of the library, of Keras's backends and of the engines that are installed."""

    def __init__(self, option_strings, dest, help):
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser, *_):
        from inception_tf.machine import PACKAGES, machine

        found = {"inception-tf": __version__} | machine(PACKAGES)["packages"]
        print(", ".join(f"{name} {version}" for name, version in found.items()))
        parser.exit()


class _Completion(argparse.Action):
    """Prints the completion of a shell. Whatever takes no choices is completed as a file."""

    def __call__(self, parser, namespace, shell, _=None):
        try:
            import shtab
        except ModuleNotFoundError:
            parser.error("completion needs shtab: pip install shtab")
        commands = next(action.choices for action in parser._actions if action.dest == "command")
        for action in [action for command in commands.values() for action in command._actions]:
            if action.nargs != 0 and not action.choices:
                action.complete = shtab.FILE
        print(shtab.complete(parser, shell))
        parser.exit()


def command_module(name):
    """The module of a command."""
    return importlib.import_module(f"inception_tf.cli.{name}")


def main(argv=None):
    """Runs a command. Returns its exit code: 0, 1 for a failure, 2 for wrong use, 130 when interrupted."""
    args = parser().parse_args(argv)
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # the names of files may be no text
    Progress.shown = not args.quiet
    try:
        command = command_module(args.command)
        keras = getattr(command, "KERAS", True)
        if keras(args) if callable(keras) else keras:
            start_keras()
        outcome = command.run(args)
        _print(outcome, args.json)
        return outcome.code
    except BrokenPipeError:
        # The reader went away, as `head` does; nothing more can be printed, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("inception-tf: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if args.debug:
            raise
        message, code = _explain(error)
        if args.json:
            print(json.dumps({"error": message}))
        print(_red(f"inception-tf {args.command}:"), message, file=sys.stderr)
        return code


def _red(text):
    """The text in red, on a terminal that may show colors (no-color.org)."""
    return f"\033[31m{text}\033[0m" if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else text


def _explain(error):
    if isinstance(error, InceptionTFError):
        return str(error), 2 if isinstance(error, UsageError) else 1
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return "out of memory. A smaller --batch needs less.", 1
    if isinstance(error, OSError):
        return f"{error.filename or 'input/output'}: {error.strerror or error}", 1
    if isinstance(error, ModuleNotFoundError) and not (error.name or "inception_tf").startswith("inception_tf"):
        package = PACKAGES_OF.get(error.name.split(".")[0], error.name.split(".")[0])
        # Where these two are missing, so is the rest that this package requires: it was installed by --no-deps.
        rest = "; all that is missing: pip install inception-tf" if package in ("keras", "tensorflow") else ""
        return f"this needs {package}, which is not installed: pip install {package}{rest}", 1
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return f"internal error, {type(error).__name__}: {first} (--debug shows where; please report it)", 1


def _print(outcome: Outcome, as_json):
    if as_json:
        print(json.dumps(outcome.data, indent=2, default=str))
    elif outcome.text:
        print(outcome.text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
