"""How models are deployed with TensorFlow Serving: its command line, and files for Docker, Kubernetes and KServe."""

import json
import re
import shlex
import textwrap
from pathlib import Path
from urllib.parse import quote

from inception_tf.errors import CheckpointError, UsageError
from inception_tf.export.serving_files import models_config
from inception_tf.models.card import read_card
from inception_tf.serving.models import versions_in

IMAGE = "tensorflow/serving:latest"


def server_flags(models, labels=None):
    """The flags of `tensorflow_model_server`, but for ports and models.

    Args:
        models: a dict from names to base directories.
        labels: a dict from names to dicts from labels to versions.
    """
    flags = ["--enable_batching", "--enable_per_model_batching_parameters"]
    if labels:
        flags.append("--allow_version_labels_for_unavailable_models")
    if any(_compiled(base) for base in models.values()):
        flags += ["--xla_cpu_compilation_enabled", "--xla_gpu_compilation_enabled"]
    return flags


def _compiled(base):
    """Whether a version of a model was exported for XLA."""
    for child in Path(base).iterdir():
        if child.name.isdigit():
            try:
                if read_card(child).get("export", {}).get("xla"):
                    return True
            except CheckpointError:
                pass
    return False


def server_command(models, port, grpc_port, config=None, labels=None):
    """The command line of `tensorflow_model_server`.

    Args:
        models: a dict from names to base directories.
        port, grpc_port: for REST and gRPC.
        config: a --model_config_file; without one, `models` must be one.
        labels: as in `server_flags`.
    """
    command = ["tensorflow_model_server", f"--rest_api_port={port}", f"--port={grpc_port}"]
    if config:
        command.append(f"--model_config_file={config}")
    else:
        ((name, base),) = models.items()
        command += [f"--model_name={name}", f"--model_base_path={Path(base).resolve()}"]
    return command + server_flags(models, labels)


def docker(models, port, grpc_port, labels=None):
    """A Dockerfile that takes the models into the image, and in its comments how to build and run it."""
    root = _root(models)
    copied = [[f"{base.name}/", f"/models/{name}/"] for name, base in models.items()]
    lines = [
        "# An image with the models in it. Save this as Dockerfile, then",
        f"#   docker build -t models -f Dockerfile {shlex.quote(str(root))}",
        f"#   docker run --rm -p 127.0.0.1:{port}:8501 -p 127.0.0.1:{grpc_port}:8500 models",
        f"FROM {IMAGE}",
        *(f"COPY {_text(pair)}" for pair in copied),
        "COPY <<'EOF' /models/models.config",
        _config(models, labels).rstrip(),
        "EOF",
        "EXPOSE 8500 8501",
        f"ENTRYPOINT {_text(['tensorflow_model_server', *_container_flags(models, labels)])}",
    ]
    return "\n".join(lines) + "\n"


def compose(models, port, grpc_port, labels=None):
    """A compose.yaml: the models stay where they are and are mounted."""
    mounts = [
        {"type": "bind", "source": str(base.resolve()), "target": f"/models/{name}", "read_only": True}
        for name, base in models.items()
    ]
    return f"""\
# Save this as compose.yaml, then: docker compose up (2.23 or newer)
services:
  serving:
    image: {IMAGE}
    entrypoint: tensorflow_model_server
    command: {_text(_container_flags(models, labels))}
    ports:
      - {_text(f"127.0.0.1:{port}:8501")}
      - {_text(f"127.0.0.1:{grpc_port}:8500")}
    volumes:
{textwrap.indent("".join(f"- {_text(mount)}" + chr(10) for mount in mounts), " " * 6)}\
    configs:
      - {{source: models, target: /models/models.config}}
    healthcheck:
      # The image has neither curl nor wget.
      test: [CMD, bash, -c, "exec 3<>/dev/tcp/127.0.0.1/8501"]
      interval: 10s
      start_period: 120s
    restart: unless-stopped
configs:
  models:
    content: |
{textwrap.indent(_config(models, labels), " " * 6)}"""


