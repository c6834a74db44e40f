"""Kinds of checkpoints that people bring, which are not as TF-Slim's own scripts write them."""

import json
import re
import tarfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from PIL import Image
from random_weights import randomized
from slim_files import Names, read_tensors, slow, write_tensors
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

import inception_tf as itf
from inception_tf.cli.main import main
from inception_tf.errors import CheckpointError, MismatchError, UsageError
from inception_tf.exports.convert import convert
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.models.applications import check_layers
from inception_tf.models.initialization import meta_init
from inception_tf.slim import golden
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.containers import hdf5
from inception_tf.slim.detect import detect
from inception_tf.slim.names import specification
from inception_tf.slim.summary import summarize, summary_text
from inception_tf.slim.translations import translated
from inception_tf.slim.verify import run_keras, run_original, verify


@pytest.fixture(scope="module")
def lenet():
    """The tensors of a LeNet."""
    shapes = specification("lenet")
    random = np.random.default_rng(0)
    return {f"LeNet/{name}": random.normal(0, 0.1, shape).astype("float32") for name, shape in shapes.items()}


def error(call, *arguments, **options):
    with pytest.raises((CheckpointError, MismatchError)) as raised:
        call(*arguments, **options)
    return str(raised.value)


# A `checkpoint` file and what is there.


def test_a_state_file_that_names_another_file(lenet, tmp_path, capsys):
    write_tensors(tmp_path / "model.ckpt-300", lenet)
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt-900"\nall_model_checkpoint_paths: "model.ckpt-300"\n'
    )
    for call in (open_checkpoint, itf.load_model, summarize, lambda p: itf.create_model("lenet", weights=p)):
        for path in (tmp_path, tmp_path / "checkpoint"):
            text = error(call, path)
            assert "names model.ckpt-900, which is not there" in text and str(tmp_path / "model.ckpt-300") in text
    assert main(["inspect", str(tmp_path)]) == main(["convert", str(tmp_path), str(tmp_path / "m.keras")]) == 1
    assert capsys.readouterr().err.count("model.ckpt-900, which is not there") == 2
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-300"\n')
    assert not open_checkpoint(tmp_path).notes


