"""`.tflite`, `.onnx` and OpenVINO's files, each run by its own engine, asked without this library."""

import dataclasses
import json
import warnings
import zipfile

import numpy as np
import pytest
from random_weights import randomized

from inception_tf import files
from inception_tf.errors import CheckpointError, ExportError, ImageError, UsageError
from inception_tf.exports.formats import export, implementation
from inception_tf.exports.litert import LiteRTFormat, to_litert
from inception_tf.exports.onnx import to_onnx
from inception_tf.exports.openvino import to_openvino
from inception_tf.exports.portable import noise_images
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.inference.engines import open_engine
from inception_tf.inference.runtimes import RUNTIMES, LiteRT, OpenVino, export_card
from inception_tf.slim.golden import deterministic_images
from inception_tf.zoo import create_model

NAMES = [f"digit {i}" for i in range(10)]


def run_litert(path, images):
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(str(path))
    (given,), (result,) = network.get_input_details(), network.get_output_details()
    network.resize_tensor_input(given["index"], images.shape)
    network.allocate_tensors()
    network.set_tensor(given["index"], images)
    network.invoke()
    return network.get_tensor(result["index"])


def run_onnx(path, images):
    import onnx
    import onnxruntime

    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"images": images})
    return probabilities


def run_openvino(path, images):
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled({"images": images})["probabilities"]


# The suffix, what runs it, and what it needs.
FORMATS = {
    "litert": (".tflite", run_litert, ["ai_edge_litert"]),
    "onnx": (".onnx", run_onnx, ["onnx", "onnxruntime", "tf2onnx"]),
    "openvino": (".xml", run_openvino, ["openvino"]),
}
ALL = pytest.mark.parametrize("format", FORMATS)


def write(model, folder, format, name="digits", **options):
    """Exports to a file of that name in a folder."""
    for package in FORMATS[format][2]:
        pytest.importorskip(package, reason=f"{package} is not installed")
    return export(model, folder / (name + FORMATS[format][0]), format, **options)


def size(path):
    return (path.with_suffix(".bin") if path.suffix == ".xml" else path).stat().st_size


def bytes_a_weight(operation):
    """Of an OpenVINO convolution or matrix product."""
    node = operation.input_value(1).get_node()
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node.get_element_type().size


@pytest.fixture(scope="module")
def images():
    return deterministic_images(5, 28, 28, 1)


@ALL
def test_it_holds_the_weights_and_answers_as_the_model(lenet, tmp_path, images, format):
    path = write(lenet, tmp_path, format, labels=NAMES)
    wanted = lenet.predict_on_batch(images)
    assert np.abs(FORMATS[format][1](path, images) - wanted).max() <= 1e-5 * wanted.max()
    assert size(path) > 4 * lenet.count_params()
    assert {file.suffix for file in tmp_path.iterdir()} == {path.suffix, *([".bin"] if format == "openvino" else [])}
    card = RUNTIMES[path.suffix](path).card
    assert card.labels == NAMES and card.preprocessing["kind"] == "lenet" and card.preprocessing["size"] == [28, 28]
    assert card.export["format"] == format and card.export["precision"] == "float32" and card.export["fuse"]
    found = card.export["verification"]
    assert found["difference"] <= found["tolerance"] == 1e-5 and found["compared"].endswith("on noise")


@ALL
def test_float16_is_half_the_size(lenet, tmp_path, images, format):
    path = write(lenet, tmp_path, format, precision="float16")
    assert size(path) < 0.52 * 4 * lenet.count_params() + 10_000
    assert np.abs(FORMATS[format][1](path, images) - lenet.predict_on_batch(images)).max() < 1e-2


