"""The wheel: built, installed away from the source, and used from there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_wheel_works(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("inception_tf-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
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