@pytest.mark.parametrize(
    "state",
    ["model_checkpoint_path: 'model.ckpt-900'", '#\nall_model_checkpoint_paths: "x" model_checkpoint_path: "y-900"'],
)
def test_state_files_as_protocol_buffers_allow_them(lenet, tmp_path, state):
    """Also where an archive has another such file in another folder."""
    write_tensors(tmp_path / "run/model.ckpt-300", lenet)
    (tmp_path / "run/checkpoint").write_bytes(b"\xef\xbb\xbf" + state.encode())
    with tarfile.open(tmp_path / "run.tar", "w") as tar:
        tar.add(tmp_path / "run", "run")
        tar.add(tmp_path / "run/checkpoint", "run/eval/checkpoint")
    for path in (tmp_path / "run", tmp_path / "run.tar"):
        assert "-900, which is not there" in error(open_checkpoint, path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_state_files_written_on_windows(lenet, tmp_path, encoding):
    """A path by hand, without escapes; and what a shell there writes."""
    for step in (300, 1000):
        write_tensors(tmp_path / f"model.ckpt-{step}", lenet)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "C:\\users\\model.ckpt-300"\n', encoding)
    if encoding == "utf-8":
        assert "model.ckpt-300 was opened" in open_checkpoint(tmp_path).notes[0]
    else:
        assert "`checkpoint` file" in error(open_checkpoint, tmp_path)


def test_the_highest_step_is_opened_and_told(lenet, tmp_path):
    for step in (300, 1000):
        write_tensors(tmp_path / f"model.ckpt-{step}", {**lenet, "global_step": np.int64(step)})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.step == 1000
    assert checkpoint.notes == ("model.ckpt-1000 was opened, of model.ckpt-1000, model.ckpt-300",)


# Names.


@pytest.mark.parametrize(
    "spelling, told",
    [("{}:0", "end in :0"), ("{}/read:0", "end in :0"), ("{}/Read/ReadVariableOp_1", "reading"), ("/{}", "slash")],
)
def test_names_spelled_otherwise(lenet, tmp_path, spelling, told):
    tensors = {spelling.format(name): value for name, value in lenet.items()}
    path = write_tensors(tmp_path / "m.ckpt", tensors | {"global_step:0": np.int64(7)})
    checkpoint = open_checkpoint(path)
    assert set(checkpoint) == {*lenet, "global_step"} and checkpoint.step == 7 and told in checkpoint.notes[0]
    model = itf.create_model("lenet", weights=path)
    assert told in model.card.weights.report and told in summary_text(summarize(path)) and model.card.scope == "LeNet"
    itf.save_slim(model, tmp_path / "back.ckpt")
    back = read_tensors(tmp_path / "back.ckpt")
    assert set(back) == set(lenet) and all(np.array_equal(back[name], lenet[name]) for name in lenet)


def test_objects_of_tensorflow_2(lenet, tmp_path):
    """`tf.train.Checkpoint` of Slim's variables: by their own names, where each is there once."""
    import tensorflow as tf

    step = tf.Variable(7, name="global_step", dtype=tf.int64)
    variables = [tf.Variable(value, name=name) for name, value in lenet.items()]
    path = tf.train.Checkpoint(variables=variables, step=step).save(str(tmp_path / "objects"))
    checkpoint, model = open_checkpoint(path), itf.create_model("lenet", weights=path)
    assert checkpoint.step == 7 and "full names" in checkpoint.notes[0]
    itf.save_slim(model, tmp_path / "back.ckpt")
    back = read_tensors(tmp_path / "back.ckpt")
    assert set(back) == set(lenet) and all(np.array_equal(back[name], lenet[name]) for name in lenet)
    path = tf.train.Checkpoint(variables=[*variables, tf.Variable(0.0, name="LeNet/fc4/biases")]).save(
        str(tmp_path / "b")
    )
    assert "object-based" in error(itf.load_model, path)


def test_a_head_that_is_not_slims_is_named(lenet, tmp_path):
    tensors = {n: v for n, v in lenet.items() if "/fc4/" not in n} | {"dense/kernel": np.ones((1024, 3), "float32")}
    path = write_tensors(tmp_path / "m.ckpt", tensors)
    assert "dense/kernel 1024×3" in summary_text(summarize(path))
    model = itf.create_model("lenet", weights=path, include_top=False)
    assert "dense/kernel" in model.card.weights.report


@pytest.mark.slow
def test_tensorflows_saver_restores_names_that_end_in_0(slim_checkpoint, tmp_path):
    tensors = read_tensors(slim_checkpoint("inception_v2", depth_multiplier=0.1))
    path = write_tensors(tmp_path / "m.ckpt", {f"tower_0/{name}:0": value for name, value in tensors.items()})
    report = verify(path, batch=1)
    assert report and len(report.rows) == 18
    assert detect(path).scope == "tower_0/InceptionV2"


def test_two_spellings_of_a_name(lenet, tmp_path):
    text = error(open_checkpoint, write_tensors(tmp_path / "m.ckpt", lenet | {"LeNet/fc4/biases:0": np.zeros(10)}))
    assert "LeNet/fc4/biases and LeNet/fc4/biases:0" in text


# Batch norm.

FORMS = {
    "gamma": {"batch_norm_scale": True},
    "no gamma": {"batch_norm_scale": False},
    "no arg scope": {"batch_norm": False},
}


@pytest.mark.parametrize(
    "network, form, options",
    [
        ("inception_v2", "gamma", {"depth_multiplier": 0.1}),
        slow("inception_v2", "no arg scope", {"depth_multiplier": 0.1}),
        slow("inception_v3", "gamma", {"depth_multiplier": 0.1}),
        slow("inception_v3", "no arg scope", {"depth_multiplier": 0.1, "aux_logits": True}),
        slow("inception_v1", "gamma", {}),
        slow("inception_v1", "no arg scope", {}),
        slow("resnet_v1_50", "no gamma", {}),
        slow("resnet_v2_50", "no gamma", {}),
    ],
)
def test_another_batch_norm(slim_checkpoint, tmp_path, network, form, options):
    """Equal to the graph that TF-Slim builds in that arg scope, or in none; saved, opened, fused, written back."""
    path = slim_checkpoint(network, **options, **FORMS[form])
    tensors = read_tensors(path)
    assert any(name.endswith("/gamma") for name in tensors) == (form == "gamma")
    assert FORMS[form].items() <= detect(path).options.items()
    report = verify(path, batch=1)
    assert report and report.worst < 1e-5 and report.top5
    model = itf.create_model(network, weights=path)
    model.save(tmp_path / "m.keras")
    opened = itf.load_model(tmp_path / "m.keras")
    assert FORMS[form].items() <= opened.card.options.items() and not detect(tmp_path / "m.keras").differences
    itf.save_slim(opened, tmp_path / "back.ckpt")
    back = read_tensors(tmp_path / "back.ckpt")
    assert set(back) == set(tensors) and all(np.array_equal(back[name], tensors[name]) for name in tensors)
    images = np.random.default_rng(0).uniform(-1, 1, (1, *model.input_shape[1:])).astype("float32")
    ours, fused = (np.asarray(m(images, training=False)) for m in (opened, itf.fuse_for_inference(opened)))
    assert np.abs(ours - fused).max() < 1e-5 * np.abs(ours).max()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["inception_v4", "inception_resnet_v2"])
