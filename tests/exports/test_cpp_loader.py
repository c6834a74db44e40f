"""TensorFlow's own C++ loader, as TensorFlow Serving uses it, runs every signature."""

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import inception_tf as itf

pytestmark = pytest.mark.slow  # g++ needs ten seconds


@pytest.fixture(scope="session")
def probe(tmp_path_factory):
    """The path of probe.cc compiled against the libraries of TensorFlow's wheel."""
    compiler, libraries = shutil.which("g++"), Path(tf.sysconfig.get_lib())
    header = Path(tf.sysconfig.get_include()) / "tensorflow/cc/saved_model/loader.h"
    if not compiler or not header.exists() or not (libraries / "libtensorflow_cc.so.2").exists():
        pytest.skip("no g++, or a TensorFlow without its C++ header or library")
    binary = tmp_path_factory.mktemp("cpp") / "probe"
    source = Path(__file__).with_name("probe.cc")
    # Not as needed: nothing names the session factory and the kernels, which register themselves.
    link = ["-Wl,--no-as-needed", *tf.sysconfig.get_link_flags(), "-l:libtensorflow_cc.so.2", f"-Wl,-rpath,{libraries}"]
    command = [compiler, "-O0", "-w", *tf.sysconfig.get_compile_flags(), source, "-o", binary, *link]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return binary


def test_every_signature_runs_in_cpp(probe, exported, model, tmp_path):
    """A broken image and an empty file stand among good ones; after that every signature runs on an empty batch."""
    images = np.random.default_rng(3).uniform(-1, 1, (2, 107, 107, 3)).astype("float32")
    (tmp_path / "images").write_bytes(images.tobytes())
    good = []
    for seed in (4, 5):
        noise = np.random.default_rng(seed).integers(0, 256, (3, 5, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).resize((320, 200)).save(file, "JPEG")
        good.append(file.getvalue())
    files = [good[0], good[1][:-400], b"", good[1]]
    for i, data in enumerate(files):
        (tmp_path / str(i)).write_bytes(data)
    paths = [tmp_path / str(i) for i in range(len(files))]
    command = [probe, exported, tmp_path / "images", *map(str, images.shape[:3]), *paths]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr

    outputs = {}
    for line in ran.stdout.splitlines():
        signature, key, dtype, shape, *values = line.split("\t")
        values = np.array(values, str if dtype == "string" else dtype)
        outputs[signature, key] = values.reshape([int(side) for side in shape.split(",")])

    for signature in ("predict_image_bytes", "class_maps"):
        status = outputs.pop((signature, "status"))
        assert status.tolist() == ["", "The image is truncated, corrupted.", "The file is empty.", ""]
    keras = itf.feature_extractor(model, ["PreLogits", "Logits", "Predictions"])(images, training=False)
    scores = model.predict(itf.preprocess_input(good, size=107), verbose=0)
    best = itf.decode_predictions(scores, top=3, labels=model.card.labels)
    expected = {
        ("serving_default", "logits"): keras["Logits"],
        ("serving_default", "probabilities"): keras["Predictions"],
        ("features", "features"): keras["PreLogits"][:, 0, 0],
    }
    maps = outputs.pop(("class_maps", "maps"))
    assert maps.shape == (4, 3, 2, 2) and maps[0].any() and maps[3].any() and not maps[1:3].any()
    for signature in ("predict_image_bytes", "classify", "class_maps"):
        classes = outputs.pop((signature, "classes")).tolist()
        assert classes == [[name for _, name, _ in best[0]], [""] * 3, [""] * 3, [name for _, name, _ in best[1]]]
        assert not outputs[signature, "scores"][1:3].any()
        outputs[signature, "scores"] = outputs[signature, "scores"][[0, 3]]
        expected[signature, "scores"] = np.array([[score for *_, score in row] for row in best])
    assert set(outputs) == set(expected)
    for key, value in expected.items():
        assert np.abs(outputs[key] - value).max() <= 1e-5 * np.abs(value).max(), key
