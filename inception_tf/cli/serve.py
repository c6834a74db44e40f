"""Serve models: by TensorFlow Serving when it is installed, else by the local server.

The local server answers as TensorFlow Serving does, REST and gRPC, and has a page at / and metrics at /metrics. It is
for trying an export, and listens on this machine alone, since it has no authentication. --print writes what deploys
TensorFlow Serving elsewhere.
"""

import argparse

from inception_tf.cli.outcome import Outcome

KERAS = False

FORMS = ("docker", "dockerfile", "compose", "kubernetes", "kserve")


def add_arguments(parser):
    parser.add_argument(
        "directory", nargs="?", default=".", help="of models, or of one model's versions (the current directory)"
    )
    parser.add_argument("--port", type=port, default=8501, help="for REST; 0: one that is free (8501)")
    parser.add_argument("--grpc-port", type=port, default=8500, metavar="PORT", help="for gRPC (8500)")
    parser.add_argument("--engine", choices=("auto", "tensorflow", "local"), default="auto", help="which server (auto)")
    deploy = parser.add_argument_group("deployment files")
    deploy.add_argument("--print", choices=FORMS, dest="form", help="print this instead of serving")
    deploy.add_argument("--tensorflow-serving", metavar="VERSION", help="the tag of its image (the newest, 2.20.0)")
    deploy.add_argument("--gpu", action="store_true", help="for a GPU")
    local = parser.add_argument_group("the local server")
    local.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    local.add_argument("--max-request", type=int, default=64, metavar="MB", help="the largest request (64)")
    local.add_argument("--timeout", type=float, default=30, metavar="S", help="seconds for an answer (30)")
    local.add_argument("--poll", type=float, default=1, metavar="S", help="seconds between checks for new versions (1)")
    local.add_argument("--threads", type=int, default=2, metavar="N", help="requests that run at once (2)")


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
    from inception_tf.serving.directories import find_models

    if min(args.max_request, args.threads) < 1 or min(args.timeout, args.poll) <= 0:
        raise UsageError("--max-request and --threads must be at least 1, --timeout and --poll above 0.")
    models = find_models(args.directory)
    if args.form:
        from inception_tf.serving.deployment import VERSION, deployment

        version = args.tensorflow_serving or VERSION
        text = deployment(args.form, models, args.port, args.grpc_port, version, args.gpu)
        return Outcome(text.rstrip("\n"), {"form": args.form, "text": text})
    if args.gpu or args.tensorflow_serving:
        raise UsageError("--gpu and --tensorflow-serving are for --print.")
    found = shutil.which("tensorflow_model_server")
    if args.engine == "tensorflow" and not found:
        raise UsageError("tensorflow_model_server is not on the PATH. --engine local serves without it.")
    if found and args.engine != "local":
        command = _serving_command(args, models)
        print(f"TensorFlow Serving, on all addresses of this machine: {' '.join(command)}", file=sys.stderr, flush=True)
        os.execv(found, command)
    return _local(args)


def _serving_command(args, models):
    import tempfile
    from pathlib import Path

    from inception_tf.exports.serving_files import models_config
    from inception_tf.serving.deployment import monitoring_config, server_command

    config = Path(tempfile.mkdtemp(prefix="inception-tf-serve-"))
    paths = {name: base.resolve() for name, base in models.items()}
    Path(config, "models.config").write_text(models_config(paths), "utf-8")
    Path(config, "monitoring.config").write_text(monitoring_config(), "utf-8")
    return server_command(models, args.port, args.grpc_port, config)


def _local(args):
    import asyncio
    import contextlib
    import ctypes
    import logging
    import os
    import sys

    from inception_tf.errors import InceptionTFError
    from inception_tf.quiet import start_tensorflow

    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("inception_tf").setLevel(logging.INFO)
    # The memory of a large image goes back when it is freed: oneDNN's allocator, and glibc's arenas, would keep it.
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    with contextlib.suppress(OSError, AttributeError, TypeError):  # where there is no glibc
        ctypes.CDLL(None).mallopt(-3, 2**24)  # M_MMAP_THRESHOLD
    start_tensorflow()
    try:
        from inception_tf.serving.server import LocalServer
    except ImportError as error:
        raise InceptionTFError(f"The local server needs {error.name}: pip install 'inception-tf[serving]'") from error
    limits = {"max_bytes": args.max_request * 2**20, "poll": args.poll, "timeout": args.timeout}
    server = LocalServer(args.directory, args.host, args.port, args.grpc_port, threads=args.threads, **limits)
    asyncio.run(_serve(args, server))
    return Outcome("" if args.json else "Stopped.", {"stopped": True})


async def _serve(args, server):
    """Serves until a signal."""
    import asyncio
    import json
    import signal

    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.is_closed() or loop.call_soon_threadsafe(stop.set))
    async with server.serving():
        names = sorted(server.models.servables)
        if args.json:
            facts = {"engine": "local", "host": args.host, "port": server.port, "grpc_port": server.grpc_port}
            print(json.dumps({**facts, "models": names}), flush=True)
        else:
            host = f"[{args.host}]" if ":" in args.host else args.host
            why = " (no tensorflow_model_server on the PATH)" if args.engine == "auto" else ""
            print(f"The local server{why}: http://{host}:{server.port}/, gRPC {host}:{server.grpc_port}.", end=" ")
            print(f"Models: {', '.join(names) or 'none that load'}. Ctrl-C stops it.", flush=True)
        await stop.wait()