@ALL
def test_a_batch_of_its_own_takes_any_number(lenet, tmp_path, images, format):
    network = RUNTIMES[FORMATS[format][0]](write(lenet, tmp_path, format, batch=2))
    assert network.batch == 2 and network.card.export["batch"] == 2
    wanted = lenet.predict_on_batch(images)
    assert np.abs(network(images) - wanted).max() <= 1e-5 * wanted.max()


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("litert", {}),
        ("litert", {"full_integer": True}),
        ("onnx", {}),
        pytest.param("openvino", {"batch": 3}, marks=pytest.mark.slow),  # NNCF takes seconds to import
    ],
)
def test_int8(lenet, tmp_path, photographs, capfd, format, options):
    if format == "openvino":
        pytest.importorskip("nncf", reason="NNCF is not installed")
    held_out = [photographs / f"{i:02}.png" for i in range(5)]
    options |= {"precision": "int8", "calibrate": photographs, "held_out": held_out, "features": True}
    with pytest.warns(UserWarning, match="1 of 13 images could not be read"):
        path = write(lenet, tmp_path, format, **options)
    assert capfd.readouterr() == ("", "")  # the quantizers show their progress there
    assert size(path) < 0.3 * 4 * lenet.count_params()
    network, images = RUNTIMES[path.suffix](path), preprocessing_of(lenet)(held_out)
    wanted, got = lenet.predict_on_batch(images), network(images)
    change, facts = np.abs(got - wanted).max(), network.card.export
    found = facts["verification"]
    assert 1e-6 < change < 0.1 and found["worst_score_change"] == pytest.approx(change, abs=1e-6)
    assert facts["calibration_images"] == 12 and not facts["fuse"] and network.batch == options.get("batch")
    assert found["images"] == found["calibrated_on"] == 5 and not found["held_out"]
    assert found["top1_agreement"] == (got.argmax(1) == wanted.argmax(1)).mean()
    if format == "onnx":
        assert np.array_equal(run_onnx(path, images), got)
        nodes = pytest.importorskip("onnx").load(path).graph.node
        integers = {output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output}
        products = [node for node in nodes if node.op_type in ("Conv", "MatMul")]
        assert [node.input[1] in integers for node in products] == [False, False, True, False]
    if format == "openvino":
        operations = pytest.importorskip("openvino").Core().read_model(path).get_ordered_ops()
        products = [one for one in operations if one.get_type_name() in ("Convolution", "MatMul")]
        assert [bytes_a_weight(one) for one in products] == [4, 1, 1, 4]
    if format == "litert":
        interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(path))
        assert interpreter.get_input_details()[0]["dtype"] == (np.int8 if "full_integer" in options else np.float32)
    vectors, wanted = open_engine(path).embed(images), open_engine(lenet).embed(images)
    moved = (abs(vectors - wanted).sum(1) / (abs(vectors) + abs(wanted)).sum(1)).mean()
    assert vectors.dtype == np.float32 and 1e-6 < moved < 0.05 and moved <= found["difference"] * 1.01


def test_other_tools_find_labels_and_card(lenet, tmp_path):
    with zipfile.ZipFile(write(lenet, tmp_path, "litert", labels=NAMES, check=False)) as archive:
        assert archive.read("labels.txt").decode().splitlines() == NAMES
        assert json.loads(archive.read("inception_tf.json"))["labels"] == NAMES
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    network = onnx.load(write(lenet, tmp_path, "onnx", batch=2, check=False))
    card = json.loads({prop.key: prop.value for prop in network.metadata_props}["inception_tf"])
    assert card["labels"] == [f"class {i}" for i in range(10)]
    assert network.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2


def test_a_file_that_answers_otherwise_is_not_written(lenet, tmp_path, monkeypatch):
    convert, other = LiteRTFormat.convert, randomized(create_model("lenet", classes=10), seed=1)

    def of_another(self, export):
        object.__setattr__(export, "model", other)
        try:
            return convert(self, export)
        finally:
            object.__setattr__(export, "model", lenet)

    monkeypatch.setattr(LiteRTFormat, "convert", of_another)
    with pytest.raises(ExportError, match="probabilities on noise differs from the Keras model's"):
        write(lenet, tmp_path, "litert")
    assert not list(tmp_path.iterdir())


