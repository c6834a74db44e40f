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

from inception_tf.errors import UsageError
from inception_tf.serving.deploy import PRINTERS, server_command


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_version):
    """Two models: one with an awkward name, one that says it was exported for XLA."""
    folder = tmp_path_factory.mktemp("served")
    for name in ('Digits "2": ä', "compiled"):
        shutil.copytree(make_version(1), folder / name / "1")
    card = folder / "compiled/1/assets.extra/inception_tf.json"
    card.write_text(card.read_text().replace('"xla": false', '"xla": true'))
    return {path.name: path for path in sorted(folder.iterdir())}


LABELS = {"compiled": {"stable": 1}}


def config(text):
    return {e.name: e for e in text_format.Parse(text, ModelServerConfig()).model_config_list.config}


def check_flags(arguments, path):
    assert f"--model_config_file={path}" in arguments and "--enable_batching" in arguments
    assert "--enable_per_model_batching_parameters" in arguments and "--xla_cpu_compilation_enabled" in arguments


def check_config(text, models):
    entries = config(text)
    assert {name: entry.base_path for name, entry in entries.items()} == {name: f"/models/{name}" for name in models}
    assert dict(entries["compiled"].version_labels) == {"stable": 1}
    assert list(entries["compiled"].model_version_policy.specific.versions) == [1]


def test_compose(models):
    document = yaml.safe_load(PRINTERS["compose"](models, 8501, 8500, LABELS))
    service = document["services"]["serving"]
    check_flags(service["command"], "/models/models.config")
    check_config(document["configs"]["models"]["content"], models)
    assert service["ports"] == ["127.0.0.1:8501:8501", "127.0.0.1:8500:8500"]
    assert {mount["target"]: mount["source"] for mount in service["volumes"]} == {
        f"/models/{name}": str(base) for name, base in models.items()
    }


def test_kubernetes(models):
    text = PRINTERS["kubernetes"](models, 80, 81, LABELS)
    config_map, claim, deployment, service = yaml.safe_load_all(text)
    check_config(config_map["data"]["models.config"], models)
    pod = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"] == service["spec"]["selector"]
    (container,) = pod["spec"]["containers"]
    check_flags(container["args"], "/config/models.config")
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/Digits%20%222%22%3A%20%C3%A4"
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert volumes == {mount["name"] for mount in container["volumeMounts"]}
    assert claim["metadata"]["name"] == "models"
    assert [port["port"] for port in service["spec"]["ports"]] == [80, 81]


def test_kserve(models):
    documents = list(yaml.safe_load_all(PRINTERS["kserve"](models, 80, 81)))
    assert [d["metadata"]["name"] for d in documents] == ["digits-2", "compiled"]
    for document, name in zip(documents, models):
        assert document["kind"] == "InferenceService"
        model = document["spec"]["predictor"]["model"]
        assert model["modelFormat"] == {"name": "tensorflow"} and model["storageUri"] == f"pvc://models/{name}"
        assert ("--xla_cpu_compilation_enabled" in model["args"]) == (name == "compiled")
    with pytest.raises(UsageError, match="no version labels"):
        PRINTERS["kserve"](models, 80, 81, LABELS)
    with pytest.raises(UsageError, match="would be called a"):
        PRINTERS["kserve"]({"a": models["compiled"], "A": models["compiled"]}, 80, 81)


def test_docker(models):
    lines = PRINTERS["docker"](models, 8501, 8500, LABELS).splitlines()
    start, end = lines.index("COPY <<'EOF' /models/models.config"), lines.index("EOF")
    check_config("\n".join(lines[start + 1 : end]), models)
    copies = [yaml.safe_load(line.removeprefix("COPY ")) for line in lines if line.startswith("COPY [")]
    assert copies == [[f"{name}/", f"/models/{name}/"] for name in models]
    (entry,) = (line.removeprefix("ENTRYPOINT ") for line in lines if line.startswith("ENTRYPOINT"))
    check_flags(yaml.safe_load(entry), "/models/models.config")
    with pytest.raises(UsageError, match="must lie in one directory"):
        PRINTERS["docker"]({**models, "x": Path("/elsewhere/x")}, 8501, 8500)


def test_the_command_line_of_one_model(models):
    command = server_command({"compiled": models["compiled"]}, 1, 2)
    assert command[:3] == ["tensorflow_model_server", "--rest_api_port=1", "--port=2"]
    assert command[3:5] == ["--model_name=compiled", f"--model_base_path={models['compiled']}"]


@pytest.fixture
def run(models, tmp_path):
    """Runs `inception-tf serve` with a tensorflow_model_server on the PATH that prints its arguments."""
    fake = tmp_path / "bin/tensorflow_model_server"
    fake.parent.mkdir()
    fake.write_text(f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:], sep='\\n')\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PATH": f"{fake.parent}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)}

    def run(*arguments, cwd=None):
        command = [sys.executable, "-m", "inception_tf", "serve", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=cwd)

    return run


def test_tensorflow_serving_is_run_when_it_is_there(run, models):
    folder = models["compiled"].parent
    done = run(folder, "--port", "1234", "--label", "compiled:stable=1")
    flags = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert done.returncode == 0 and flags["--rest_api_port"] == "1234", done.stderr
    assert done.stderr.startswith("TensorFlow Serving, on all addresses")
    entries = config(Path(flags["--model_config_file"]).read_text())
    assert {name: entry.base_path for name, entry in entries.items()} == {n: str(base) for n, base in models.items()}
    assert dict(entries["compiled"].version_labels) == {"stable": 1}
    assert "--allow_version_labels_for_unavailable_models" in done.stdout


def test_wrong_use(run, models, tmp_path):
    for arguments, message in [
        ([tmp_path / "nothing"], "is not a directory"),
        ([tmp_path / "bin"], "holds no models"),
        ([models["compiled"], "--label", "compiled"], "--label takes MODEL:LABEL=VERSION"),
        ([models["compiled"], "--label", "other:stable=1"], "names other, but the models are compiled"),
        ([models["compiled"], "--port", "99999"], "a port from 0 to 65535"),
        ([models["compiled"], "--poll", "0"], "above 0"),
        ([models["compiled"], "--config", tmp_path / "nothing"], "Cannot read the models of"),
    ]:
        done = run(*arguments)
        assert done.returncode == 2 and message in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    done = run("--print", "kserve", cwd=models["compiled"])  # the directory one is in
    assert done.returncode == 0 and yaml.safe_load(done.stdout)["metadata"]["name"] == "compiled"
