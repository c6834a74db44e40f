"""How TensorFlow Serving is started and deployed: its command line, and files for Docker, Kubernetes and KServe."""

import glob
import json
import re
import shlex
from importlib.resources import files
from string import Template
from urllib.parse import quote

from inception_tf.errors import CheckpointError, UsageError
from inception_tf.exports.model_card import OLDEST_TENSORFLOW
from inception_tf.exports.serving_files import models_config
from inception_tf.models.card import read_card
from inception_tf.serving.directories import versions_in

# The newest image of TensorFlow Serving.
VERSION = "2.20.0"
FORMS = {
    "docker": "docker.sh",
    "dockerfile": "Dockerfile",
    "compose": "compose.yaml",
    "kubernetes": "kubernetes.yaml",
    "kserve": "kserve.yaml",
}

# Whether every model named after it is loaded: its status answers before it is, its metadata does not. The image has
# bash, but neither curl nor wget.
PROBE = (
    'for model in "$@"; do exec 3<>/dev/tcp/127.0.0.1/8501 && '
    r'printf "GET /v1/models/%s/metadata HTTP/1.0\r\n\r\n" "$model" >&3 && read -r _ code _ <&3 && '
    '[ "$code" = 200 ] || exit 1; done'
)


def server_flags(models, config="/config", gpu=False, version=VERSION):
    """The flags of `tensorflow_model_server`, but for ports and models, a dict from names to base directories."""
    flags = [f"--monitoring_config_file={config}/monitoring.config"]
    flags += ["--enable_batching", "--enable_per_model_batching_parameters"]
    if gpu or any(_compiled(path) for base in models.values() for path in versions_in(base).values()):
        # Either lets the CPU and the GPU compile; before 2.18 there was the CPU's alone.
        flags += [f"--xla_{'gpu' if gpu and _minor(version) >= (2, 18) else 'cpu'}_compilation_enabled"]
    return flags


def _minor(version):
    """A release's first two numbers; those of a tag without numbers are the newest's."""
    return tuple(map(int, (re.match(r"(\d+)\.(\d+)", version) or re.match(r"(\d+)\.(\d+)", VERSION)).groups()))


def _compiled(version):
    """Whether a version was exported for XLA."""
    try:
        return read_card(version).export.get("xla")
    except CheckpointError:
        return False


def server_command(models, port, grpc_port, config="/config", gpu=False, version=VERSION):
    """The command line of `tensorflow_model_server`; `config` is the directory with its files."""
    flags = [f"--rest_api_port={port}", f"--port={grpc_port}", f"--model_config_file={config}/models.config"]
    return ["tensorflow_model_server", *flags, *server_flags(models, config, gpu, version)]


def monitoring_config():
    """Serving's `MonitoringConfig`: where Prometheus finds its metrics."""
    return _file("monitoring.config")


