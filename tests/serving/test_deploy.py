import csv
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from stand_in import parser
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from inception_tf.cli import serve
from inception_tf.errors import UsageError
from inception_tf.serving.deployment import FORMS, deployment


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_version):
    """Two models: one with an awkward name, one that says it was exported for XLA."""
    folder = tmp_path_factory.mktemp("served")
    for name in ('Digits "2": ä', "compiled"):
        shutil.copytree(make_version(1), folder / name / "1")
    card = folder / "compiled/1/assets.extra/inception_tf.json"
    card.write_text(card.read_text().replace('"xla": false', '"xla": true'))
    return {path.name: path for path in sorted(folder.iterdir())}


BOTH = pytest.mark.parametrize("gpu", [False, True], ids=["CPU", "GPU"])


def message(name, **fields):
    """A message type of Serving's that tensorflow-serving-api has not: of session_bundle_config.proto or
    monitoring_config.proto, from the fields' names and types."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", dependency=["google/protobuf/wrappers.proto"])
    kinds = descriptor_pb2.FieldDescriptorProto
    entry = file.message_type.add(name=name)
    for number, (field, kind) in enumerate(fields.items(), 1):
        label = kinds.LABEL_REPEATED if field == "allowed_batch_sizes" else kinds.LABEL_OPTIONAL
        if isinstance(kind, str):
            entry.field.add(name=field, number=number, label=label, type=kinds.TYPE_MESSAGE, type_name=kind)
        else:
            entry.field.add(name=field, number=number, label=label, type=kind)
    for inner, members in {"PrometheusConfig": {"enable": kinds.TYPE_BOOL, "path": kinds.TYPE_STRING}}.items():
        nested = entry.nested_type.add(name=inner)
        for number, (field, kind) in enumerate(members.items(), 1):
            nested.field.add(name=field, number=number, label=kinds.LABEL_OPTIONAL, type=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))()


def check_monitoring(config):
    empty = message("MonitoringConfig", prometheus_config=".MonitoringConfig.PrometheusConfig")
    found = text_format.Parse(config, empty).prometheus_config
    assert found.enable and found.path == "/monitoring/prometheus/metrics"


def bases(config):
    """The base directories by name of a file for --model_config_file."""
    entries = text_format.Parse(config, ModelServerConfig()).model_config_list.config
    return {entry.name: entry.base_path for entry in entries}


def in_container(models):
    return {name: f"/models/{name}" for name in models}


def check_flags(arguments, gpu):
    parser().parse_args(arguments)  # they are Serving's
    flags = {"--model_config_file=/config/models.config", "--rest_api_port=8501", "--port=8500", "--enable_batching"}
    flags |= {"--enable_per_model_batching_parameters", "--monitoring_config_file=/config/monitoring.config"}
    assert flags | {f"--xla_{'gpu' if gpu else 'cpu'}_compilation_enabled"} == set(arguments)


def image(gpu):
    return "tensorflow/serving:2.20.0" + "-gpu" * gpu


def run_probe(command, port):
    """The code with which a probe ends, asked of another port of this machine."""
    return subprocess.run([part.replace("/8501", f"/{port}") for part in command]).returncode


def check_cluster(documents):
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for document in documents:
        validate.validate(document, validate.latest_version(), strict=True)


def test_batching_by_its_proto(models):
    kinds = descriptor_pb2.FieldDescriptorProto
    fields = dict.fromkeys(
        ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches"), ".google.protobuf.Int64Value"
    )
    empty = message("BatchingParameters", **fields, allowed_batch_sizes=kinds.TYPE_INT64)
    found = text_format.Parse((models["compiled"] / "1/batching_params.pbtxt").read_text(), empty)
    assert found.max_batch_size.value == 8 and list(found.allowed_batch_sizes) == [8]


@BOTH
def test_docker(models, tmp_path, gpu):
    """The script, with a docker that shows what it gets."""
    odd = {**models, "a, b": Path("/else where/x,'y")}
    script = tmp_path / "docker.sh"
    script.write_text(deployment("docker", odd, 80, 81, gpu=gpu))
    subprocess.run(["bash", "-n", script], check=True)
    fake = tmp_path / "docker"
    fake.write_text(f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], sys.stdout)\n")
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    given = json.loads(subprocess.run(["sh", script], env=environment, check=True, capture_output=True).stdout)
    assert ("--gpus" in given) == gpu
    start = given.index(image(gpu))
    check_flags(given[start + 1 :], gpu)
    assert given[start - 2 : start] == ["--entrypoint", "tensorflow_model_server"]
    assert {"127.0.0.1:80:8501", "127.0.0.1:81:8500", "65534:65534"} <= set(given)
    mounts = [next(csv.reader([given[i + 1]])) for i, one in enumerate(given) if one == "--mount"]
    mounts = {m["target"]: m["source"] for m in (dict(f.partition("=")[::2] for f in mount) for mount in mounts)}
    config = Path(mounts.pop("/config"))
    assert mounts == {f"/models/{name}": str(base) for name, base in odd.items()}
    assert bases((config / "models.config").read_text()) == in_container(odd)
    check_monitoring((config / "monitoring.config").read_text())


@BOTH
def test_compose(models, gpu):
    """And by schema/compose-spec.json of github.com/compose-spec/compose-spec, in the file COMPOSE_SCHEMA."""
    document = yaml.safe_load(deployment("compose", models, 80, 81, gpu=gpu))
    if schema := os.environ.get("COMPOSE_SCHEMA"):
        pytest.importorskip("jsonschema").validate(document, json.loads(Path(schema).read_text()))
    service = document["services"]["serving"]
    assert service["image"] == image(gpu)
    check_flags(service["command"], gpu)
    assert [config["target"] for config in service["configs"]] == ["/config/models.config", "/config/monitoring.config"]
    contents = {name: config["content"] for name, config in document["configs"].items()}
    assert bases(contents["models"]) == in_container(models)
    check_monitoring(contents["monitoring"])
    assert service["ports"] == ["127.0.0.1:80:8501", "127.0.0.1:81:8500"]
    mounts = {mount["target"]: mount["source"] for mount in service["volumes"]}
    assert mounts == {f"/models/{name}": str(base) for name, base in models.items()}
    devices = service["deploy"].get("resources", {}).get("reservations", {}).get("devices", [])
    assert [device["capabilities"] for device in devices] == [["gpu"]] * gpu
    assert 'for model in "$$@"' in service["healthcheck"]["test"][3]


@BOTH
def test_kubernetes(models, gpu):
    documents = list(yaml.safe_load_all(deployment("kubernetes", models, 80, 81, gpu=gpu)))
    check_cluster(documents)
    config_map, claim, pods, service, scaler = documents
    assert bases(config_map["data"]["models.config"]) == in_container(models)
    check_monitoring(config_map["data"]["monitoring.config"])
    pod = pods["spec"]["template"]
    assert pods["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"] == service["spec"]["selector"]
    (container,) = pod["spec"]["containers"]
    check_flags(container["args"], gpu)
    assert container["image"] == image(gpu) and container["resources"]["requests"] == {"cpu": "2", "memory": "4Gi"}
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == gpu
    assert container["readinessProbe"]["exec"] == container["startupProbe"]["exec"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert volumes == set(mounts) and mounts["config"] == "/config"
    assert claim["metadata"]["name"] == "models"
    assert [port["port"] for port in service["spec"]["ports"]] == [80, 81]
    assert scaler["spec"]["scaleTargetRef"]["name"] == pods["metadata"]["name"]


def test_the_probe_waits_for_every_model(models, start):
    pods = list(yaml.safe_load_all(deployment("kubernetes", models, 80, 81)))[2]
    command = pods["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["exec"]["command"]
    dockerfile = deployment("dockerfile", models, 80, 81).splitlines()
    (healthcheck,) = (line for line in dockerfile if line.startswith("HEALTHCHECK"))
    assert json.loads(healthcheck[healthcheck.index("[") :]) == command
    assert command[-2:] == ["Digits%20%222%22%3A%20%C3%A4", "compiled"]
    with start(models["compiled"].parent) as server:
        assert run_probe(command, server.port) == 0
        assert run_probe([*command, "another"], server.port) != 0
        port = server.port
    assert run_probe(command, port) != 0


# What KServe's v1beta1 adds to the Container that it takes as `model`, and to the PodSpec that it takes as `predictor`.
KSERVE_MODEL = {"modelFormat": dict, "runtime": str, "runtimeVersion": str, "storageUri": str, "protocolVersion": str}


def check_kserve(document):
    """By Kubernetes's schema, and by the published CRD in the file KSERVE_CRD: config/crd/full/
    serving.kserve.io_inferenceservices.yaml of github.com/kserve/kserve."""
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"} and set(document["spec"]) == {"predictor"}
    predictor = {**document["spec"]["predictor"]}
    model = predictor.pop("model")
    own = {key: value for key, value in model.items() if key in KSERVE_MODEL}
    assert all(isinstance(value, KSERVE_MODEL[key]) for key, value in own.items()), own
    container = {"name": "model", **{key: value for key, value in model.items() if key not in own}}
    check_cluster([{"apiVersion": "v1", "kind": "Pod", "spec": {**predictor, "containers": [container]}}])
    if crd := os.environ.get("KSERVE_CRD"):
        jsonschema = pytest.importorskip("jsonschema")
        versions = yaml.safe_load(Path(crd).read_text())["spec"]["versions"]
        (schema,) = (v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1beta1")
        jsonschema.Draft7Validator(strict(schema)).validate({**document, "metadata": {}})


def strict(schema):
    """An OpenAPI schema as a JSON schema that refuses unknown fields, as the cluster's API does."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    if isinstance(schema.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in schema:
        schema.setdefault("additionalProperties", False)
    return schema