@pytest.mark.parametrize("norm", [{"batch_norm_scale": True, "batch_norm_epsilon": 1e-4}, {"batch_norm": False}])
def test_another_batch_norm_where_there_is_golden_data(network, norm, tmp_path):
    path = tmp_path / "m.ckpt"
    itf.save_slim(itf.create_model(network, classes=3, **norm), path)
    model = itf.create_model(network, weights=path, **{k: v for k, v in norm.items() if k.endswith("epsilon")})
    report = verify(path, model)
    assert report and report.worst < 1e-5 and norm.items() <= model.card.options.items()


@pytest.mark.slow
def test_what_no_checkpoint_tells_of_batch_norm(slim_checkpoint, tmp_path, capsys):
    path = slim_checkpoint("inception_v2", depth_multiplier=0.1)
    given = ["--batch-norm-epsilon", "0.01", "--batch-norm-decay", "0.95"]
    assert main(["convert", str(path), str(tmp_path / "m.keras"), *given]) == 0
    model = itf.load_model(tmp_path / "m.keras")
    own = {"batch_norm_epsilon": 0.01, "batch_norm_decay": 0.95}
    assert own.items() <= model.card.options.items()
    norm = model.get_layer("Conv2d_2c_3x3").batch_norm
    assert (norm.epsilon, norm.momentum) == (0.01, 0.95)
    # The Slim graph it was compared with had that epsilon too: without, it gives something else.
    images = np.random.default_rng(0).uniform(-1, 1, (1, 224, 224, 3)).astype("float32")
    answers = [run_original(path, images, detect(path), graph=graph)["Logits"] for graph in (own, {})]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3 * np.abs(answers[0]).max()
    with pytest.raises(UsageError, match="batch_norm_epsilon must be above 0"):
        itf.create_model("inception_v2", batch_norm_epsilon=-1)
    with pytest.raises(UsageError, match="lenet has no option batch_norm_epsilon"):
        itf.create_model("lenet", batch_norm_epsilon=0.1)


def test_a_resnet_without_batch_norm(slim_variables):
    names = {n: s for n, s in slim_variables("resnet_v1_50").items() if "/BatchNorm/" not in n}
    names |= {n.replace("weights", "biases"): s[-1:] for n, s in names.items()}
    assert "Slim has two such networks" in error(detect, Names(names))
    with pytest.raises(UsageError, match="resnet_v1_50 has no form without batch norm"):
        itf.create_model("resnet_v1_50", batch_norm=False)