def test_wrong_use(lenet, tmp_path, photographs):
    for function, suffix in (to_litert, ".tflite"), (to_onnx, ".onnx"), (to_openvino, ".xml"):
        with pytest.raises(UsageError, match=f"ends in {suffix}"):
            function(lenet, tmp_path / "model")
    target = tmp_path / "a.tflite"
    with pytest.raises(UsageError, match="There are 10 classes"):
        to_litert(lenet, target, labels=["one"])
    with pytest.raises(ImageError, match="Not one of 1 images"):
        to_litert(lenet, target, precision="int8", calibrate=photographs / "broken.png")
    with pytest.raises(UsageError, match="no such|No such"):
        to_litert(lenet, target, precision="int8", calibrate=tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())
    target.mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        to_litert(lenet, target, overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.tflite"]


def test_damaged_files(lenet, tmp_path):
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(write(lenet, tmp_path, "litert", check=False).read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be run by LiteRT"):
        LiteRT(cut)


# OpenVINO's are two files.


def test_neither_file_is_replaced_unasked(lenet, tmp_path):
    weights = tmp_path / "digits.bin"
    weights.write_text("mine")
    with pytest.raises(UsageError, match="digits.bin exists"):
        write(lenet, tmp_path, "openvino")
    assert [file.name for file in tmp_path.iterdir()] == ["digits.bin"]
    weights.unlink()
    weights.mkdir()
    with pytest.raises(UsageError, match="digits.bin is a directory"):
        write(lenet, tmp_path, "openvino", overwrite=True)


def test_a_killed_replacement_leaves_no_mixed_pair(lenet, tmp_path, monkeypatch):
    target, replace = tmp_path / "Digits.XML", files.replace
    for old in (target, target.with_suffix(".bin")):
        old.write_text("old")

    def killed(source, target):
        replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "replace", killed)
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    with pytest.raises(KeyboardInterrupt):
        to_openvino(lenet, target, check=False, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["Digits.bin"]


def test_a_full_disk_is_reported(lenet, tmp_path, monkeypatch):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")

    def full(*_, **__):
        raise RuntimeError("Exception from src/core/src/pass/serialize.cpp:1:\nNo space left.")

    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.raises(ExportError, match=r"OpenVINO cannot write .*digits.xml: No space left\."):
        write(lenet, tmp_path, "openvino")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def in_bfloat16(lenet, tmp_path_factory):
    """The path of an OpenVINO export of bfloat16."""
    pytest.importorskip("openvino")
    path = tmp_path_factory.mktemp("bfloat16") / "lenet.xml"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a processor without instructions for it
        return to_openvino(lenet, path, precision="bfloat16")


def test_openvino_computes_in_the_precision_of_the_card(lenet, in_bfloat16):
    """As OpenVINO itself with that hint, and not as with another."""
    import openvino

    core, images = openvino.Core(), noise_images(lenet)
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no instructions for bfloat16")
    bf16, f32 = (
        core.compile_model(in_bfloat16, "CPU", {"INFERENCE_PRECISION_HINT": hint})(images)["probabilities"]
        for hint in ("bf16", "f32")
    )
    engine = open_engine(in_bfloat16)
    assert np.array_equal(engine(images), bf16) and not np.array_equal(bf16, f32)
    assert engine.card.export["precision"] == engine.card.export["verification"]["computed_in"] == "bfloat16"


def test_openvino_on_a_processor_without_bfloat16(lenet, in_bfloat16, monkeypatch):
    import openvino

    class Old(openvino.Core):
        def get_property(self, device, name):
            return ["FP32"] if name == "OPTIMIZATION_CAPABILITIES" else super().get_property(device, name)

    monkeypatch.setattr(openvino, "Core", Old)
    with pytest.warns(UserWarning, match="this processor has no instructions for"):
        found = OpenVino(in_bfloat16)
    assert found.computes == "float32"
    assert np.array_equal(found(noise_images(lenet)), run_openvino(in_bfloat16, noise_images(lenet)))


@ALL
def test_another_card_changes_nothing_else(format, lenet, tmp_path):
    suffix, run, packages = FORMATS[format]
    for package in packages:
        pytest.importorskip(package)
    path = export(lenet, tmp_path / f"lenet{suffix}", format, labels=NAMES, check=False)
    images, card = noise_images(lenet), export_card(path)
    before, form = run(path, images), implementation(format)
    form.replace_card(path, dataclasses.replace(card, export={**card.export, "note": 'Löwenzahn <&"> \n'}))
    assert export_card(path).export == {**card.export, "note": 'Löwenzahn <&"> \n'}
    assert np.array_equal(run(path, images), before)
    if format == "litert":
        with zipfile.ZipFile(path) as archive:
            assert sorted(archive.namelist()) == ["inception_tf.json", "labels.txt"]
    placed = form.place(path, tmp_path / "there" / f"placed{suffix}")
    assert not path.exists() and np.array_equal(open_engine(placed)(images), before)
