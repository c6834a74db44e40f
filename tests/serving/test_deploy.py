import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from inception_tf.cli import serve
from inception_tf.errors import UsageError
from inception_tf.serving.deploy import FORMS, deployment


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_version):
    """Two models: one with an awkward name, one that says it was exported for XLA."""
    folder = tmp_path_factory.mktemp("served")
    for name in ('Digits "2": ä', "compiled"):
        shutil.copytree(make_version(1), folder / name / "1")
    card = folder / "compiled/1/assets.extra/inception_tf.json"
    card.write_text(card.read_text().replace('"xla": false', '"xla": true'))
    return {path.name: path for path in sorted(folder.iterdir())}


def bases(config):
    """The base directories by name of a file for --model_config_file."""
    entries = text_format.Parse(config, ModelServerConfig()).model_config_list.config
    return {entry.name: entry.base_path for entry in entries}


def in_container(models):
    return {name: f"/models/{name}" for name in models}


def check_flags(arguments):
    flags = {"--model_config_file=/config/models.config", "--rest_api_port=8501", "--port=8500", "--enable_batching"}
    flags |= {"--enable_per_model_batching_parameters", "--xla_cpu_compilation_enabled"}
    assert flags <= set(arguments)


def test_compose(models):
    document = yaml.safe_load(deployment("compose", models, 80, 81))
    service = document["services"]["serving"]
    check_flags(service["command"])
    (config,) = service["configs"]
    assert config == {"source": "models", "target": "/config/models.config"}
    assert bases(document["configs"]["models"]["content"]) == in_container(models)
    assert service["ports"] == ["127.0.0.1:80:8501", "127.0.0.1:81:8500"]
    mounts = {mount["target"]: mount["source"] for mount in service["volumes"]}
    assert mounts == {f"/models/{name}": str(base) for name, base in models.items()}


def test_kubernetes(models):
    config_map, claim, pods, service = yaml.safe_load_all(deployment("kubernetes", models, 80, 81))
    assert bases(config_map["data"]["models.config"]) == in_container(models)
    pod = pods["spec"]["template"]
    assert pods["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"] == service["spec"]["selector"]
    (container,) = pod["spec"]["containers"]
    check_flags(container["args"])
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/Digits%20%222%22%3A%20%C3%A4"
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert volumes == set(mounts) and mounts["config"] == "/config"
    assert claim["metadata"]["name"] == "models"
    assert [port["port"] for port in service["spec"]["ports"]] == [80, 81]


def test_kserve(models):
    documents = list(yaml.safe_load_all(deployment("kserve", models, 80, 81)))
    assert [d["metadata"]["name"] for d in documents] == ["digits-2", "compiled"]
    for document, name in zip(documents, models):
        assert document["kind"] == "InferenceService"
        model = document["spec"]["predictor"]["model"]
        assert model["modelFormat"] == {"name": "tensorflow"} and model["storageUri"] == f"pvc://models/{name}"
        assert ("--xla_cpu_compilation_enabled" in model["args"]) == (name == "compiled")
    with pytest.raises(UsageError, match="a, A"):
        deployment("kserve", {"a": models["compiled"], "A": models["compiled"]}, 80, 81)


def test_docker(models):
    lines = deployment("docker", models, 8501, 8500).splitlines()
    start, end = lines.index("COPY <<'EOF' /config/models.config"), lines.index("EOF")
    assert bases("\n".join(lines[start + 1 : end])) == in_container(models)
    copies = [yaml.safe_load(line.removeprefix("COPY ")) for line in lines if line.startswith("COPY [")]
    assert copies == [[f"{name}/", f"/models/{name}/"] for name in models]
    (entry,) = (line.removeprefix("ENTRYPOINT ") for line in lines if line.startswith("ENTRYPOINT"))
    check_flags(yaml.safe_load(entry))
    with pytest.raises(UsageError, match="one directory"):
        deployment("docker", {**models, "x": Path("/elsewhere/x")}, 8501, 8500)


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
    assert bases(Path(flags["--model_config_file"]).read_text()) == {name: str(base) for name, base in models.items()}


def test_wrong_use(run, models, tmp_path):
    for arguments, message in [
        ([tmp_path / "nothing"], "is not a directory"),
        ([tmp_path / "bin"], "holds no models"),
        ([models["compiled"], "--port", "99999"], "a port from 0 to 65535"),
        ([models["compiled"], "--poll", "0"], "above 0"),
    ]:
        done = run(*arguments)
        assert done.returncode == 2 and message in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    done = run("--print", "kserve", cwd=models["compiled"])  # the directory one is in
    assert done.returncode == 0 and yaml.safe_load(done.stdout)["metadata"]["name"] == "compiled"


def test_a_missing_package_is_told_in_a_line(run, models, tmp_path):
    (tmp_path / "aiohttp.py").write_text("raise ImportError(name='aiohttp')")
    done = run(
        models["compiled"],
        "--engine",
        "local",
        PYTHONPATH=os.pathsep.join([str(tmp_path), *map(os.path.abspath, filter(None, sys.path))]),
    )
    assert done.returncode == 1 and "needs aiohttp: pip install inception-tf[serving]" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