@BOTH
def test_kserve(models, gpu):
    documents = list(yaml.safe_load_all(deployment("kserve", models, 80, 81, gpu=gpu)))
    check_cluster(documents[::2])
    for document in documents[1::2]:
        check_kserve(document)
        document["spec"]["predictor"]["model"]["runtimVersion"] = "2"
        with pytest.raises(Exception, match="runtimVersion"):
            check_kserve(document)
        del document["spec"]["predictor"]["model"]["runtimVersion"]
    assert [d["metadata"]["name"] for d in documents[1::2]] == ["digits-2", "compiled"]
    for config, document, name in zip(documents[::2], documents[1::2], models):
        check_monitoring(config["data"]["monitoring.config"])
        assert (document["apiVersion"], document["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
        predictor = document["spec"]["predictor"]
        assert predictor["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]
        model = predictor["model"]
        assert model["modelFormat"] == {"name": "tensorflow"} and model["storageUri"] == f"pvc://models/{name}"
        assert model["runtimeVersion"] == image(gpu).partition(":")[2]
        assert ("nvidia.com/gpu" in model["resources"]["limits"]) == gpu
        # KServe's runtime fills in what is missing: a limit of 1 CPU and 2Gi, below these requests.
        assert set(model["resources"]["requests"]) <= set(model["resources"]["limits"])
        assert ("--xla_cpu_compilation_enabled" in model["args"]) == (name == "compiled" and not gpu)
        assert ("--xla_gpu_compilation_enabled" in model["args"]) == gpu
        assert parser().parse_args(model["args"]).monitoring_config_file == "/config/monitoring.config"
        # The runtime gives these itself.
        assert not [arg for arg in model["args"] if arg.startswith(("--model", "--port", "--rest_api_port"))]
    odd = dict.fromkeys(("2015", "ä", 39 * "a" + " b"), models["compiled"])
    documents = list(yaml.safe_load_all(deployment("kserve", odd, 80, 81)))
    assert [d["metadata"]["name"] for d in documents[1::2]] == [
        "model-2015",
        "model",
        39 * "a",
    ]  # [a-z]([-a-z0-9]*[a-z0-9])?
    with pytest.raises(UsageError, match="a, A"):
        deployment("kserve", {"a": models["compiled"], "A": models["compiled"]}, 80, 81)


@BOTH
def test_dockerfile(models, gpu):
    odd = {(name := 'it\'s "$2" [*'): Path("/models", name)}
    lines = deployment("dockerfile", models, 8501, 8500, gpu=gpu).splitlines()
    assert lines[0] == "# syntax=docker/dockerfile:1" and f"FROM {image(gpu)}" in lines

    def document(target):
        start = lines.index(f"COPY <<'EOT' /config/{target}") + 1
        return "\n".join(lines[start : lines.index("EOT", start)])

    assert bases(document("models.config")) == in_container(models)
    check_monitoring(document("monitoring.config"))
    copies = [line.removeprefix("COPY ") for line in lines if line.startswith("COPY [")]
    copies = [[re.sub(r"\\(.)", r"\1", word) for word in json.loads(copy)] for copy in copies]
    assert copies == [[f"{name}/", f"/models/{name}/"] for name in models]
    words = next(line for line in deployment("dockerfile", odd, 1, 2).splitlines() if line.startswith("COPY ["))
    assert json.loads(words.removeprefix("COPY "))[0] == r"it\'s \"\$2\" [[][*]/"
    (entry,) = (line.removeprefix("ENTRYPOINT ") for line in lines if line.startswith("ENTRYPOINT"))
    check_flags(json.loads(entry)[1:], gpu)
    with pytest.raises(UsageError, match="one directory"):
        deployment("dockerfile", {**models, "x": Path("/elsewhere/x")}, 8501, 8500)


def test_the_version_is_a_choice(models):
    """XLA's flag for GPUs came with 2.18: an older server ends at one that it does not know."""
    for version, flag in (("2.19.1", "--xla_gpu"), ("2.17.1", "--xla_cpu"), ("latest", "--xla_gpu")):
        text = deployment("compose", models, 1, 2, version, gpu=True)
        assert f"tensorflow/serving:{version}-gpu\n" in text and text.count("--xla_") == text.count(flag) == 1
    with pytest.raises(UsageError, match="2.12.1 or newer"):
        deployment("compose", models, 1, 2, "2.6.2")
    with pytest.raises(UsageError, match="2.20.0"):
        deployment("compose", models, 1, 2, "2.19; rm")


def test_the_command_offers_every_form():
    assert set(serve.FORMS) == set(FORMS)


@pytest.fixture
def run(tmp_path):
    """Runs `inception-tf serve` with a tensorflow_model_server on the PATH that prints its arguments."""
    fake = tmp_path / "bin/tensorflow_model_server"
    fake.parent.mkdir()
    fake.write_text(f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:], sep='\\n')\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PATH": f"{fake.parent}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)}

    def run(*arguments, cwd=None, **variables):
        command = [sys.executable, "-m", "inception_tf", "serve", *map(str, arguments)]
        return subprocess.run(command, env={**environment, **variables}, capture_output=True, text=True, cwd=cwd)

    return run