def test_trainable_variables_alone(slim_checkpoint, tmp_path):
    tensors = read_tensors(slim_checkpoint("inception_v2", depth_multiplier=0.1))
    kept = {name: value for name, value in tensors.items() if "/moving_" not in name}
    path = write_tensors(tmp_path / "m.ckpt", kept)
    for call in (detect, itf.load_model, lambda p: itf.create_model("inception_v2", weights=p)):
        text = error(call, path)
        assert "moving statistics" in text and "--recalibrate" in text and "folded" not in text
    assert "moving statistics were not saved" in summary_text(summarize(path))
    random = np.random.default_rng(0)
    for i in range(3):
        image = random.integers(0, 255, (240, 240, 3), dtype=np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"images/{i}.png")
    done = convert(path, tmp_path / "m.keras", recalibrate=tmp_path / "images", check=False)
    assert "over 3 images" in done.loaded
    model = itf.load_model(tmp_path / "m.keras")
    images = Preprocessing.from_config(model.card.preprocessing)(sorted((tmp_path / "images").iterdir()))
    before = itf.feature_extractor(model, "MaxPool_2a_3x3")(images, training=False)
    layer = model.get_layer("Conv2d_2b_1x1")
    features = np.asarray(layer.convolution_op(before, layer.kernel), "float64")
    np.testing.assert_allclose(layer.batch_norm.moving_mean, features.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(layer.batch_norm.moving_variance, features.var((0, 1, 2)), rtol=1e-3, atol=1e-4)
    written = open_checkpoint(tmp_path / "m.keras")
    assert all(np.array_equal(written[name], value) for name, value in kept.items())
    assert not model.card.weights.complete


# Another network.


def test_another_network_is_named(slim_variables, tmp_path):
    v3 = Names(slim_variables("inception_v3"))
    assert "does not hold inception_v1, but inception_v3" in error(detect, v3, "inception_v1", partial=True)
    far = write_tensors(tmp_path / "m.ckpt", {"Conv2d_1a_3x3/weights": np.ones((1, 1)), "other": np.ones(3)})
    text = error(detect, far) + error(detect, far, "inception_v3")
    assert "Nearest" not in text and text.count("It begins with: Conv2d_1a_3x3/weights, other") == 2
    assert "none known here" in summary_text(summarize(far))


def test_logits_alone(slim_variables):
    logits = {n: s for n, s in slim_variables("inception_v3").items() if n.startswith("InceptionV3/Logits/")}
    assert "the classifier of inception_v3 alone" in error(detect, Names(logits))


@pytest.fixture(scope="module")
def of_2016():
    """Facts of the original graph: variables, names to shapes; images; golden end points, by Slim's later names."""
    return json.loads(Path(__file__).with_name("names_2016.json").read_text())


def test_names_of_2016(of_2016):
    shapes = {n: tuple(shape) for n, shape in of_2016["variables"].items()}
    shapes |= {f"{name}/ExponentialMovingAverage": shape for name, shape in shapes.items()}
    checkpoint = translated(Names({**shapes, "global_step": ()}))
    found = detect(checkpoint)
    assert (found.network, found.classes, found.options) == ("inception_v3", 6, {"aux_logits": True})
    assert "March 2016" in checkpoint.notes[0] and checkpoint.stored("global_step") == "global_step"
    own = {f"InceptionV3/{name}" for name in specification("inception_v3", aux_logits=True)}
    assert {name for name in checkpoint if name.startswith("InceptionV3") and "Exponential" not in name} == own


@pytest.mark.slow
def test_equal_to_the_graph_of_2016(of_2016, tmp_path):
    weights = {n: golden.deterministic_weights(n, shape) for n, shape in of_2016["variables"].items()}
    model = itf.create_model("inception_v3", weights=write_tensors(tmp_path / "m.ckpt", weights))
    rows = golden.differences(of_2016, run_keras(model, golden.deterministic_images(*of_2016["images"])))
    assert len(rows) == 15 and max(relative for *_, relative in rows) < 1e-5


# Other files.

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 108816380\n"


@pytest.mark.parametrize("suffix", [".ckpt", ".tar.gz", ".keras", ".weights.h5", ".pb", ".onnx", ".ckpt.index"])
def test_a_pointer_of_git_lfs(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(POINTER)
    for given in {path, path.with_suffix("") if suffix.endswith("index") else path}:
        text = error(itf.load_model, given)
        assert (
            "git lfs pull" in text and "108,816,380 bytes" in text and "git lfs pull" in error(open_checkpoint, given)
        )
    assert "git lfs pull" in error(open_checkpoint, tmp_path)


@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index", "best.keras", "checkpoint"])
def test_a_pointer_of_git_lfs_in_a_directory(lenet, tmp_path, file):
    if file == "variables/variables.index":
        (tmp_path / "variables").mkdir()
        (tmp_path / "saved_model.pb").write_bytes(SavedModel(meta_graphs=[MetaGraphDef()]).SerializeToString())
    elif file == "checkpoint":
        write_tensors(tmp_path / "model.ckpt-300", lenet)
    (tmp_path / file).write_bytes(POINTER)
    for call in (itf.load_model, open_checkpoint):
        assert f"{file} is a Git LFS pointer" in error(call, tmp_path)


@pytest.mark.parametrize("content", ["network", "arrays", "nothing"])
def test_hdf5_of_no_known_network(tmp_path, content):
    path = tmp_path / "m.h5"
    if content == "network":
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(tmp_path / "m.weights.h5")
        path = tmp_path / "m.weights.h5"
    else:
        with h5py.File(path, "w") as file:
            if content == "arrays":
                file["weights"] = np.zeros((3, 4), "float32")
    text = error(itf.load_model, path)
    assert "no network known here" in text or "holds no tensors" in text


def test_our_own_weights_file(tmp_path):
    model = randomized(itf.create_model("lenet"))
    model.save_weights(tmp_path / "m.weights.h5")
    assert "network=" in error(itf.load_model, tmp_path / "m.weights.h5")
    loaded = itf.load_model(tmp_path / "m.weights.h5", network="lenet")
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), loaded.get_weights()))


