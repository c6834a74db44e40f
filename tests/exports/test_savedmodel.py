import io
import json
import os
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

import inception_tf as itf
from inception_tf.errors import ExportError, UsageError
from inception_tf.exports.check import check_savedmodel
from inception_tf.exports.encoded import example
from inception_tf.exports.savedmodel import SavedModel as SavedModelFormat
from inception_tf.exports.savedmodel import export_savedmodel, save_savedmodel
from inception_tf.images.labels import imagenet_labels
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.slim.golden import deterministic_images
from inception_tf.zoo import create_model

PYTHON_OPS = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "NumpyFunction"}


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture(scope="module")
def signatures(loaded):
    return loaded.signatures


@pytest.fixture(scope="module")
def graph(exported):
    """The graph of all signatures."""
    saved = SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    return saved.meta_graphs[0].graph_def


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(-1, 1, (3, 107, 107, 3)).astype("float32")


@pytest.fixture(scope="module")
def files():
    """Encoded images of five formats and sizes, smooth."""

    def encode(kind, width, height, seed):
        noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(file, kind)
        return file.getvalue()

    sizes = {"JPEG": (320, 200), "PNG": (31, 407), "GIF": (64, 64), "BMP": (107, 107), "WEBP": (500, 333)}
    return [encode(kind, *size, seed) for seed, (kind, size) in enumerate(sizes.items())]


def close(a, b):
    return np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


def nodes(graph):
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def test_signatures(signatures):
    def facts(specs):
        return {key: (spec.dtype.name, spec.shape.as_list()) for key, spec in specs.items()}

    specs = {
        name: (facts(signature.structured_input_signature[1]), facts(signature.structured_outputs))
        for name, signature in signatures.items()
    }
    images, image_bytes = {"images": ("float32", [None, 107, 107, 3])}, {"image_bytes": ("string", [None])}
    best = {"classes": ("string", [None, 3]), "scores": ("float32", [None, 3])}
    with_status = best | {"status": ("string", [None])}
    assert specs == {
        "serving_default": (images, {"logits": ("float32", [None, 7]), "probabilities": ("float32", [None, 7])}),
        "features": (images, {"features": ("float32", [None, 203])}),
        "predict_image_bytes": (image_bytes, with_status),
        "classify": ({"inputs": ("string", [None])}, best),
        "class_maps": (image_bytes, with_status | {"maps": ("float32", [None, 3, 2, 2])}),
    }


def test_float_signatures_answer_as_keras(signatures, model, images):
    expected = itf.feature_extractor(model, ["PreLogits", "Logits", "Predictions"])(images, training=False)
    answer = signatures["serving_default"](images=images)
    assert close(answer["logits"], expected["Logits"])
    assert close(answer["probabilities"], expected["Predictions"])
    assert close(signatures["features"](images=images)["features"], expected["PreLogits"][:, 0, 0])


def test_encoded_images_answer_as_keras(signatures, model, files):
    answer = signatures["predict_image_bytes"](image_bytes=tf.constant(files))
    probabilities = model(itf.preprocess_input(files, size=107)).numpy()
    expected = itf.decode_predictions(probabilities, top=3, labels=model.card.labels)
    names = [[name.decode() for name in row] for row in answer["classes"].numpy()]
    assert names == [[name for _, name, _ in row] for row in expected]
    assert len({name for row in names for name in row}) > 3, "the images should differ"
    assert close(answer["scores"], np.array([[score for *_, score in row] for row in expected]))


