"""Plain models, opened in processes that cannot import this library. That each answers as its network does:
test_networks.py.
"""

import dataclasses
import json
import os
import subprocess
import zipfile

import keras
import numpy as np
import pytest
from run_networks import with_weights
from slim_files import slow
from test_backends import python_with
from test_networks import VARIANTS, relative

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.slim.golden import deterministic_images

FAST = ["lenet", "nin_cifar10"]
SOME = ["inception_v2", "resnet_v2_50", "inception_resnet_v2_relu6"]  # which have all kinds of layers
OPEN = """
import json, sys, numpy as np

class Blocked:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in json.loads(sys.argv[1]):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked)
import keras
for name in sys.argv[3:]:
    folder = f"{sys.argv[2]}/{name}"
    model = keras.saving.load_model(f"{folder}.keras", compile=False)
    np.savez(f"{folder}.npz", keras.ops.convert_to_numpy(model(np.load(f"{folder}.npy"), training=False)))
assert not set(sys.modules) & set(json.loads(sys.argv[1]))
"""


def opened(backend, folder, names):
    """What the plain models in `folder` answer elsewhere, a dict by name."""
    blocked = ["inception_tf", *(["tensorflow", "tf_keras"] if backend != "tensorflow" else [])]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python_with(backend), "-c", OPEN, json.dumps(blocked), folder, *names],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**environment, "KERAS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: np.load(folder / f"{name}.npz")["arr_0"] for name in names}


def plain_file(name, folder):
    """Writes a network's plain model, and images; returns what the network answers."""
    network, options = VARIANTS.get(name, (name, {}))
    model = with_weights(network, classes=7, **options)
    images = deterministic_images(2, *model.input_shape[1:])
    itf.to_plain_keras(model).save(folder / f"{name}.keras")
    np.save(folder / f"{name}.npy", images)
    return np.asarray(model(images, training=False))


@pytest.mark.parametrize(
    "backend, names",
    [("tensorflow", FAST), slow("tensorflow", SOME), slow("jax", FAST + SOME), slow("torch", FAST + SOME)],
)
def test_opens_without_this_library(backend, names, tmp_path):
    expected = {}
    for name in names:
        expected[name] = plain_file(name, tmp_path)
        with zipfile.ZipFile(tmp_path / f"{name}.keras") as archive:
            assert b"inception_tf" not in archive.read("config.json")
        keras.backend.clear_session()
    found = opened(backend, tmp_path, names)
    limit = 1e-6 if backend == "tensorflow" else 1e-5  # another backend rounds otherwise
    assert not {n: d for n in names if not (d := relative(found[n], expected[n])) <= limit}


def test_layers_bear_slims_scopes():
    """Every variable is Slim's, in its layer: `/` is `_` there."""
    model = with_weights("inception_v3")
    plain = itf.to_plain_keras(model)
    ours = {variable.path.replace("/", "_"): variable.numpy() for variable in model.weights}
    theirs = {variable.path.replace("/", "_"): variable.numpy() for variable in plain.weights}
    aux = {name for name in ours if name.startswith("AuxLogits")}
    assert aux and set(theirs) == set(ours) - aux
    assert all(np.array_equal(value, ours[name]) for name, value in theirs.items())
    images = deterministic_images(1, *model.input_shape[1:])
    for name in ("Mixed_5b", "Mixed_7c", "AvgPool_1a", "Predictions"):
        cut = keras.Model(plain.input, plain.get_layer(name).output)
        assert np.array_equal(cut(images), itf.feature_extractor(model, name)(images))
    assert plain.get_layer("PreLogits_Dropout_1b").rate == 0.2
    fused = itf.fuse_for_inference(model)
    assert relative(np.asarray(itf.to_plain_keras(fused)(images)), np.asarray(fused(images))) <= 1e-6
    assert not any("BatchNorm" in layer.name for layer in itf.to_plain_keras(fused).layers)


def test_what_is_not_plain():
    with pytest.raises(UsageError, match="create_model"):
        itf.to_plain_keras(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))


def test_convert(tmp_path):
    model = with_weights("lenet")
    itf.save_slim(model, tmp_path / "model.ckpt")
    images = deterministic_images(2, 28, 28, 1)
    itf.convert(tmp_path / "model.ckpt", tmp_path / "plain.keras", plain=True)
    plain = keras.saving.load_model(tmp_path / "plain.keras")
    assert type(plain).__module__.startswith("keras.")
    assert relative(np.asarray(plain(images)), np.asarray(model(images))) <= 1e-6
    for target, options in (("m.ckpt", {}), ("m", {}), ("m.keras", {"labels": list("abcdefghij")})):
        with pytest.raises(UsageError, match="plain model is a .keras file"):
            itf.convert(tmp_path / "model.ckpt", tmp_path / target, plain=True, **options)


def test_convert_keeps_what_a_card_says(tmp_path):
    """Of a model of several labels an image, in its own size and batch norm: in a plain file, and in one of ours."""
    options = {"depth_multiplier": 0.1, "classes": 3, "classifier_activation": "sigmoid", "batch_norm_epsilon": 0.02}
    model = itf.create_model("inception_v3", input_shape=(75, 80, 3), **options)
    facts = {"labels": ["a", "b", "c"], "thresholds": [0.1, 0.5, 0.9]}
    model.card = dataclasses.replace(model.card, **facts)
    model.save(tmp_path / "own.keras")
    itf.convert(tmp_path / "own.keras", tmp_path / "plain.keras", plain=True)
    itf.convert(tmp_path / "own.keras", tmp_path / "again.keras", check=False)
    again = itf.load_model(tmp_path / "again.keras")
    assert again.card.options == model.card.options and again.card.preprocessing == model.card.preprocessing
    assert {fact: getattr(again.card, fact) for fact in facts} == facts
    images = deterministic_images(1, 75, 80, 3)
    for one in (again, keras.saving.load_model(tmp_path / "plain.keras")):
        assert relative(np.asarray(one(images)), np.asarray(model(images))) <= 1e-6


def test_our_own_file_says_what_opens_it(tmp_path):
    """Keras's error without this library names it within what a terminal shows."""
    with_weights("lenet").save(tmp_path / "own.keras")
    program = "import sys; sys.modules['inception_tf'] = None; import keras; keras.saving.load_model(sys.argv[1])"
    done = subprocess.run([python_with("jax"), "-c", program, tmp_path / "own.keras"], capture_output=True, text=True)
    assert (
        done.returncode
        and "import inception_tf; inception_tf.load_model" in done.stderr.partition("TypeError: ")[2][:600]
    )
