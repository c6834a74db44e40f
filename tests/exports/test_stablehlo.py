"""`.stablehlo` files and what XLA makes of a Keras model on Keras's JAX backend, beside the model on TensorFlow."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from inception_tf.errors import CheckpointError, UsageError
from inception_tf.exports.formats import export
from inception_tf.exports.tolerance import TOLERANCES, relative_difference
from inception_tf.inference.engines import open_engine
from inception_tf.inference.runtimes import StableHlo, export_card

NAMES = [f"digit {i}" for i in range(10)]
# Runs commands where TensorFlow cannot be imported, those after "--" without Keras too.
ON_JAX = """
import sys
from inception_tf.cli.main import main
sys.modules.update(dict.fromkeys(("tensorflow", "tf_keras", "tf_slim")))
for line in sys.stdin:
    if line.startswith("without keras"):
        for name in [name for name in sys.modules if name.split(".")[0] == "keras"]:
            del sys.modules[name]
        sys.modules["keras"] = None
    elif main(line.rstrip().split("|")):
        sys.exit(line)
"""


@pytest.fixture(scope="module")
def folder(lenet, tmp_path_factory, photographs):
    """Files that commands wrote on JAX: digits.stablehlo, half.stablehlo, and what they printed, a list."""
    pytest.importorskip("jax", reason="JAX is not installed")
    folder = tmp_path_factory.mktemp("digits")
    lenet.save(folder / "digits.keras")
    (folder / "names.txt").write_text("\n".join(NAMES))
    to = ["--format", "stablehlo", "--labels", folder / "names.txt"]
    photographs = sorted(photographs.glob("??.png"))
    commands = [
        ["export", folder / "digits.keras", folder / "digits.stablehlo", *to],
        ["export", folder / "digits.keras", folder / "half.stablehlo", *to, "--precision", "bfloat16", "--batch", "2"],
        ["export", folder / "digits.keras", folder / "both.stablehlo", *to, "--features"],
        ["classify", folder / "digits.keras", *photographs, "--batch", "5"],
        ["classify", folder / "digits.keras", *photographs, "--precision", "bfloat16"],
        ["without keras"],
        ["classify", folder / "digits.stablehlo", *photographs],
    ]
    lines = "\n".join(
        "|".join(map(str, [command[0], *command[1:], *["--json"] * (len(command) > 1)])) for command in commands
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", ON_JAX], input=lines, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    decoder, text, found = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        outcome, end = decoder.raw_decode(text)
        found.append(outcome)
        text = text[end:].strip()
    folder.joinpath("found.json").write_text(json.dumps(found))
    return folder


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-0.5, 0.5, (5, 28, 28, 1)).astype("float32")


@pytest.mark.parametrize(("name", "precision", "batch"), [("digits", "float32", None), ("half", "bfloat16", 2)])
def test_it_answers_as_the_model_does_on_tensorflow(folder, lenet, images, name, precision, batch):
    path, wanted = folder / f"{name}.stablehlo", lenet.predict_on_batch(images)
    engine = open_engine(path)
    assert engine.labels == NAMES and engine.card.export["precision"] == precision
    assert engine.card.export["verification"]["tolerance"] == TOLERANCES[precision]
    assert export_card(path) == engine.card and StableHlo(path).batch == batch
    assert engine(images).dtype == np.float32
    assert relative_difference(engine(images), wanted) <= TOLERANCES[precision]
    assert (relative_difference(engine(images), wanted) > TOLERANCES["float32"]) == (precision == "bfloat16")


def test_jax_and_safetensors_alone_read_it(folder, lenet, images):
    import jax
    from safetensors.numpy import load_file

    exported = jax.export.deserialize(bytearray((folder / "digits.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "rocm", "tpu")
    weights = load_file(folder / "digits.safetensors")
    assert sum(value.size for value in weights.values()) == lenet.count_params()
    for count in 1, 5:
        found = np.asarray(exported.call(weights, images[:count]))
        assert relative_difference(found, lenet.predict_on_batch(images[:count])) <= 1e-5


def test_features(folder, lenet, images):
    engine, plain = open_engine(folder / "both.stablehlo"), open_engine(lenet)
    assert relative_difference(engine.embed(images), plain.embed(images)) <= 1e-5
    assert np.array_equal(engine.start_both(images)(), np.concatenate([engine(images), engine.embed(images)], axis=1))
    assert relative_difference(engine(images), plain(images)) <= 1e-5
    with pytest.raises(UsageError, match="carries no features"):
        open_engine(folder / "digits.stablehlo").embed(images)


def test_classify_on_jax(folder, lenet, photographs):
    """In batches of 5 of 12, by XLA; in bfloat16; and the export, by JAX alone."""
    *_, classified, half, exported = json.loads((folder / "found.json").read_text())

    def best(found):
        return np.array([[image["classes"][0]["index"], image["classes"][0]["score"]] for image in found["images"]])

    outcome = open_engine(lenet)
    wanted = outcome(outcome.preprocessing(sorted(photographs.glob("??.png"))))
    for found, limit in (classified, 1e-5), (exported, 1e-5), (half, TOLERANCES["bfloat16"]):
        assert len(found["images"]) == 12 and not found["failed"]
        assert np.array_equal(best(found)[:, 0], wanted.argmax(1))
        assert np.abs(best(found)[:, 1] - wanted.max(1)).max() <= limit * wanted.max()


def test_refusals(folder, lenet, tmp_path):
    with pytest.raises(UsageError, match="KERAS_BACKEND=jax"):
        export(lenet, tmp_path / "digits.stablehlo", "stablehlo")
    with pytest.raises(UsageError, match="precision of its own"):
        open_engine(folder / "digits.stablehlo", precision="bfloat16")
    (tmp_path / "digits.stablehlo").write_bytes(b"no program")
    with pytest.raises(CheckpointError, match="cannot be run by JAX"):
        open_engine(tmp_path / "digits.stablehlo")
    (tmp_path / "digits.stablehlo").write_bytes((folder / "digits.stablehlo").read_bytes())
    with pytest.raises(CheckpointError, match="cannot be run by JAX"):  # its weights are missing
        open_engine(tmp_path / "digits.stablehlo")


def test_xla_on_tensorflow(lenet, images):
    assert relative_difference(open_engine(lenet, precision="float32")(images), open_engine(lenet)(images)) <= 1e-5
    half = open_engine(lenet, precision="bfloat16")
    assert 1e-5 < relative_difference(half(images), open_engine(lenet)(images)) <= TOLERANCES["bfloat16"]
    assert np.array_equal(half.start(images)(), half(images))