def test_a_broken_image_does_not_fail_the_others(signatures, files):
    """Whatever is wrong with it, and in a tf.Example too."""
    bomb = bytearray(files[1])
    bomb[16:24] = struct.pack(">II", 30000, 40000)
    animated = io.BytesIO()
    frames = [Image.new("RGB", (50, 40), color) for color in ("red", "blue")]
    frames[0].save(animated, "WEBP", save_all=True, append_images=frames[1:])
    broken = {
        b"": "The file is empty.",
        b"\x00\x01": "Not an image. Expected JPEG, PNG, GIF, BMP or WEBP.",
        b"/9j/4AAQ\n": "Not an image. Expected JPEG, PNG, GIF, BMP or WEBP. These bytes are text. TensorFlow Serving's "
        'REST takes a file as {"b64": "<its base64>"}.',
        b"\xff\xd8\xff\xe0 no JPEG": "The image is truncated, corrupted.",
        files[0][: len(files[0]) // 2]: "The image is truncated, corrupted.",
        files[1][:60]: "The image is truncated, corrupted.",
        bytes(bomb): "The image is too large to decode: 30000 × 40000 pixels, more than 33,554,432.",
        animated.getvalue(): "An animated WEBP is not read here.",
    }
    mixed = [files[0], *broken, files[1]]
    answer = signatures["predict_image_bytes"](image_bytes=tf.constant(mixed))
    assert [status.decode() for status in answer["status"].numpy()] == ["", *broken.values(), ""]
    others = [b"no example", tf.train.Example().SerializeToString()]
    examples = [example(data) for data in mixed]
    classified = signatures["classify"](inputs=tf.constant([*examples[:-1], *others, examples[-1]]))
    alone = signatures["predict_image_bytes"](image_bytes=tf.constant([files[0], files[1]]))
    for outputs in answer, classified:
        classes, scores = outputs["classes"].numpy(), outputs["scores"].numpy()
        assert not classes[1:-1].any() and not scores[1:-1].any()
        assert classes[[0, -1]].tolist() == alone["classes"].numpy().tolist()
        assert close(scores[[0, -1]], alone["scores"].numpy())


def test_class_maps(signatures, model, files):
    answer = signatures["class_maps"](image_bytes=tf.constant([files[0], b"", files[1]]))
    best = signatures["predict_image_bytes"](image_bytes=tf.constant([files[0], b"", files[1]]))
    for key in ("classes", "status"):
        assert answer[key].numpy().tolist() == best[key].numpy().tolist()
    maps = answer["maps"].numpy()
    assert not maps[1].any() and np.isfinite(maps).all()
    logits = itf.feature_extractor(model, "Logits")(itf.preprocess_input([files[0], files[1]], size=107)).numpy()
    order = np.argsort(-logits)[:, :3]
    assert close(maps[[0, 2]].mean((2, 3)), np.take_along_axis(logits, order, 1))


def test_no_image_at_all(signatures):
    for name, signature in signatures.items():
        ((key, spec),) = signature.structured_input_signature[1].items()
        outputs = signature(**{key: tf.zeros((0, *spec.shape[1:]), spec.dtype)})
        for key, output in outputs.items():
            assert output.shape == (0, *signature.structured_outputs[key].shape[1:]), (name, key)


def test_max_pixels(tmp_path, lenet):
    path = save_savedmodel(lenet, tmp_path / "export", max_pixels=28 * 28, check=False)
    signature = tf.saved_model.load(str(path)).signatures["predict_image_bytes"]
    images = [tf.io.encode_png(np.full((28, width, 3), 9, np.uint8)).numpy() for width in (28, 29)]
    status = signature(image_bytes=tf.constant(images))["status"].numpy()
    assert status[0] == b"" and status[1].startswith(b"The image is too large to decode: 29")


def test_no_attribute_that_old_loaders_do_not_know(graph):
    handles = [node for node in nodes(graph) if node.op == "VarHandleOp"]
    assert handles and not any("debug_name" in node.attr for node in handles)


def test_neither_python_nor_xla_in_the_graph(graph):
    ops = {node.op for node in nodes(graph)}
    assert "Conv2D" in ops and not ops & PYTHON_OPS
    assert not any("_XlaMustCompile" in part.attr for part in (*nodes(graph), *graph.library.function))


def test_assets_and_no_machine_paths(exported, model):
    assert (exported / "assets/labels.txt").read_text("utf-8").splitlines() == model.card.labels
    written = b"".join(file.read_bytes() for file in exported.rglob("*") if file.is_file())
    for path in (exported, Path(itf.__file__), Path(keras.__file__)):
        assert str(path.parent).encode() not in written


def test_variables_stay_variables_without_the_auxiliary_head(loaded, model, graph):
    saved = loaded.weights
    expected = {v.path: v.numpy() for v in itf.fuse_for_inference(model, siblings=False).weights}
    assert set(saved) == set(expected) and not any(path.startswith("AuxLogits/") for path in saved)
    for path, value in expected.items():
        np.testing.assert_array_equal(saved[path].numpy(), value)
    body = next(f for f in graph.library.function if any(node.op == "Conv2D" for node in f.node_def))
    assert sum(node.op == "Conv2D" for node in body.node_def) == 95  # all but the auxiliary head's three


def test_xla(signatures, images):
    function = signatures["serving_default"]
    expected = function(images=images)
    answer = tf.function(lambda images: function(images=images), jit_compile=True)(tf.constant(images))
    assert close(answer["logits"], expected["logits"])
    assert close(answer["probabilities"], expected["probabilities"])


def test_xla_compiles_the_network_and_not_the_decoding(lenet, tmp_path, checked_here):
    path = save_savedmodel(lenet, tmp_path / "export", xla=True)  # runs every signature
    library = SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def.library
    compiled = [function for function in library.function if function.attr["_XlaMustCompile"].b]
    assert compiled and any(node.op == "Conv2D" for function in compiled for node in function.node_def)
    assert not any("Decode" in node.op or "Dataset" in node.op for function in compiled for node in function.node_def)


NIN = {"classes": 1001, "depth_multiplier": 0.1}
ALL = {"serving_default", "features", "predict_image_bytes", "classify"}


@pytest.mark.parametrize(
    "network, options, signatures",
    [
        ("lenet", {"include_top": False}, {"serving_default"}),
        ("lenet", {"input_shape": (28, 28, 5)}, {"serving_default", "features"}),
        ("nin", {**NIN, "input_shape": (None, None, 3), "classifier_activation": None}, ALL | {"class_maps"}),
        ("nin", {**NIN, "classes": 4, "input_shape": (300, 260, 1), "spatial_squeeze": False}, ALL),
    ],
    ids=["headless", "multispectral", "sizeless logits", "dense gray"],
)
def test_other_models(tmp_path, checked_here, network, options, signatures):
    model = create_model(network, **options)
    path = save_savedmodel(model, tmp_path / "export")  # checks every signature
    loaded = tf.saved_model.load(str(path))
    serving = loaded.signatures["serving_default"]
    assert set(loaded.signatures) == signatures
    if not model.card.options["include_top"]:
        assert list(serving.structured_outputs) == ["features"]
        assert not (path / "assets/labels.txt").exists()
    if options.get("spatial_squeeze") is False:
        assert serving.structured_outputs["probabilities"].shape.rank == 4
    if options.get("classes") == 1001:
        assert (path / "assets/labels.txt").read_text("utf-8").splitlines() == imagenet_labels()
        images = np.ones((1, 180, 250, 3), "float32")
        answer = serving(images=images)
        assert close(answer["logits"], model(images))
        assert close(answer["probabilities"], tf.nn.softmax(model(images)))


def test_sixteen_bits(tmp_path, checked_here):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = create_model("lenet", classes=3)
    finally:
        keras.config.set_dtype_policy(policy)
    assert "bfloat16" in {layer.compute_dtype for layer in model.layers}
    path = save_savedmodel(model, tmp_path / "export")
    loaded = tf.saved_model.load(str(path))
    outputs = [signature.structured_outputs for signature in loaded.signatures.values()]
    assert {spec.dtype for specs in outputs for spec in specs.values()} == {tf.float32, tf.string}


@pytest.mark.parametrize(("precision", "limit"), [("float16", 1e-2), ("bfloat16", 8e-2)])
def test_half_the_size(lenet, tmp_path, precision, limit, checked_here):
    path = save_savedmodel(lenet, tmp_path / "half", precision=precision)
    loaded = tf.saved_model.load(str(path))
    assert {weight.dtype for weight in loaded.weights.values()} == {tf.dtypes.as_dtype(precision)}
    assert sum(file.stat().st_size for file in (path / "variables").iterdir()) < 2.05 * lenet.count_params()
    images = deterministic_images(5, 28, 28, 1)
    answers = loaded.signatures["serving_default"](images=tf.constant(images))
    assert {answer.dtype for answer in answers.values()} == {tf.float32}
    wanted = lenet.predict_on_batch(images)
    difference = np.abs(answers["probabilities"] - wanted).max()
    assert 1e-6 < difference <= limit * wanted.max()  # it did compute in that type
    card = json.loads((path / "assets.extra/inception_tf.json").read_text())
    assert card["export"]["precision"] == precision and card["export"]["verification"]["tolerance"] == limit


@pytest.mark.slow
def test_full_size(tmp_path):
    model = create_model("inception_v3")
    assert export_savedmodel(model, tmp_path) == tmp_path / "1"


# Versions, and writing whole. LeNet, whose preprocessing has one channel, keeps these short.


def test_next_version(lenet, tmp_path, monkeypatch):
    for name in ("2", "007", ".export.9", "12.old", "latest", "-20"):
        (tmp_path / name).mkdir()
    (tmp_path / "30").touch()  # a file, but a name that is taken
    path = export_savedmodel(lenet, tmp_path, check=False)
    assert path == tmp_path / "31"
    assert json.loads((path / "assets.extra/inception_tf.json").read_text())["network"] == "lenet"
    monkeypatch.setattr(SavedModelFormat, "write", lambda self, export, path: path.mkdir())
    assert export_savedmodel(lenet, tmp_path / "new" / "er", check=False) == tmp_path / "new" / "er" / "1"


def test_many_exports_at_once_while_a_server_polls(model, tmp_path, monkeypatch):
    def write(self, export, path):
        (path / "variables").mkdir(parents=True)
        (path / "saved_model.pb").touch()

    done, seen = threading.Event(), []

    def poll():
        while not done.is_set():
            seen.extend((v.name, (v / "saved_model.pb").exists()) for v in tmp_path.iterdir() if v.name.isdigit())

    monkeypatch.setattr(SavedModelFormat, "write", write)
    server = threading.Thread(target=poll)
    server.start()
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: export_savedmodel(model, tmp_path), range(40)))
    done.set()
    server.join()
    assert {path.name for path in paths} == {str(i) for i in range(1, 41)}
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}
    assert seen and all(whole for _, whole in seen)


