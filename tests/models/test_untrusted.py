"""Keras files of strangers: none runs a program, reads another file, or takes more memory than it holds."""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

import inception_tf as itf
from inception_tf.cli.main import main
from inception_tf.errors import CheckpointError
from inception_tf.models.untrusted import check_config
from inception_tf.slim.checkpoint import open_checkpoint

LAMBDA = keras.layers.Lambda(lambda x: x)
REFUSED = {
    "lambda": keras.saving.serialize_keras_object(LAMBDA),
    "lambda of a name": {"class_name": "Lambda", "config": {"function": "relu"}},
    "lambda in a wrapper": keras.saving.serialize_keras_object(keras.layers.TimeDistributed(LAMBDA)),
    "another graph": {"class_name": "TFSMLayer", "module": "keras.layers", "config": {"filepath": "/tmp/x"}},
    "a module": {"class_name": "Popen", "module": "subprocess", "config": {"args": "true"}, "registered_name": "Popen"},
    "a module of Keras": {"class_name": "get_file", "module": "keras.utils", "config": {"origin": "http://x"}},
    "a module of Keras within": {"class_name": "get_file", "module": "keras.src.utils.file_utils", "config": {}},
    "a function": {"class_name": "function", "module": "os", "config": "system", "registered_name": "system"},
    "a function of Keras": {
        "class_name": "function",
        "module": "keras.config",
        "config": "enable_unsafe_deserialization",
    },
    "someone's": {"class_name": "Layer", "module": "theirs", "config": {}, "registered_name": "theirs>Layer"},
    "someone's as ours": {
        "class_name": "Layer",
        "module": "theirs",
        "config": {},
        "registered_name": "inception_tf>Conv2D",
    },
    "someone's as Keras'": {
        "class_name": "Dense",
        "module": "keras.layers",
        "config": {},
        "registered_name": "theirs>Dense",
    },
    "a type": {"class_name": "__typespec__", "module": "os", "config": [], "spec_name": "x", "registered_name": "x"},
}


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    """The bytes of a `.keras` file by its members' names."""
    path = tmp_path_factory.mktemp("lenet") / "m.keras"
    itf.create_model("lenet").save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("kind", REFUSED)
def test_programs_are_refused(kind):
    layer = {"class_name": "Sequential", "module": "keras", "config": {"layers": [{"deep": [REFUSED[kind]]}]}}
    for config in (REFUSED[kind], layer, {"compile_config": REFUSED[kind]}):
        with pytest.raises(
            CheckpointError, match="m.keras is refused.*neither of Keras' own layers nor of this library"
        ):
            check_config(config, "m.keras")


def test_every_road_to_keras_refuses(lenet, tmp_path, capsys):
    """A class that is registered in this process would be found by its name."""
    ran = []

    @keras.saving.register_keras_serializable("theirs")
    class Evil(keras.layers.Activation):
        @classmethod
        def from_config(cls, config):
            ran.append(config)
            return cls("relu")

    config = json.loads(lenet["config.json"])
    config["config"]["layers"].append(keras.saving.serialize_keras_object(Evil("relu")))
    path = str(write(tmp_path / "m.keras", {**lenet, "config.json": json.dumps(config)}))
    image = tmp_path / "images/a/i.png"
    image.parent.mkdir(parents=True)
    keras.utils.save_img(image, np.zeros((28, 28, 1)))
    for command in ("classify", "export", "evaluate", "inspect", "convert", "verify"):
        arguments = {
            "classify": [path, str(image)],
            "evaluate": [path, "--data", str(tmp_path / "images")],
            "export": [path, str(tmp_path / "out")],
            "convert": [path, str(tmp_path / "out.ckpt")],
        }.get(command, [path])
        assert main([command, *arguments]) == 1
        assert "is refused" in capsys.readouterr().err
    for road in (itf.load_model, lambda path: itf.create_model("lenet", weights=path)):
        with pytest.raises(CheckpointError, match="is refused"):
            road(path)
    assert not ran


def test_models_of_keras_own_layers_open(tmp_path):
    """Every kind of object that a config may hold: wrappers, functions, policies, initializers, what was compiled."""
    model = keras.Sequential([keras.Input((4, 4)), keras.layers.TimeDistributed(keras.layers.Dense(3, "gelu"))])
    model.add(keras.layers.Bidirectional(keras.layers.LSTM(2, kernel_initializer=keras.initializers.HeNormal())))
    model.add(
        keras.layers.Dense(2, kernel_regularizer="l2", activation=keras.activations.softmax, dtype="mixed_float16")
    )
    model.compile(keras.optimizers.SGD(), loss=keras.losses.categorical_crossentropy, metrics=["accuracy"])
    model.save(tmp_path / "m.keras")
    opened = itf.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(opened(np.ones((1, 4, 4))), model(np.ones((1, 4, 4))))


def hdf5(change):
    """An HDF5 file in memory after `change(file)`."""
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        change(file)
    return data.getvalue()


UNSAFE = {
    "up": ({"../x": b"x"}, "leads out of it"),
    "absolute": ({"/x": b"x"}, "leads out of it"),
    "Windows": ({"C:\\x": b"x"}, "leads out of it"),
    "bomb": ({"assets/x": bytes(300_000_000)}, "unpacks to more than"),
    "config": ({"config.json": b" " * 70_000_000}, "larger than any model's"),
    "link": ({"model.weights.h5": hdf5(lambda f: f.update({"a": h5py.ExternalLink("/etc/x", "/")}))}, "another file"),
    "external": (
        {"model.weights.h5": hdf5(lambda f: f.create_dataset("a", (9,), "u1", external=[("/etc/passwd", 0, 9)]))},
        "another file",
    ),
    "fill": ({"model.weights.h5": hdf5(lambda f: f.create_dataset("a", (1 << 40,), "f4"))}, "larger than the file"),
}


@pytest.mark.parametrize("kind", UNSAFE)
@pytest.mark.parametrize("application", [False, True])
def test_unsafe_files_are_refused(lenet, tmp_path, kind, application):
    """Those too that look as if they were of keras.applications."""
    members, match = UNSAFE[kind]
    members = {"config.json": b'{"name": "mixed10"}', **members} if application else members
    with pytest.raises(CheckpointError, match=match):
        itf.load_model(write(tmp_path / "m.keras", {**lenet, **members}))
    if "model.weights.h5" in members:
        path = tmp_path / "m.weights.h5"
        path.write_bytes(members["model.weights.h5"])
        for opens in (open_checkpoint, lambda path: itf.create_model("lenet", weights=path)):
            with pytest.raises(CheckpointError, match=match):
                opens(path)


def test_a_model_larger_than_its_weights_is_refused(lenet, tmp_path):
    """Both where it could be built and where it could not: in either case before anything is allocated."""
    config = lenet["config.json"]
    last, both = (
        config.replace(b'"units": 10,', b'"units": 200000000,'),
        config.replace(b'"units": 1024', b'"units": 100000000'),
    )
    assert config not in (last, both)
    for data, match in ((last, "larger than its weights"), (both, "damaged: Input 0")):
        with pytest.raises(CheckpointError, match=match):
            itf.load_model(write(tmp_path / "m.keras", {**lenet, "config.json": data}))
