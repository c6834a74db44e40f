"""`pipeline`: one classifier in every form, called on whatever holds images."""

import dataclasses

import keras
import numpy as np
import pytest
from PIL import Image

import inception_tf as itf
from inception_tf.errors import ImageError, UsageError
from inception_tf.exports.formats import export
from inception_tf.inference.classify import classify
from inception_tf.slim.golden import deterministic_weights
from inception_tf.slim.names import model_variables, scoped

FORMS = {
    "litert": ("flowers.tflite", "ai_edge_litert"),
    "onnx": ("flowers.onnx", "tf2onnx"),
    "openvino": ("flowers.xml", "openvino"),
}
BODIES = {"body": "savedmodel", "body.tflite": "litert"}
NAMES = ["<daisy>", "rose", "tulip"]


@pytest.fixture(scope="module")
def model():
    model = itf.create_model("lenet", classes=3)
    for name, variable in model_variables(model).items():
        variable.assign(deterministic_weights(scoped("LeNet", name), variable.shape))
    model.card = dataclasses.replace(model.card, labels=NAMES)
    return model


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for i in range(5):
        noise = Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8)).resize((80, 96))
        noise.save(folder / f"{i}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    path = tmp_path_factory.mktemp("bad") / "bad.png"
    path.write_bytes(b"no image")
    return path


@pytest.fixture(scope="module")
def prelogits(model, photographs):
    """What Keras gives of the layer before the classifier."""
    images = np.concatenate([itf.preprocess_input(str(path), model=model) for path in photographs])
    layers = keras.Model(model.inputs[0], itf.end_points(model)["fc3"])
    return layers.predict(images, verbose=0)


def test_whatever_holds_an_image(model, photographs, bad):
    pipe, path = itf.pipeline(model, top=2, batch=4), photographs[0]
    assert pipe.card is model.card and pipe.labels == NAMES
    ((wanted, *_),) = classify(model, [path], top=2)[0].values()
    alike = [str(path), path.read_bytes(), np.asarray(Image.open(path)), Image.open(path)]
    for image in (path, *alike):
        best = pipe(image)
        assert len(best) == 2 and best[0].score >= best[1].score and best.error is None
        assert (best[0].index, best[0].name) == wanted[:2] and best[0].score == pytest.approx(wanted[2], abs=1e-6)
    mixed = pipe([path, *alike, bad, None, np.zeros((3, 3, 7)), photographs[1]])
    assert isinstance(mixed, list) and [bool(one.error) for one in mixed] == [False] * 5 + [True] * 3 + [False]
    assert mixed[5].source == str(bad) and mixed[5] == [] and "no image" in mixed[5].error
    assert {one[0].name for one in mixed[:5]} == {wanted[1]} and mixed[8].source == str(photographs[1])
    assert [one[0] for one in pipe(path.parent)] == [one[0] for one in pipe(photographs)]
    stack = np.stack([np.asarray(Image.open(path)) for path in photographs])
    assert [one[0].index for one in pipe(stack)] == [one[0].index for one in pipe(photographs)]
    for alone in (bad, None, b"no image", path.parent / "none.png"):
        with pytest.raises(ImageError):
            pipe(alone)
    with pytest.raises(UsageError, match="empty"):
        pipe([])


def test_gray_alpha_and_palette(model, photographs):
    pipe, gray = itf.pipeline(model), Image.open(photographs[0]).convert("L")
    wanted = pipe(gray.convert("RGB"))
    assert pipe(gray) == pipe(np.asarray(gray)) == pipe(gray.convert("RGBA")) == pipe(gray.convert("P")) == wanted


def test_a_generator_streams(model, photographs):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield photographs[0]

    found = itf.pipeline(model, batch=2)(endless())
    assert not taken and next(found)[0].name in NAMES and len(taken) < 60
    found.close()
    assert [one.source for one in itf.pipeline(model)(iter(photographs))] == list(map(str, photographs))


def test_embed_of_keras(model, photographs, bad, prelogits):
    pipe = itf.pipeline(model, batch=2)
    vectors = pipe.embed(photographs)
    assert vectors.dtype == np.float32 and np.allclose(vectors, prelogits, atol=1e-6)
    assert pipe.embed(photographs[0]).shape == (1, vectors.shape[1])
    assert np.isnan(pipe.embed([bad, photographs[0]])).all(1).tolist() == [True, False]
    assert np.allclose(list(pipe.embed(iter(photographs))), prelogits, atol=1e-6)


@pytest.mark.parametrize("form", [*FORMS, "savedmodel"])
def test_exports_carry_features(model, photographs, prelogits, tmp_path, form):
    if form != "savedmodel":
        pytest.importorskip(FORMS[form][1])
    options = {"check": False} if form == "savedmodel" else {"features": True}
    path = export(model, tmp_path / FORMS.get(form, ["flowers"])[0], form, **options)
    pipe = itf.pipeline(path)
    assert np.allclose(pipe.embed(photographs), prelogits, atol=1e-5 * np.abs(prelogits).max())
    found, wanted = pipe(photographs), itf.pipeline(model)(photographs)
    assert [[one.name for one in best] for best in found] == [[one.name for one in best] for best in wanted]
    if form in ("litert", "onnx"):
        pytest.importorskip("openvino")
        other = itf.pipeline(path, openvino=True)
        assert np.allclose(other.embed(photographs), prelogits, atol=1e-4 * np.abs(prelogits).max())
        assert other(photographs)[0][0].score == pytest.approx(wanted[0][0].score, abs=1e-5)


def test_an_export_without_features_says_what_to_do(model, photographs, tmp_path):
    pytest.importorskip("ai_edge_litert")
    pipe = itf.pipeline(export(model, tmp_path / "a.tflite", "litert", check=False))
    with pytest.raises(UsageError, match="--features .features=True"):
        pipe.embed(photographs)
    with pytest.raises(UsageError, match="no option features"):
        export(model, tmp_path / "c", features=True)


def test_without_a_top(model, photographs, tmp_path):
    body = itf.create_model("lenet", include_top=False, input_shape=(28, 28, 1))
    body.set_weights(model.get_weights()[: len(body.weights)])
    images = np.concatenate([itf.preprocess_input(str(path), model=model) for path in photographs])
    wanted = keras.Model(model.inputs[0], itf.end_points(model)["pool2"]).predict(images, verbose=0).mean((1, 2))
    pytest.importorskip("ai_edge_litert")
    served, lite = (export(body, tmp_path / name, form, check=False) for name, form in BODIES.items())
    for pipe in map(itf.pipeline, (body, served, lite)):
        assert np.allclose(pipe.embed(photographs), wanted, atol=1e-5)
        with pytest.raises(UsageError, match="no classifier"):
            pipe(photographs)
    with pytest.raises(UsageError, match="already"):
        export(body, tmp_path / "b.tflite", "litert", features=True)


def test_html(model, photographs, bad):
    pipe = itf.pipeline(model)
    for shown in (pipe(photographs[0]), pipe([photographs[0], bad]), model.card):
        html = shown._repr_html_()
        assert html.startswith("<table>") and "&lt;daisy&gt;" in html and "<daisy>" not in html
    assert "error: " in pipe([bad])._repr_html_()