def test_save_replaces_only_when_asked(lenet, tmp_path):
    path = save_savedmodel(lenet, tmp_path / "a" / "lenet", check=False)
    before = (path / "saved_model.pb").read_bytes()
    with pytest.raises(UsageError, match="exists"):
        save_savedmodel(lenet, path, check=False)
    assert (path / "saved_model.pb").read_bytes() == before
    save_savedmodel(lenet, path, overwrite=True, labels=list("abcdefghij"), check=False)
    assert (path / "assets/labels.txt").read_text() == "\n".join("abcdefghij") + "\n"
    assert os.listdir(path.parent) == ["lenet"]


def test_wrong_use(lenet, model, tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError, match="not a directory"):
        export_savedmodel(lenet, file)
    with pytest.raises(ExportError, match="Cannot write to .*Not a directory"):
        export_savedmodel(lenet, file / "below")
    (tmp_path / "1").mkdir()
    (tmp_path / "1/saved_model.pb").touch()
    with pytest.raises(UsageError, match="is a SavedModel itself"):
        export_savedmodel(lenet, tmp_path / "1")
    with pytest.raises(UsageError, match="7 classes.*background class.*Received: 6 labels"):
        export_savedmodel(model, tmp_path, labels=model.card.labels[:6])
    with pytest.raises(UsageError, match="a line of text"):
        export_savedmodel(lenet, tmp_path, labels=["two\nlines", *"bcdefghij"])
    with pytest.raises(UsageError, match="no classifier"):
        headless = create_model("lenet", include_top=False)
        export_savedmodel(headless, tmp_path, labels=["a"])
    with pytest.raises(UsageError, match="Received: Sequential"):
        export_savedmodel(keras.Sequential(), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["1", "file"]


# The check must be able to fail.


def test_a_mismatch_leaves_nothing(lenet, tmp_path, monkeypatch):
    save = tf.saved_model.save

    def save_other(servable, *args):
        kernel = servable.weights["fc4/kernel"]
        value = kernel.numpy()
        kernel.assign(value * 1.001)
        save(servable, *args)
        kernel.assign(value)

    monkeypatch.setattr(tf.saved_model, "save", save_other)
    with pytest.raises(ExportError, match="serving_default/(logits|probabilities) differs from the Keras model's by"):
        export_savedmodel(lenet, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "wrong",
    ["features", *(pytest.param(w, marks=pytest.mark.slow) for w in ("order of labels", "preprocessing", "top"))],
)
def test_mismatches_are_named(lenet, tmp_path, monkeypatch, checked_here, wrong):
    names = [f"class {i}" for i in range(10)]
    path = save_savedmodel(lenet, tmp_path / "export", check=False)
    check_savedmodel(lenet, path, names)
    if wrong == "order of labels":
        with pytest.raises(ExportError, match="predict_image_bytes/scores gives 'class "):
            check_savedmodel(lenet, path, names[::-1])
    elif wrong == "preprocessing":
        monkeypatch.setattr(Preprocessing, "__call__", lambda *_: np.zeros((2, 28, 28, 1), "float32"))
        with pytest.raises(ExportError, match="predict_image_bytes/scores differs"):
            check_savedmodel(lenet, path, names)
    elif wrong == "top":
        with pytest.raises(ExportError, match=r"scores is float32 \(2, 5\), .* float32 \(2, 4\)"):
            check_savedmodel(lenet, path, names, top=4)
    else:
        monkeypatch.setattr(type(lenet), "features", property(lambda model: model.outputs[0]))
        with pytest.raises(ExportError, match="features/features is"):
            check_savedmodel(lenet, path, names)


def test_broken_weights_are_reported(tmp_path, checked_here):
    model = create_model("lenet", classes=3)
    model.get_layer("conv1").kernel.assign(np.full((5, 5, 1, 32), np.nan))
    with pytest.raises(ExportError, match="own .* holds NaN"):
        save_savedmodel(model, tmp_path / "export")
    assert os.listdir(tmp_path) == []
