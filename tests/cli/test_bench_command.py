"""`inception-tf bench` from end to end, and what it refuses."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from inception_tf.analysis.costs import cost_of
from inception_tf.benchmark.engines import ENGINES
from inception_tf.zoo import create_model

BRIEF = ("--batch", "1", "--rounds", "1", "--seconds", "0.01")


@pytest.fixture
def bench(command):
    """A function that runs `bench` and returns its JSON."""

    def run(*arguments):
        code, out, _ = command("bench", *arguments, "--json")
        assert code == 0
        return json.loads(out)

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lenet", "--batch", "0"], "--batch takes sizes such as 1,8,32"),
        (["lenet", "--batch", "dynamic"], "--batch takes sizes such as 1,8,32"),
        (["lenet", "--rounds", "0"], "--rounds must be at least 1"),
        (["lenet", "--seconds", "nan"], "--seconds more than 0"),
        (["lenet", "--seconds", "inf"], "--seconds more than 0"),
        (["lenet", "lenet"], "A model is named twice: lenet, lenet"),
        (["lenet", "--engines", "keras,tpu"], "There is no engine tpu. There are: keras, keras-xla, savedmodel"),
        (["lenet", "--precision", "float32", "--precisions", "float32"], "in place of --precision"),
        (["lenet", "--precisions", "float32,bfloat8"], "Received: float32,bfloat8"),
        (["lenet", "--precisions", "float32,float32"], "once. Received: float32,float32"),
        (["--precision", "float32", "broken.onnx"], "An export has its own"),
        (["lenett"], "lenett"),
        (["missing.onnx", "--batch", "1"], "There is no model at missing.onnx"),
        (["broken.onnx", "--batch", "1"], "Nothing could be measured.\nbatch 1: broken.onnx: "),
    ],
)
def test_bad_input(arguments, said, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    code, _, err = command("bench", "--rounds", 1, "--seconds", 0.05, *arguments)
    assert code == (1 if ".onnx" in arguments[0] else 2) and said in err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]


@pytest.mark.slow
def test_a_network_on_every_engine(bench, command, tmp_path):
    out = tmp_path / "lenet"
    data = bench("lenet", "--batch", "1,4", "--rounds", "2", "--seconds", "0.05", "--out", out)
    assert data["left_out"] == [] and data["multiply_adds"] == cost_of("lenet").multiply_adds
    for batch, size in zip(data["batches"], (1, 4)):
        assert batch["batch"] == size and batch["sgemm_gflops"] > 0
        assert [row["engine"] for row in batch["engines"]] == list(ENGINES)
        for row in batch["engines"]:
            assert len(row["rounds"]) == 2 and row["images_per_second"] > 0 and row["first_answer"] > 0
            # TensorFlow alone takes more than what the others need for all.
            light = row["engine"] in ("litert", "onnx", "openvino")
            assert (row["peak_memory"] < 4e8) == light
    assert json.loads(out.with_suffix(".json").read_text())["batches"] == data["batches"]
    assert out.with_suffix(".md").read_text().startswith("lenet, ")
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    code, _, err = command("bench", "lenet", "--out", out)
    assert code == 2 and "exists" in err


@pytest.mark.slow
def test_two_models_of_one_name(bench, tmp_path):
    """Each is exported by itself; what an engine cannot have is left out, and the others go on."""
    paths = []
    for name, network in (("a", "lenet"), ("b", "nin")):
        (tmp_path / name).mkdir()
        paths.append(str(tmp_path / name / "best.keras"))
        create_model(network, classes=10).save(paths[-1])
    data = bench(*paths, "--engines", "litert", *BRIEF)
    lenet, nin = data["batches"][0]["engines"]
    assert [row["engine"] for row in (lenet, nin)] == [f"{path} litert" for path in paths]
    assert data["left_out"] == [] and nin["peak_memory"] > lenet["peak_memory"]


@pytest.mark.slow
def test_a_row_a_precision(bench, tmp_path):
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (4, 28, 28), np.uint8)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    options = ("--engines", "keras,keras-xla,litert", "--precisions", "float32,int8", "--calibrate", tmp_path)
    data = bench("lenet", *options, *BRIEF)
    rows = [row["engine"] for row in data["batches"][0]["engines"]]
    assert rows == ["float32 keras-xla", "float32 litert", "int8 litert"]
    assert [line.partition(":")[0] for line in data["left_out"]] == ["keras", "int8 keras-xla"]


@pytest.mark.slow
def test_what_cannot_be_exported_is_left_out(bench, tmp_path):
    path = tmp_path / "half.keras"
    keras.config.set_dtype_policy("float16")
    try:
        create_model("lenet", classes=10).save(path)
    finally:
        keras.config.set_dtype_policy("float32")
    data = bench(path, "--engines", "keras,onnx", *BRIEF)
    assert [row["engine"] for row in data["batches"][0]["engines"]] == ["keras"]
    (line,) = data["left_out"]
    assert line.startswith("onnx: ")