def kubernetes(models, port, grpc_port, labels=None):
    """A ConfigMap, a PersistentVolumeClaim, a Deployment and a Service."""
    first = next(iter(models))
    return f"""\
# kubectl apply -f this, and the models into the volume, each under its name with its versions:
#   kubectl cp {shlex.quote(str(_root(models)))}/. POD:/models
apiVersion: v1
kind: ConfigMap
metadata: {{name: models-config}}
data:
  models.config: |
{textwrap.indent(_config(models, labels), " " * 4)}---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: models}}
spec:
  accessModes: [ReadWriteOnce]
  resources: {{requests: {{storage: 10Gi}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: serving}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: serving}}}}
  template:
    metadata: {{labels: {{app: serving}}}}
    spec:
      containers:
        - name: serving
          image: {IMAGE}
          command: [tensorflow_model_server]
          args: {_text(_container_flags(models, labels, "/config/models.config"))}
          ports:
            - {{name: rest, containerPort: 8501}}
            - {{name: grpc, containerPort: 8500}}
          readinessProbe:
            httpGet: {{path: {_text(f"/v1/models/{quote(first)}")}, port: rest}}
            periodSeconds: 5
          livenessProbe:
            tcpSocket: {{port: grpc}}
            initialDelaySeconds: 300
          resources:
            requests: {{cpu: "2", memory: 4Gi}}
            limits: {{memory: 8Gi}}
          volumeMounts:
            - {{name: models, mountPath: /models}}
            - {{name: config, mountPath: /config, readOnly: true}}
      volumes:
        - {{name: models, persistentVolumeClaim: {{claimName: models}}}}
        - {{name: config, configMap: {{name: models-config}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: serving}}
spec:
  selector: {{app: serving}}
  ports:
    - {{name: rest, port: {port or 8501}, targetPort: rest}}
    - {{name: grpc, port: {grpc_port or 8500}, targetPort: grpc}}
"""


def kserve(models, port, grpc_port, labels=None):
    """An InferenceService a model. The ports are KServe's own; names are made those of DNS; labels it does not have.

    Raises:
        UsageError: labels were given, or two models' names become one.
    """
    if labels:
        raise UsageError("KServe has no version labels. Leave --label out.")
    documents = {}
    for name, base in models.items():
        dns = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "model"
        if dns in documents:
            raise UsageError(f"Two models would be called {dns} in KServe. Rename one.")
        documents[dns] = f"""\
# kubectl apply -f this; the model lies with its versions in the volume claim `models`. Requests call it {dns}.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {{name: {_text(dns)}}}
spec:
  predictor:
    model:
      modelFormat: {{name: tensorflow}}
      storageUri: {_text(f"pvc://models/{name}")}
      args: {_text(server_flags({name: base}))}
      resources:
        requests: {{cpu: "2", memory: 4Gi}}
        limits: {{memory: 8Gi}}
"""
    return "---\n".join(documents.values())


PRINTERS = {"docker": docker, "compose": compose, "kubernetes": kubernetes, "kserve": kserve}


def versions_to_serve(models, labels):
    """For models with labels the versions by number: the labelled ones and today's latest."""
    return {name: {*labels[name].values(), max(versions_in(models[name]))} for name in labels or {}}


def _config(models, labels):
    return models_config({name: f"/models/{name}" for name in models}, labels, versions_to_serve(models, labels))


def _container_flags(models, labels, config="/models/models.config"):
    return ["--rest_api_port=8501", "--port=8500", f"--model_config_file={config}", *server_flags(models, labels)]


def _root(models):
    """The directory that holds all models."""
    roots = {base.resolve().parent for base in models.values()}
    if len(roots) > 1:
        raise UsageError("The models must lie in one directory for this. Received: " + ", ".join(map(str, roots)))
    return roots.pop()


def _text(value):
    """A value in YAML and in a Dockerfile: JSON is understood by both."""
    return json.dumps(value, ensure_ascii=False)
