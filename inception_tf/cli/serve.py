"""Serve models: by TensorFlow Serving when it is installed, else by the local server.

The local server answers as TensorFlow Serving does, REST and gRPC, and has a page at / and metrics at /metrics. It is
for development and tests, and listens on this machine alone. --print writes what deploys TensorFlow Serving elsewhere.
"""

import argparse

from inception_tf.cli.outcome import Outcome

KERAS = False

FORMS = ("docker", "compose", "kubernetes", "kserve")


def add_arguments(parser):
    parser.add_argument(
        "directory", nargs="?", default=".", help="of models, or of one model's versions (the current directory)"
    )
    parser.add_argument("--port", type=port, default=8501, help="for REST; 0: one that is free (8501)")
    parser.add_argument("--grpc-port", type=port, default=8500, metavar="PORT", help="for gRPC (8500)")
    parser.add_argument("--engine", choices=("auto", "tensorflow", "local"), default="auto", help="which server (auto)")
    parser.add_argument(
        "--config", metavar="FILE", help="the models in TensorFlow Serving's form, --model_config_file, not a directory"
    )
    parser.add_argument(
        "--label", action="append", default=[], metavar="MODEL:LABEL=VERSION", help="serve a version under a label too"
    )
    parser.add_argument("--print", choices=FORMS, dest="form", help="print deployment files instead of serving")
    local = parser.add_argument_group("the local server")
    local.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    local.add_argument("--max-request", type=int, default=64, metavar="MB", help="the largest request (64)")
    local.add_argument("--timeout", type=float, default=30, metavar="S", help="seconds for an answer (30)")
    local.add_argument("--poll", type=float, default=1, metavar="S", help="seconds between looks for versions (1)")
    local.add_argument("--threads", type=int, metavar="N", help="batches that run at once (2)")
    local.add_argument("--no-batching", action="store_true", help="run every request by itself")


def port(text):
    """A number of a TCP port."""
    if text.isdigit() and int(text) < 2**16:
        return int(text)
    raise argparse.ArgumentTypeError(f"a port from 0 to 65535 is expected. Received: {text!r}")


def run(args):
    import os
    import shutil
    import sys

    from inception_tf.errors import UsageError

    if args.max_request < 1 or args.timeout <= 0 or args.poll <= 0 or (args.threads or 1) < 1:
        raise UsageError("--max-request and --threads must be at least 1, --timeout and --poll above 0.")
    models = _models(args)
    if args.form:
        from inception_tf.serving.deploy import PRINTERS

        configs = models()
        bases = {name: config.base for name, config in configs.items()}
        text = PRINTERS[args.form](bases, args.port, args.grpc_port, _labels(configs))
        return Outcome(text.rstrip("\n"), {"form": args.form, "text": text})
    found = shutil.which("tensorflow_model_server")
    if args.engine == "tensorflow" and not found:
        raise UsageError("tensorflow_model_server is not on the PATH. --engine local serves without it.")
    if found and args.engine != "local":
        command = _serving_command(args, models())
        print(f"TensorFlow Serving, on all addresses of this machine: {' '.join(command)}", file=sys.stderr, flush=True)
        os.execv(found, command)
    return _local(args, models)


def _models(args):
    """A function to the models to serve, which looks anew each time."""
    from inception_tf.errors import UsageError
    from inception_tf.serving.models import ModelConfig, find_models, read_config

    labels = {}
    for text in args.label:
        model, _, rest = text.rpartition(":")
        label, _, version = rest.partition("=")
        if not (model and label and version.isdigit()):
            raise UsageError(f"--label takes MODEL:LABEL=VERSION. Received: {text!r}")
        labels.setdefault(model, {})[label] = int(version)
    if args.config:
        if labels:
            raise UsageError("--label does not go with --config, which has version_labels of its own.")
        configs = read_config(args.config)
        return lambda: configs

    last = {}

    def models():
        try:
            found = find_models(args.directory)
        except UsageError:
            if not last:
                raise
            return dict(last)  # what is served stays, even when its directory goes
        unknown = set(labels) - set(found)
        if unknown and not last:
            raise UsageError(f"--label names {', '.join(unknown)}, but the models are {', '.join(found)}.")
        last.update({name: ModelConfig(base, labels=labels.get(name, {})) for name, base in found.items()})
        return dict(last)

    models()
    return models


def _serving_command(args, models):
    import tempfile
    from pathlib import Path

    from inception_tf.export.serving_files import models_config
    from inception_tf.serving.deploy import server_command, versions_to_serve

    bases, labels = {name: config.base.resolve() for name, config in models.items()}, _labels(models)
    config = args.config
    if not config and (labels or len(bases) > 1):
        config = Path(tempfile.mkdtemp(prefix="inception-tf-serve-"), "models.config")
        config.write_text(models_config(bases, labels, versions_to_serve(bases, labels)), "utf-8")
    return server_command(bases, args.port, args.grpc_port, config, labels)


def _labels(models):
    return {name: config.labels for name, config in models.items() if config.labels}


def _local(args, models):
    import json
    import logging
    import sys

    from inception_tf.quiet import start_tensorflow
    from inception_tf.serving.server import LocalServer, Settings, check_host

    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("inception_tf").setLevel(logging.INFO)
    private = check_host(args.host)
    settings = Settings(args.host, args.port, args.grpc_port, args.max_request * 2**20, args.poll, args.timeout)
    settings.threads = args.threads or settings.threads
    settings.batching = not args.no_batching
    server = LocalServer(models, settings)
    start_tensorflow()

    def started():
        names = server.models.names()
        facts = {"engine": "local", "host": args.host, "port": server.port, "grpc_port": server.grpc_port}
        if args.json:
            print(json.dumps({**facts, "models": names}), flush=True)
            return
        host = f"[{args.host}]" if ":" in args.host else args.host
        why = " (no tensorflow_model_server on the PATH)" if args.engine == "auto" else ""
        print(f"The local server{why}: http://{host}:{server.port}/, gRPC {host}:{server.grpc_port}.", end=" ")
        print(f"Models: {', '.join(names) or 'none that load'}. Ctrl-C stops it.", flush=True)
        if not private:
            print("Whoever reaches this address can ask it: it knows no passwords.", file=sys.stderr, flush=True)

    server.serve_forever(started)
    return Outcome("" if args.json else "Stopped.", {"stopped": True})
