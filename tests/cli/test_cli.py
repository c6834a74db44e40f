"""The commands, as a user types them."""

import importlib.metadata
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import inception_tf as itf
from inception_tf.cli.main import COMMANDS, main
from inception_tf.slim import verify

pytestmark = pytest.mark.usefixtures("cached_originals")


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), "uint8")).save(path)
    return path


@pytest.fixture(scope="module")
def converted(slim_checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("converted") / "flowers.keras"
    labels = path.with_name("labels.txt")
    labels.write_text("".join(f"{i}:flower {i}\n" for i in range(5)))
    arguments = ["convert", slim_checkpoint(), path, "--labels", labels, "--no-verify", "--size", 107]
    assert main(list(map(str, arguments))) == 0
    return path


def test_help_answers_without_keras_and_numpy():
    script = (
        "import sys; from inception_tf.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'tensorflow', 'keras', 'numpy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.rstrip().endswith("[]"), out
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["unknown"], ["inspect"], ["classify", "model.keras"], ["convert", "a"]),
        *(["profile", "lenet", f"--input={size}"] for size in ("", "x", "12x", "-3", "0", "1.5", "3x4x5", "own")),
        *(["dense", "a.keras", "a.png", f"--size={size}"] for size in ("", "x", "0", "-5", "3x", "3x4x5", "own")),
    ],
    ids=" ".join,
)
def test_wrong_use_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: inception-tf" in capsys.readouterr().err


def test_inspect(slim_checkpoint, command):
    code, out, _ = command("inspect", slim_checkpoint())
    assert code == 0 and "inception_v3" in out and "V2" in out and "classes" in out
    data = json.loads(command("inspect", slim_checkpoint(), "--json", "--variables", "*/Logits/*")[1])
    assert data["detection"]["network"] == "inception_v3" and data["detection"]["classes"] == 5
    assert list(data["tensors"]) == [
        "InceptionV3/Logits/Conv2d_1c_1x1/biases",
        "InceptionV3/Logits/Conv2d_1c_1x1/weights",
    ]


def test_convert_verifies_writes_and_goes_back(slim_checkpoint, tmp_path, command):
    code, out, _ = command("convert", slim_checkpoint(), tmp_path / "model.keras", "--json")
    data = json.loads(out)
    assert code == 0 and data["verified"]["passed"] and data["verified"]["worst"] <= 1e-5

    code, out, err = command("convert", slim_checkpoint(), tmp_path / "model.keras")
    assert code == 2 and "exists" in err and "--force" in err

    code, _, _ = command("convert", tmp_path / "model.keras", tmp_path / "back.ckpt", "--no-verify")
    before, after = itf.open_checkpoint(slim_checkpoint()), itf.open_checkpoint(tmp_path / "back.ckpt")
    assert code == 0 and set(before) == set(after)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_convert_to_weights_alone(slim_checkpoint, tmp_path, command):
    code, _, _ = command("convert", slim_checkpoint(), tmp_path / "model.weights.h5", "--no-verify")
    model = itf.create_model(
        "inception_v3", weights=tmp_path / "model.weights.h5", classes=5, **itf.detect(slim_checkpoint()).options
    )
    expected = itf.open_checkpoint(slim_checkpoint())["InceptionV3/Logits/Conv2d_1c_1x1/biases"]
    assert code == 0
    assert np.array_equal(model.get_layer("Logits").weights[-1], expected)


def test_convert_refuses_a_model_that_differs(slim_checkpoint, tmp_path, command, monkeypatch):
    original = verify.run_original

    def wrong(*arguments):
        end_points = dict(original(*arguments))
        end_points["Mixed_6b"] = end_points["Mixed_6b"] * 1.001
        return end_points

    monkeypatch.setattr(verify, "run_original", wrong)
    code, out, err = command("convert", slim_checkpoint(), tmp_path / "model.keras")
    assert code == 1 and "first at Mixed_6b" in err
    assert not list(tmp_path.iterdir())


def test_convert_names_what_is_wrong_with_the_labels(slim_checkpoint, tmp_path, command):
    labels = tmp_path / "labels.txt"
    labels.write_text("daisy\nrose\n")
    code, _, err = command("convert", slim_checkpoint(), tmp_path / "m.keras", "--labels", labels, "--no-verify")
    assert code == 2 and "5 classes" in err and "2 labels" in err
    arguments = "--labels", labels, "--no-top", "--no-verify"
    code, _, err = command("convert", slim_checkpoint(), tmp_path / "m.keras", *arguments)
    assert code == 2 and "without a classifier" in err
    assert not (tmp_path / "m.keras").exists()


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>404</html>", b"\x00" * 5000])
@pytest.mark.parametrize("arguments", [["inspect"], ["verify"], ["convert", "out.keras", "--no-verify"]])
def test_no_checkpoint(content, arguments, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.ckpt").write_bytes(content)
    code, _, err = command(arguments[0], "model.ckpt", *arguments[1:])
    assert code == 1 and "is no checkpoint" in err
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


def test_verify(slim_checkpoint, converted, photograph, command):
    arguments = "verify", slim_checkpoint(), "--model", converted, "--images", photograph
    code, out, _ = command(*arguments)
    assert code == 0 and "Mixed_7c" in out and "same top-5" in out
    code, out, _ = command(*arguments, "--tolerance", "1e-12", "--json")
    assert code == 1 and not json.loads(out)["passed"]


def test_classify_keeps_going_past_a_bad_file(converted, photograph, tmp_path, command):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    code, out, _ = command("classify", converted, photograph, bad, photograph.parent, "--top", "2")
    assert code == 1
    assert "1 of 2 images could not be classified" in out and "bad.jpg" in out and out.count("flower") == 2

    code, out, _ = command("classify", converted, photograph, "--json")
    (image,) = json.loads(out)["images"]
    scores = [entry["score"] for entry in image["classes"]]
    assert code == 0 and len(scores) == 5 and scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)

    code, _, err = command("classify", converted, tmp_path / "nothing-*.jpg")
    assert code == 2 and "nothing-*.jpg" in err


def test_a_failure_is_json_too(tmp_path, command):
    code, out, err = command("inspect", tmp_path / "nothing.ckpt", "--json")
    assert code == 1 and "nothing.ckpt" in json.loads(out)["error"] and "nothing.ckpt" in err


def test_version_and_doctor_name_what_is_installed(capfd, command, monkeypatch):
    with pytest.raises(SystemExit):
        main(["--version"])
    version = importlib.metadata.version("keras")
    assert f"keras {version}" in capfd.readouterr().out
    data = json.loads(command("doctor", "--json")[1])
    assert data["packages"]["keras"] == version
    extras = set(importlib.metadata.metadata("inception-tf").get_all("Provides-Extra"))
    assert set(data["extras_missing"]) <= extras - {"test", "docs"}
    monkeypatch.setattr("inception_tf.machine.installed", {"onnxruntime": "1.0"}.get)
    missing = json.loads(command("doctor", "--json")[1])["extras_missing"]
    assert missing["tensorboard"] == ["tensorboard"] and "onnxruntime" not in missing["onnx"]


def test_what_is_not_installed_is_named():
    script = "import sys; sys.modules.update(dict.fromkeys(('keras', 'tensorflow', 'rich'))); "
    script += "from inception_tf.cli.main import main; sys.exit(main(['inspect', 'model.ckpt']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs keras" in done.stderr
