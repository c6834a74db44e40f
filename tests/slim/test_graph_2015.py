"""The graph of 2015-12-05, of random weights, run by TensorFlow itself beside our network."""

import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from graph_2015 import write_graph_2015, write_state_dict

import inception_tf as itf
from inception_tf.cli.main import main
from inception_tf.errors import CheckpointError, DownloadError, UsageError
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.slim import catalogue
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.graph_2015 import LOGITS, MOVING, convolutions

SMALL = {"size": 107, "width": 0.1, "classes": 20}
NAMES = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return write_graph_2015(tmp_path_factory.mktemp("2015") / "classify_image_graph_def.pb", **SMALL)


@pytest.fixture(scope="module")
def model(graph):
    return itf.load_model(graph, input_shape=(107, 107, 3))


def test_the_names_are_those_of_the_ports(shared):
    text = (shared / "reference/graph_2015.md").read_text()
    pairs = [pair for pair in re.findall(r"^\| (\S+) \| (\S+) \|$", text, re.MULTILINE) if "---" not in pair[0]]
    assert len(pairs) == 94 and dict(pairs) == dict(convolutions().values())


def test_every_end_point_is_the_graphs(graph, model):
    report = itf.verify(graph, model)
    assert report and len(report.rows) == 23, report
    assert [row.end_point for row in report.rows][-4:] == [
        *("Logits", "Predictions", "DecodeJpeg to images", "DecodeJpeg to Predictions")
    ]
    with pytest.raises(UsageError, match="107×107.*images of 75×75"):
        itf.verify(graph, model, images=np.zeros((1, 75, 75, 3)))


def test_an_average_pool_in_the_last_block_is_noticed(graph, tmp_path, model):
    report = itf.verify(write_graph_2015(tmp_path / "average.pb", last_pool="AvgPool", **SMALL), model)
    failed = [row for row in report.rows if not row.passed]
    assert failed[0].end_point == "Mixed_7c" and failed[0].relative > 0.1


@pytest.mark.slow
def test_slims_own_graph_with_that_pool(model, tmp_path):
    """What was converted is verified too, by another original: TF-Slim's Inception-v3."""
    model.save(tmp_path / "m.keras")
    report = itf.verify(tmp_path / "m.keras", model)
    assert report and "TF-Slim" in report.reference and len(report.rows) == 22, report


def test_a_checkpoint_of_it_is_told_from_inception_v3(model, tmp_path):
    itf.save_slim(model, tmp_path / "model.ckpt")
    assert itf.detect(tmp_path / "model.ckpt").network == "inception_2015"
    itf.save_slim(model, tmp_path / "other.ckpt", scope="mine")
    assert itf.detect(tmp_path / "other.ckpt").network == "inception_v3"


@pytest.mark.slow
def test_a_scope_and_another_epsilon(graph, model, tmp_path):
    from tensorflow.compat.v1 import GraphDef

    scoped = write_graph_2015(tmp_path / "scoped.pb", scope="FID_Inception_Net/", **SMALL)
    checkpoint, plain = open_checkpoint(scoped), open_checkpoint(graph)
    assert "imported under FID_Inception_Net" in checkpoint.container
    assert all(np.array_equal(checkpoint[name], plain[name]) for name in {**checkpoint, **plain})
    changed = GraphDef.FromString(graph.read_bytes())
    for node in changed.node:
        if node.op == "BatchNormWithGlobalNormalization":
            node.attr["variance_epsilon"].f = 0.01
            node.attr["scale_after_normalization"].b = False
    (tmp_path / "other.pb").write_bytes(changed.SerializeToString())
    other = itf.load_model(tmp_path / "other.pb", input_shape=(107, 107, 3))
    assert itf.verify(tmp_path / "other.pb", other)


@pytest.mark.slow
def test_the_graph_of_retrain(tmp_path):
    """The head of retrain.py and its labels, through the command that converts."""
    graph = write_graph_2015(tmp_path / "output_graph.pb", head="final_result", **{**SMALL, "classes": 5})
    (tmp_path / "retrained_labels.txt").write_text("\n".join(NAMES) + "\n")
    assert main(["convert", str(graph), str(tmp_path / "m.keras"), "--size", "107"]) == 0
    assert itf.load_model(tmp_path / "m.keras").card.labels == NAMES


def test_the_ports_state_dict(tmp_path):
    """Of PyTorch's layout and names; without PyTorch, and whatever it holds, nothing but tensors is unpickled."""
    graph = open_checkpoint(write_graph_2015(tmp_path / "g.pb", **{**SMALL, "classes": 1008}))
    words = dict(zip(("gamma", "beta", *MOVING), ("weight", "bias", "running_mean", "running_var")))
    tensors = {"fc.weight": graph.tensor(LOGITS, "weights").T.copy(), "fc.bias": graph.tensor(LOGITS, "biases")}
    for scope, (_, module) in convolutions().items():
        tensors[f"{module}.conv.weight"] = graph.tensor(scope, "weights").transpose(3, 2, 0, 1).copy()
        tensors |= {f"{module}.bn.{theirs}": graph.tensor(scope, ours) for ours, theirs in words.items()}
        tensors[f"{module}.bn.num_batches_tracked"] = np.zeros((), "float32")
    found = open_checkpoint(write_state_dict(tmp_path / "port.pth", tensors))
    assert dict(found) and all(np.array_equal(found[name], graph[name]) for name in {**found, **graph})
    with pytest.raises(CheckpointError, match="posix.system|nt.system"):
        open_checkpoint(write_state_dict(tmp_path / "bad.pth", {**tensors, "x": os.system}))
    del tensors["Mixed_6b.branch7x7_2.bn.weight"]
    with pytest.raises(CheckpointError, match="lacks Mixed_6b.branch7x7_2.bn.weight"):
        open_checkpoint(write_state_dict(tmp_path / "short.pth", tensors))