@pytest.mark.parametrize(
    "name, kind, top",
    [
        ("InceptionV3", "tf2", False),
        slow("InceptionV3", ".weights.h5", True),
        slow("InceptionV3", ".h5", True),
        slow("InceptionV3", ".keras", False),
        slow("InceptionResNetV2", ".keras", True),
    ],
)
def test_keras_applications(tmp_path, name, kind, top):
    import tensorflow as tf

    activation = "sigmoid" if kind in (".h5", ".keras") else "softmax"  # the weights alone do not tell
    top_options = {"classes": 7, "classifier_activation": activation}
    options = top_options if top else {"include_top": False, "input_shape": (107, 107, 3)}
    theirs = randomized(getattr(keras.applications, name)(weights=None, **options))
    if kind == "tf2":
        path = tf.train.Checkpoint(model=theirs).save(str(tmp_path / "tf2"))
    else:
        path = tmp_path / f"model{kind}"
        theirs.save_weights(path) if kind == ".weights.h5" else theirs.save(path)
    assert f"{name} of keras.applications" in open_checkpoint(path).notes[0]
    ours = itf.load_model(path, include_top=top)
    images = np.random.default_rng(0).uniform(-1, 1, (1, *theirs.input_shape[1:])).astype("float32")
    wanted, got = (np.asarray(model(images, training=False)) for model in (theirs, ours))
    assert got.shape == wanted.shape and np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_head_on_the_maximum(tmp_path):
    layers = [keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(3)]
    config = keras.Sequential([keras.Input((1, 1, 4)), *layers]).get_config()["layers"]
    assert "pooled by their maximum" in error(hdf5._head, config, tmp_path)
    for more in [keras.layers.UnitNormalization(), keras.layers.Dense(3)], [keras.layers.Dense(3, "tanh")]:
        layers = [keras.layers.GlobalAveragePooling2D(), *more]
        config = keras.Sequential([keras.Input((1, 1, 4)), *layers]).get_config()["layers"]
        assert "which no network of Slim's has" in error(hdf5._head, config, tmp_path)


@pytest.mark.parametrize(
    "ahead, behind, told",
    [
        ([keras.layers.RandomFlip(), keras.layers.Rescaling(1 / 127.5, -1)], [], "ahead of the first .*: Rescaling. "),
        ([keras.layers.Rescaling(1 / 255), keras.layers.Rescaling([2] * 3, [-1] * 3)], [], "Rescaling, Rescaling. "),
        ([keras.layers.Rescaling(1 / 255)], [], "otherwise than from .* by Rescaling"),
        ([keras.layers.Normalization(mean=[1, 2, 3], variance=[4, 5, 6])], [], "otherwise than from .* by Normaliz"),
        ([], [keras.layers.Dropout(0.1), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)], "^$"),
        ([], [keras.layers.ReLU(6.0), keras.layers.GlobalAveragePooling2D()], "a layer that .* has not: ReLU"),
        ([], [keras.layers.Activation("swish")], "has not: Activation, activation=silu"),
    ],
)
def test_other_layers_in_keras_applications(ahead, behind, told):
    with meta_init():
        application = keras.applications.InceptionV3(weights=None, include_top=False)
        x = inputs = keras.Input((75, 75, 3))
        for layer in ahead:
            x = layer(x)
        x = keras.applications.InceptionV3(weights=None, include_top=False, input_tensor=x).output
        for layer in behind:
            x = layer(x)
        layers = json.loads(keras.Model(inputs, x).to_json())["config"]["layers"]
    try:
        found = check_layers("model.keras", layers, application)
    except CheckpointError as failure:
        found = str(failure)
    assert re.search(told, found), found


def test_resnets_of_keras_applications(tmp_path):
    with meta_init():
        shapes = {v.path: tuple(v.shape) for v in keras.applications.ResNet50(weights=None, include_top=False).weights}
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for i, shape in enumerate(shape for shape in shapes.values() if len(shape) == 4):
            file[f"layers/conv2d_{i}/vars/0"] = np.zeros(shape, "float32")
    assert "ResNet50 of keras.applications, which computes something else" in error(
        open_checkpoint, tmp_path / "m.weights.h5"
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_pytorch(tmp_path, suffix):
    path = tmp_path / f"inception_v3{suffix}"
    if suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({"Conv2d_1a_3x3.conv.weight": np.zeros((32, 3, 3, 3), "float32")}, path)
    else:
        path.write_bytes(b"PK\x03\x04" + b"archive/data.pkl" + bytes(100))
    assert "PyTorch" in error(open_checkpoint, path) and "PyTorch" in error(itf.load_model, path)
