"""`inception-tf bench` from end to end, and what it refuses."""

import json
from pathlib import Path

import pytest

from inception_tf.cli.main import main
from inception_tf.models.costs import cost_of


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lenet", "--batch", "0"], "--batch takes sizes such as 1,8,32"),
        (["lenet", "--batch", "dynamic"], "--batch takes sizes such as 1,8,32"),
        (["lenet", "--rounds", "0"], "--rounds must be at least 1"),
        (["lenet", "--seconds", "nan"], "--seconds more than 0"),
        (["lenet", "--engines", "keras,tpu"], "There is no engine tpu. There are: keras, keras-xla, savedmodel"),
        (["lenett"], "lenett"),
        (["missing.onnx"], "There is no model at missing.onnx"),
        (["broken.onnx", "--batch", "1"], "Nothing could be measured. left out: broken.onnx: "),
    ],
)
def test_bad_input(arguments, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("broken.onnx").write_bytes(b"no model")
    assert main(["bench", *arguments]) == (1 if ".onnx" in arguments[0] else 2)
    captured = capsys.readouterr()
    assert said in captured.err and not captured.out
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]


@pytest.mark.slow
def test_a_network_on_every_engine(capsys, tmp_path):
    out = tmp_path / "lenet"
    arguments = ["lenet", "--batch", "1,4", "--rounds", "2", "--seconds", "0.05"]
    assert main(["bench", *arguments, "--out", str(out), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["left_out"] == [] and data["multiply_adds"] == cost_of("lenet").multiply_adds
    for batch, size in zip(data["batches"], (1, 4)):
        assert batch["batch"] == size and batch["sgemm_gflops"] > 1
        assert [row["engine"] for row in batch["engines"]] == [
            "keras",
            "keras-xla",
            "savedmodel",
            "savedmodel-xla",
            "litert",
            "onnx",
            "openvino",
        ]
        for row in batch["engines"]:
            assert len(row["rounds"]) == 2 and row["images_per_second"] > 1 and row["first_answer"] > 0
            # TensorFlow alone takes more than what the others need for all.
            light = row["engine"] in ("litert", "onnx", "openvino")
            assert (row["peak_memory"] < 4e8) == light
    assert json.loads(out.with_suffix(".json").read_text())["batches"] == data["batches"]
    assert out.with_suffix(".md").read_text().startswith("lenet, ")
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert main(["bench", "lenet", "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err