@pytest.fixture(scope="module")
def archive(graph):
    with tarfile.open(graph.with_name("inception-2015-12-05.tgz"), "w:gz") as tar:
        tar.add(graph, f"./{graph.name}")
    return Path(tar.name)


def test_the_archive(archive, capsys):
    assert main(["inspect", str(archive), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["container"] == "frozen GraphDef of 2015-12-05 in a tar archive"
    assert (found["detection"]["network"], found["detection"]["classes"]) == ("inception_2015", 20)


@pytest.mark.slow
def test_the_archive_in_its_place(archive, tmp_path, monkeypatch):
    """It is the published network; from a mirror it must have the published size."""
    monkeypatch.setenv("INCEPTION_TF_MIRROR", str(archive.parent))
    monkeypatch.setenv("INCEPTION_TF_HOME", str(tmp_path / "home"))
    with pytest.raises(DownloadError, match=r"bytes, not 88,931,400.*\n.*inception_2015/inception-2015-12-05\.tgz"):
        itf.create_model("inception_2015", "imagenet")
    shutil.copy(archive, tmp_path / "home/inception_2015")
    assert itf.create_model("inception_2015", "imagenet").output_shape == (None, 20)


@pytest.mark.slow
def test_the_label_map_and_the_published_print(tmp_path, shared, monkeypatch):
    """With the archive's files beside it: names in the map's order, and what was printed of the panda is compared."""
    graph = write_graph_2015(tmp_path / "g.pb", **{**SMALL, "classes": 1008})
    (tmp_path / "imagenet_2012_challenge_label_map_proto.pbtxt").write_text(
        '# comment\nentry {\n  target_class: 169\n  target_class_string: "n02510455"\n}\n'
    )
    (tmp_path / "imagenet_synset_to_human_label_map.txt").write_text("n02510455\tgiant panda, panda\n")
    shutil.copy(shared / "data/images/grace_hopper.jpg", tmp_path / "cropped_panda.jpg")
    model = itf.load_model(graph, input_shape=(107, 107, 3))
    assert model.card.labels[168:170] == ["class 168", "giant panda, panda"] and len(model.card.labels) == 1008
    report = itf.verify(graph, model)
    assert report and "NOT AS PUBLISHED" in str(report)
    scores = np.sort(model.predict(Preprocessing("inception_2015", 107)(tmp_path / "cropped_panda.jpg"))[0])[::-1][:3]
    monkeypatch.setattr("inception_tf.slim.verify.PANDA_SCORES", tuple(scores))
    assert itf.verify(graph, model).notes[0].endswith(": as published.")


def test_damaged_graphs(graph, tmp_path):
    from tensorflow.compat.v1 import GraphDef

    def refused(change, match):
        changed = GraphDef.FromString(graph.read_bytes())
        change(changed)
        (tmp_path / "bad.pb").write_bytes(changed.SerializeToString())
        with pytest.raises(CheckpointError, match=match):
            dict(open_checkpoint(tmp_path / "bad.pb"))

    def without(name):
        def change(graph):
            kept = [node for node in graph.node if node.name != name]
            del graph.node[:]
            graph.node.extend(kept)

        return change

    def folded(graph):
        for node in graph.node:
            if node.op == "BatchNormWithGlobalNormalization":
                node.op = "Add"

    def cut(graph):
        (node,) = [node for node in graph.node if node.name == "mixed_4/conv/conv2d_params"]
        node.attr["value"].tensor.tensor_content = node.attr["value"].tensor.tensor_content[:-8]

    refused(without("mixed_4/conv/batchnorm/gamma"), "mixed_4/conv/batchnorm/gamma is missing")
    refused(folded, "BatchNormWithGlobalNormalization, is gone")
    refused(cut, "mixed_4/conv/conv2d_params cannot be read")
    (tmp_path / "cut.pb").write_bytes(graph.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "cut.pb")


def test_in_the_catalogue():
    published = catalogue.find("inception_2015", "imagenet")
    assert published.url.startswith("https://")
    assert published.url.endswith("/download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz")
    assert (published.archive, published.bytes, published.classes) == ("inception-2015-12-05.tgz", 88931400, 1008)


def test_a_strangers_graph_does_what_networks_do_alone(graph, tmp_path):
    from tensorflow.compat.v1 import GraphDef

    changed = GraphDef.FromString(graph.read_bytes())
    node = next(node for node in changed.node if node.name == "ResizeBilinear/size")
    changed.node.add(name="read", op="ReadFile", input=["path"])
    node.input.append("^read")
    changed.node.add(name="path", op="Placeholder")
    (tmp_path / "graph.pb").write_bytes(changed.SerializeToString())
    with pytest.raises(CheckpointError, match="ReadFile"):
        open_checkpoint(tmp_path / "graph.pb").run_file(b"")