def deployment(form, models, port, grpc_port, version=VERSION, gpu=False):
    """A deployment file of TensorFlow Serving: one of the files in `deploy/`, filled in.

    Args:
        form: one of `FORMS`. KServe has ports of its own, and its names are those of DNS.
        models: a dict from names to base directories.
        port, grpc_port: of the host, for REST and gRPC.
        version: of TensorFlow Serving, the tag of its image.
        gpu: whether for a GPU: another image, and what asks for one.

    Raises:
        UsageError: the form does not allow the models' directories or names; a version that is no tag, or too old.
    """
    if not re.fullmatch(r"[\w.-]{1,100}", version):
        raise UsageError(f"The version of TensorFlow Serving is a tag such as {VERSION}. Received: {version!r}")
    if _minor(version) < _minor(OLDEST_TENSORFLOW):
        raise UsageError(f"An export needs TensorFlow Serving {OLDEST_TENSORFLOW} or newer. Received: {version}")
    version += "-gpu" if gpu and not version.endswith("-gpu") else ""
    template = Template(_file(FORMS[form]))
    indent = {"compose": 6, "kubernetes": 4, "kserve": 4}.get(form, 0)

    def indented(text):
        return text.rstrip().replace("\n", "\n" + " " * indent)

    cpu = {"cpu": "4"} if form == "kserve" else {}  # its runtime has a limit of 1, less than what is requested here
    values = {
        "version": version,
        "image": f"tensorflow/serving:{version}",
        "limits": _text({**cpu, "memory": "8Gi", **({"nvidia.com/gpu": "1"} if gpu else {})}),
        "monitoring_config": indented(monitoring_config()),
    }
    if form == "kserve":
        names = {_dns_name(name): name for name in models}
        if len(names) < len(models):
            raise UsageError(f"Two of these would have the same name in KServe: {', '.join(models)}. Rename one.")
        texts = []
        for dns, name in names.items():
            own = {
                "flags": _text(server_flags({name: models[name]}, gpu=gpu, version=version)),
                "uri": _text(f"pvc://models/{name}"),
            }
            texts.append(template.substitute(values, name=dns, **own))
        return "---\n".join(texts)
    sources = {f"/models/{name}": base.resolve() for name, base in models.items()}
    roots = {str(source.parent) for source in sources.values()}
    if len(roots) > 1 and form in ("dockerfile", "kubernetes"):
        raise UsageError("The models must lie in one directory for this. Received: " + ", ".join(sorted(roots)))
    command = server_command(models, 8501, 8500, gpu=gpu, version=version)
    probe = ["CMD"] * (form == "compose") + ["bash", "-c", PROBE, "probe", *(quote(name, safe="") for name in models)]
    device = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    binds = [{"type": "bind", "source": str(s), "target": t, "read_only": True} for t, s in sources.items()]
    options = [shlex.quote(_csv("type=bind", f"source={s}", f"target={t}", "readonly")) for t, s in sources.items()]
    mounts = {
        "compose": "\n      ".join(f"- {_text(bind)}" for bind in binds),
        "docker": " \\\n  ".join(f"--mount {option}" for option in options),
    }
    values |= {
        "port": port or 8501,
        "grpc_port": grpc_port or 8500,
        "root": shlex.quote(roots.pop()),
        "probe": _text(probe),
        "command": _text(command),
        "flags": shlex.join(command[1:]).replace(" ", " \\\n  ") if form == "docker" else _text(command[1:]),
        "models_config": indented(models_config({name: f"/models/{name}" for name in models})),
        "copies": "\n".join(
            f"COPY {_text([_word(glob.escape(s.name) + '/'), _word(f'{t}/')])}" for t, s in sources.items()
        ),
        "mounts": mounts.get(form),
        "gpu_option": "--gpus all" if gpu else "",
        "devices": _text({"resources": {"reservations": {"devices": [device]}}} if gpu else {}),
    }
    if form == "compose":  # it takes $ for the beginning of a variable
        values = {key: str(value).replace("$", "$$") for key, value in values.items()}
    return template.substitute(values)


def _dns_name(name):
    """As KServe's webhook has it: a letter, then letters, digits and hyphens, and no hyphen at the end."""
    name = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-") or "model"
    return (name if name[0].isalpha() else f"model-{name}")[:40].rstrip("-")


def _file(name):
    return files("inception_tf.serving").joinpath("deploy", name).read_text("utf-8")


def _text(value):
    """A value in YAML and in a Dockerfile: JSON is understood by both."""
    return json.dumps(value, ensure_ascii=False)


def _word(value):
    """A word of a Dockerfile's COPY, where quotes are taken off and variables filled in, even in JSON."""
    return re.sub(r"([\\$\"'])", r"\\\1", value)


def _csv(*fields):
    """The fields of docker's --mount, which may hold commas and quotes."""
    return ",".join('"' + one.replace('"', '""') + '"' if set(',"') & set(one) else one for one in fields)
