"""timm's names, shapes and outputs: from timm_facts.json, and from timm itself where TIMM_PYTHON names a Python."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_weights import randomized

from inception_tf.errors import ExportError, UsageError
from inception_tf.exports.timm import timm_state_dict, to_timm
from inception_tf.models.model import feature_extractor
from inception_tf.slim.golden import deterministic_images
from inception_tf.zoo import create_model

HERE = Path(__file__).parent
LAST_MAPS = {"inception_v3": "Mixed_7c", "inception_v4": "Mixed_7d", "inception_resnet_v2": "Conv2d_7b_1x1"}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


@pytest.fixture(scope="module")
def facts():
    """A function from a network to the shapes of timm's state dict by name: see run_timm.py."""
    plain = json.loads((HERE / "timm_facts.json").read_text())

    def shapes(network):
        names = [name.removesuffix("conv.weight") for name in plain[network] if name.endswith(".conv.weight")]
        channels = {name: tuple(plain[network][name + "conv.weight"][:1]) for name in names}
        norms = {f"{name}bn.{word}": channels[name] for name in names for word in BATCH_NORM}
        counts = {f"{name}bn.num_batches_tracked": () for name in names}
        return {name: tuple(shape) for name, shape in plain[network].items()} | norms | counts

    return shapes


@pytest.fixture(scope="module")
def model():
    """An Inception-v3 of 1001 classes with its auxiliary head; not to be changed."""
    return randomized(create_model("inception_v3", aux_logits=True))


def shapes_of(tensors):
    return {name: tensor.shape for name, tensor in tensors.items()}


def test_names_and_shapes(model, facts):
    assert shapes_of(timm_state_dict(model)) == facts("inception_v3")


@pytest.mark.slow
@pytest.mark.parametrize("network", ["inception_v4", "inception_resnet_v2"])
def test_names_and_shapes_of_the_others(network, facts):
    assert shapes_of(timm_state_dict(create_model(network, aux_logits=True))) == facts(network)


def test_without_the_top(facts):
    ours = timm_state_dict(create_model("inception_v3", include_top=False))
    without = {n: s for n, s in facts("inception_v3").items() if not n.startswith(("fc.", "AuxLogits."))}
    assert shapes_of(ours) == without


def test_values(model, tmp_path):
    from safetensors.numpy import load_file

    path = to_timm(model, tmp_path / "v3.safetensors")
    tensors = load_file(path)
    (tmp_path / "any").touch()
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode
    kernel = model.get_layer("Conv2d_1a_3x3").kernel.numpy()
    assert tensors["Conv2d_1a_3x3.conv.weight"][7, 2, 0, 1] == kernel[0, 1, 2, 7]
    norm = model.get_layer("Conv2d_1a_3x3").batch_norm
    assert np.array_equal(tensors["Conv2d_1a_3x3.bn.running_var"], norm.moving_variance)
    assert (tensors["Conv2d_1a_3x3.bn.weight"] == 1).all()
    logits = model.get_layer("Logits").layers[0]
    assert np.array_equal(tensors["fc.weight"], logits.kernel.numpy()[0, 0, :, 1:].T)
    assert np.array_equal(tensors["fc.bias"], logits.bias.numpy()[1:])
    assert len(timm_state_dict(model, "keep")["AuxLogits.fc.bias"]) == 1001


def test_a_file_that_reads_back_otherwise_is_not_written(model, tmp_path, monkeypatch):
    import safetensors.numpy

    monkeypatch.setattr(safetensors.numpy, "load_file", lambda path: {})
    with pytest.raises(ExportError, match="580 tensors differ"):
        to_timm(model, tmp_path / "v3.safetensors")
    assert not list(tmp_path.iterdir())


def test_wrong_use(model, lenet, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no form of lenet"):
        to_timm(lenet, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="ends in .safetensors"):
        to_timm(model, tmp_path / "a.pth")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UsageError, match=r"pip install 'inception-tf\[timm\]'"):
        to_timm(model, tmp_path / "a.safetensors")


@pytest.mark.slow
@pytest.mark.skipif("TIMM_PYTHON" not in os.environ, reason="TIMM_PYTHON names no Python with timm and torch")
@pytest.mark.parametrize("network", LAST_MAPS)
def test_timm_gives_the_same_outputs(network, tmp_path):
    model = randomized(create_model(network, aux_logits=True))
    images = deterministic_images(1, 299, 299)
    np.savez(tmp_path / "images.npz", images=images)
    to_timm(model, tmp_path / "model.safetensors")
    ours = feature_extractor(model, [LAST_MAPS[network], "Logits", "AuxLogits"]).predict_on_batch(images)
    logits, aux_logits = ours["Logits"][:, 1:], ours["AuxLogits"][:, 1:]
    ours = {"features": ours[LAST_MAPS[network]], "logits": logits, "aux_logits": aux_logits}
    files = [tmp_path / name for name in ("model.safetensors", "images.npz", "outputs.npz")]
    command = [os.environ["TIMM_PYTHON"], HERE / "run_timm.py", "outputs", network, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = dict(np.load(files[-1]))

    def difference(name):
        wanted = ours[name.removeprefix("plain_")]
        return np.abs(theirs[name] - wanted).max() / np.abs(wanted).max()

    names = ["features", "logits"] + (["aux_logits"] if network == "inception_v3" else [])
    assert {name for name in theirs if not name.startswith("plain_")} == set(names)
    assert max(difference(name) for name in names) < 1e-4
    if network == "inception_v3":  # timm's own pooling counts the padding
        assert 0.01 < difference("plain_logits") < 0.2