def test_tensorflow_serving_is_run_when_it_is_there(run, models):
    done = run(models["compiled"].parent, "--port", "1234", "--grpc-port", "5678")
    flags = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert done.returncode == 0 and (flags["--rest_api_port"], flags["--port"]) == ("1234", "5678"), done.stderr
    assert done.stderr.startswith("TensorFlow Serving, on all addresses")
    check_monitoring(Path(flags["--monitoring_config_file"]).read_text())
    assert bases(Path(flags["--model_config_file"]).read_text()) == {name: str(base) for name, base in models.items()}


def test_wrong_use(run, models):
    for arguments, message in [
        ([models["compiled"], "--port", "99999"], "a port from 0 to 65535"),
        ([models["compiled"], "--poll", "0"], "above 0"),
        ([models["compiled"], "--gpu"], "for --print"),
    ]:
        done = run(*arguments)
        assert done.returncode == 2 and message in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    done = run("--print", "kserve", "--tensorflow-serving", "2.19.1", cwd=models["compiled"])  # the directory one is in
    assert done.returncode == 0 and 'runtimeVersion: "2.19.1"' in done.stdout


def test_a_missing_package_is_told_in_a_line(run, models, tmp_path):
    (tmp_path / "aiohttp.py").write_text("raise ImportError(name='aiohttp')")
    done = run(
        models["compiled"],
        "--engine",
        "local",
        PYTHONPATH=os.pathsep.join([str(tmp_path), *map(os.path.abspath, filter(None, sys.path))]),
    )
    assert done.returncode == 1 and "needs aiohttp: pip install 'inception-tf[serving]'" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
