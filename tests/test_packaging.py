"""The distributions: built, whole, installed away from the source, and used from there."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """(the source distribution, the wheel that is built from it)."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, capture_output=True)
    return *folder.glob("*.tar.gz"), *folder.glob("*.whl")


def files_in(*folders):
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    return {path.relative_to(ROOT).as_posix() for path in paths if path.is_file()}


def test_nothing_is_missing(distributions):
    source, wheel = distributions
    assert files_in("inception_tf") <= set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert files_in("inception_tf", "tests", "docs", "tools") | {"Makefile", "mkdocs.yml", "CHANGELOG.md"} <= names


def test_the_wheel_works(distributions, tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "install"]
    subprocess.run([*pip, "--no-deps", "--target", tmp_path / "site", distributions[1]], check=True)
    script = """
import inception_tf as itf, pathlib
from inception_tf.images.labels import imagenet_labels
from inception_tf.slim import catalogue, download, golden
assert "site" in itf.__file__, itf.__file__
assert len(catalogue.catalogue()) == 19 and len(imagenet_labels()) == 1001
assert "inception_v4" in golden.networks()
assert pathlib.Path(itf.__file__).parent not in download.home().parents
for name in itf.list_models():
    assert itf.models.registry.find_network(name).scope
print(itf.InceptionV3(depth_multiplier=0.1, classes=5).output_shape)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    environment.pop("INCEPTION_TF_HOME", None)
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip().endswith("(None, 5)")


def test_a_worker_without_tensorflow(distributions, tmp_path):
    """An environment of the wheel and four packages: it classifies an export, and says what it lacks for the rest."""
    pytest.importorskip("tf2onnx")
    import inception_tf as itf

    itf.to_onnx(itf.create_model("lenet", weights=None), tmp_path / "digits.onnx")
    Image.new("L", (28, 28)).save(tmp_path / "0.png")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def worker(*arguments, code=0):
        done = subprocess.run(
            [python, "-m", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    for packages in (["--no-deps", distributions[1]], ["numpy", "pillow", "pyyaml", "onnxruntime"]):
        worker("pip", "--quiet", "install", *packages)
    (answer,) = json.loads(worker("inception_tf", "classify", "digits.onnx", "0.png", "--json"))["images"]
    assert answer["image"] == "0.png" and len(answer["classes"]) == 5
    packages = json.loads(worker("inception_tf", "doctor", "--json"))["packages"]
    assert set(packages) == {"inception-tf", "numpy", "pillow", "onnxruntime"}
    for command in (["convert", "0.ckpt", "0.keras"], ["verify", "0.ckpt"]):
        assert "pip install keras" in worker("inception_tf", *command, code=1)
