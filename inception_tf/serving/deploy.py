"""How TensorFlow Serving is started and deployed: its command line, and files for Docker, Kubernetes and KServe."""

import json
import re
import shlex
from importlib.resources import files
from string import Template
from urllib.parse import quote

from inception_tf.errors import CheckpointError, UsageError
from inception_tf.exports.serving_files import models_config
from inception_tf.models.card import read_card
from inception_tf.serving.directories import versions_in

IMAGE = "tensorflow/serving:latest"
FORMS = {"docker": "Dockerfile", "compose": "compose.yaml", "kubernetes": "kubernetes.yaml", "kserve": "kserve.yaml"}


def server_flags(models):
    """The flags of `tensorflow_model_server`, but for ports and models, a dict from names to base directories."""
    flags = ["--enable_batching", "--enable_per_model_batching_parameters"]
    if any(_compiled(path) for base in models.values() for path in versions_in(base).values()):
        flags += ["--xla_cpu_compilation_enabled", "--xla_gpu_compilation_enabled"]
    return flags


def _compiled(version):
    """Whether a version was exported for XLA."""
    try:
        return read_card(version).export.get("xla")
    except CheckpointError:
        return False


def server_command(models, port, grpc_port, config):
    """The command line of `tensorflow_model_server` with a --model_config_file."""
    ports = [f"--rest_api_port={port}", f"--port={grpc_port}"]
    return ["tensorflow_model_server", *ports, f"--model_config_file={config}", *server_flags(models)]


def deployment(form, models, port, grpc_port):
    """A deployment file of TensorFlow Serving: one of the `templates`, filled in.

    Args:
        form: one of `FORMS`. KServe has ports of its own, and its names are those of DNS.
        models: a dict from names to base directories.
        port, grpc_port: of the host, for REST and gRPC.

    Raises:
        UsageError: the form does not allow the models' directories or names.
    """
    template = Template(files("inception_tf.serving").joinpath("templates", FORMS[form]).read_text("utf-8"))
    if form == "kserve":
        names = {re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "model": name for name in models}
        if len(names) < len(models):
            raise UsageError(f"Two of these would have the same name in KServe: {', '.join(models)}. Rename one.")
        flags = {name: _text(server_flags({name: base})) for name, base in models.items()}
        uris = {name: _text(f"pvc://models/{name}") for name in models}
        return "---\n".join(template.substitute(name=dns, uri=uris[n], flags=flags[n]) for dns, n in names.items())
    roots = {str(base.resolve().parent) for base in models.values()}
    if len(roots) > 1 and form != "compose":
        raise UsageError("The models must lie in one directory for this. Received: " + ", ".join(sorted(roots)))
    command = server_command(models, 8501, 8500, "/config/models.config")
    config = models_config({name: f"/models/{name}" for name in models}).rstrip()
    indent = {"docker": 0, "compose": 6, "kubernetes": 4}[form]
    mounts = [
        {"type": "bind", "source": str(base.resolve()), "target": f"/models/{name}", "read_only": True}
        for name, base in models.items()
    ]
    return template.substitute(
        image=IMAGE,
        port=port or 8501,
        grpc_port=grpc_port or 8500,
        root=shlex.quote(roots.pop()),
        first=quote(next(iter(models))),
        command=_text(command),
        flags=_text(command[1:]),
        config=config.replace("\n", "\n" + " " * indent),
        copies="\n".join(f"COPY {_text([f'{base.name}/', f'/models/{name}/'])}" for name, base in models.items()),
        mounts="\n      ".join(f"- {_text(mount)}" for mount in mounts),
    )


def _text(value):
    """A value in YAML and in a Dockerfile: JSON is understood by both."""
    return json.dumps(value, ensure_ascii=False)
