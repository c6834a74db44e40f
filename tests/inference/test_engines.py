"""One classifier in every form that `classify` takes; and what the forms without TensorFlow import."""

import dataclasses
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from inception_tf.errors import CheckpointError, UsageError
from inception_tf.exports.formats import export
from inception_tf.inference.classify import classify
from inception_tf.inference.engines import Engine, ExportedEngine, KerasEngine, open_engine
from inception_tf.inference.runtimes import RUNTIMES, export_card
from inception_tf.models.card import SAVED_MODEL_CARD, read_card
from inception_tf.slim.golden import deterministic_images, deterministic_weights
from inception_tf.slim.names import model_variables, scoped
from inception_tf.zoo import EXPORTED, create_model

FORMS = {
    "litert": ("digits.tflite", "ai_edge_litert"),
    "onnx": ("digits.onnx", "onnxruntime"),
    "openvino": ("digits.xml", "openvino"),
}
NAMES = [f"Ziffer {i} – 数" for i in range(10)]

# Runs a command where neither TensorFlow nor Keras can be imported.
WITHOUT = """
import sys
from inception_tf.cli.main import main
blocked = ("tensorflow", "keras", "tf_keras", "tf_slim")
assert not set(blocked) & set(sys.modules)
sys.modules.update(dict.fromkeys(blocked))
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def model():
    model = create_model("lenet")
    for name, variable in model_variables(model).items():
        variable.assign(deterministic_weights(scoped("LeNet", name), variable.shape))
    model.card = dataclasses.replace(model.card, labels=NAMES)
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """A function from a format to its file, written once."""
    folder, files = tmp_path_factory.mktemp("forms"), {}

    def file(form):
        name, module = FORMS[form]
        pytest.importorskip(module, reason=f"{module} is not installed")
        if form not in files:
            files[form] = export(model, folder / name, form)
        return files[form]

    return file


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    """A directory of versions of a SavedModel."""
    return export(model, tmp_path_factory.mktemp("served") / "digits", check=False).parent


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("photographs")
    for i, pixels in enumerate(deterministic_images(5, 40, 32)):
        Image.fromarray(np.uint8((pixels + 1) * 127.5)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("form", FORMS)
def test_every_form_answers_as_the_keras_model(model, exported, photographs, form):
    engine = open_engine(exported(form))
    assert isinstance(engine, ExportedEngine) and engine.labels == NAMES
    assert engine.preprocessing == KerasEngine(model).preprocessing
    wanted, _ = classify(KerasEngine(model), photographs)
    found, failures = classify(engine, photographs, batch=2)
    assert not failures and list(found) == photographs
    for path in photographs:  # PNGs are decoded alike by Pillow and TensorFlow
        assert [name for _, name, _ in found[path]] == [name for _, name, _ in wanted[path]]
        assert np.allclose([score for *_, score in found[path]], [score for *_, score in wanted[path]], atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_threads_share_an_engine(exported, form):
    engine, images = open_engine(exported(form)), deterministic_images(3, 28, 28, 1)
    wanted = engine(images)
    with ThreadPoolExecutor(4) as pool:
        for count, found in enumerate(pool.map(lambda count: engine(images[: count % 3 + 1]), range(60))):
            assert np.allclose(found, wanted[: count % 3 + 1], atol=1e-6)


@pytest.mark.parametrize("form", ["litert", "onnx"])
def test_openvino_runs_the_others(model, exported, photographs, form):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    engine = open_engine(exported(form), openvino=True)
    images = engine.preprocessing(photographs)
    assert np.allclose(engine(images), KerasEngine(model)(images), atol=1e-5)


@pytest.mark.parametrize("openvino", [False, True])
def test_a_savedmodel(model, served, photographs, openvino):
    if openvino:
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    engine = open_engine(served, openvino=openvino)
    assert engine.labels == NAMES and engine.preprocessing == KerasEngine(model).preprocessing
    assert np.allclose(engine(engine.preprocessing(photographs)), KerasEngine(model)(engine.preprocessing(photographs)))


@pytest.mark.parametrize("form", [*FORMS, "savedmodel"])
@pytest.mark.parametrize("command", ["classify", "evaluate"])
def test_the_commands_need_neither_tensorflow_nor_keras(exported, served, photographs, tmp_path, form, command):
    if form == "savedmodel":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
        arguments = [str(served), "--openvino", "--json"]
    else:
        arguments = [str(exported(form)), "--json"]
    if command == "classify":
        arguments += map(str, photographs)
    else:
        for path in photographs:
            folder = tmp_path / NAMES[int(path.stem)]
            folder.mkdir()
            (folder / path.name).write_bytes(path.read_bytes())
        arguments += ["--data", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", WITHOUT, command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    data = json.loads(done.stdout)
    assert len(data["images"]) == 5 if command == "classify" else data["images"] == 5


def test_a_bad_photograph_is_named(exported, photographs, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    results, failures = classify(open_engine(exported("litert")), [bad, *photographs, tmp_path / "none.png"])
    assert list(results) == photographs and list(failures) == [bad, tmp_path / "none.png"]


def test_a_model_in_memory(model, photographs):
    assert classify(model, photographs) == classify(KerasEngine(model), photographs)


def test_every_runtime_is_reached_by_its_suffix():
    assert set(RUNTIMES) == set(EXPORTED)


def test_files_of_others(tmp_path, model):
    for name in ("a.tflite", "a.onnx", "a.xml"):
        (tmp_path / name).write_bytes(b"what is this?")
        with pytest.raises(CheckpointError, match=name):
            open_engine(tmp_path / name)
        with pytest.raises(CheckpointError, match="no model"):
            open_engine(tmp_path / f"none{name}")
    model.save(tmp_path / "a.keras")
    with pytest.raises(UsageError, match="OpenVINO runs"):
        open_engine(tmp_path / "a.keras", openvino=True)


def test_a_backbone_is_no_classifier(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    backbone = create_model("lenet", include_top=False, pooling="avg", input_shape=(28, 28, 1))
    path = export(backbone, tmp_path / "backbone.tflite", "litert")
    with pytest.raises(UsageError, match="no classifier"):
        open_engine(path)


@pytest.mark.parametrize("activation", [None, "linear", "sigmoid"])
def test_a_keras_model_answers_probabilities(model, photographs, activation):
    other = create_model("lenet", classifier_activation=activation)
    other.set_weights(model.get_weights())
    engine = KerasEngine(other)
    images = engine.preprocessing(photographs)
    logits = np.log(model.predict_on_batch(images))  # but for a constant
    answers = engine(images)
    if activation == "sigmoid":
        odds = np.log(answers / (1 - answers))
        assert np.allclose(np.diff(odds), np.diff(logits), atol=1e-4)
    else:
        assert np.allclose(np.log(answers), logits, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_the_card_alone(exported, tmp_path, form):
    path = exported(form)
    assert export_card(path) == RUNTIMES[path.suffix](path).card
    upper = tmp_path / path.name.upper()
    shutil.copy(path, upper)
    if form == "openvino":
        shutil.copy(path.with_suffix(".bin"), upper.with_suffix(".bin"))
    assert export_card(upper) and open_engine(upper).labels == NAMES


def test_openvino_says_that_the_weights_are_missing(exported, tmp_path):
    shutil.copy(exported("openvino"), tmp_path)
    with pytest.raises(CheckpointError, match="digits.xml cannot be run by OpenVINO: .*bin file"):
        open_engine(tmp_path / "digits.xml")


def test_openvino_refuses_integers(model, photographs, tmp_path):
    for module in ("openvino", "ai_edge_litert"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    options = {"precision": "int8", "calibrate": photographs, "full_integer": True}
    path = export(model, tmp_path / "digits.tflite", "litert", **options)
    assert open_engine(path).labels == NAMES
    with pytest.raises(UsageError, match="takes i8, .*leave --openvino"):
        open_engine(path, openvino=True)


def test_names_of_a_savedmodel_come_back_as_they_were(model, tmp_path):
    names = ["1:a", "0:b", "same", "same", " blank ", *"fghij"]
    path = export(model, tmp_path / "odd", labels=names, check=False)
    assert open_engine(path).labels == names
    (path / SAVED_MODEL_CARD).write_text(dataclasses.replace(read_card(path), labels=None).to_json())
    (path / "assets/labels.txt").write_text("".join(f"{name}\n" for name in NAMES), "utf-8")
    assert open_engine(path).labels == NAMES  # an export of a version whose cards had no labels


def test_a_savedmodel_of_other_channels_is_no_classifier_of_images(tmp_path):
    path = export(create_model("lenet", input_shape=(28, 28, 4)), tmp_path / "four", check=False)
    with pytest.raises(UsageError, match="no classifier of images"):
        open_engine(path)


@pytest.mark.parametrize("compiles, last", [(True, 3), (False, 2)])
def test_the_last_batch_is_padded_where_another_size_is_compiled(model, photographs, compiles, last):
    sizes = []

    class Counting(Engine):
        def __call__(self, images):
            sizes.append(len(images))
            return np.full((len(images), 10), 0.1, np.float32)

    engine = Counting("counting", model.card)
    engine.compiles = compiles
    results, _ = classify(engine, photographs, batch=3)
    assert (list(results), sizes) == (photographs, [3, last])


def test_scores_that_are_not_finite_fail_their_image_alone(model, photographs):
    class Broken(Engine):
        def __call__(self, images):
            scores = np.full((len(images), 10), 0.1, np.float32)
            scores[:bad, 3] = [np.nan, np.inf][:bad]
            return scores

    engine, bad = Broken("broken", model.card), 1
    results, failures = classify(engine, photographs, batch=3)
    assert failures == {photographs[0]: "its scores are not finite", photographs[3]: "its scores are not finite"}
    assert list(results) == [photographs[i] for i in (1, 2, 4)]
    bad = 2
    with pytest.raises(CheckpointError, match="to every image"):
        classify(engine, photographs[:2])
