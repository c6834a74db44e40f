"""Frozen graphs, SavedModels and MetaGraphs, made of TF-Slim's graph by TensorFlow 1's own functions."""

import shutil
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from slim_files import build_slim, holds, read_tensors, write_tensors

import inception_tf as itf
from inception_tf.cli.main import main
from inception_tf.errors import CheckpointError
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.summary import summarize, summary_text

OUTPUT = "InceptionV3/Predictions/Reshape_1"


@pytest.fixture(scope="module")
def slim(slim_checkpoint, tmp_path_factory):
    """A small Inception-v3 as TensorFlow 1 leaves it behind.

    Attributes: checkpoint, a V2 prefix; values, its tensors; graph, the frozen GraphDef; frozen, its file; imported,
    the file of the same under an import scope; resource, the network's beginning frozen from resource variables;
    unfrozen, a GraphDef's file; saved_model, a directory; meta, a `.meta` beside its data.
    """
    import tensorflow.compat.v1 as tf

    files = SimpleNamespace(checkpoint=slim_checkpoint(), values=read_tensors(slim_checkpoint()))
    folder = tmp_path_factory.mktemp("containers")
    with tf.Graph().as_default() as graph, tf.Session() as session:
        with tf.variable_scope(tf.get_variable_scope(), use_resource=True):
            build_slim(include_top=False, final_endpoint="Mixed_5b")
        tf.train.Saver().restore(session, str(files.checkpoint))
        output = "InceptionV3/Mixed_5b/concat"
        frozen = tf.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), [output])
        files.resource = write(folder / "resource.pb", frozen)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        with tf.variable_scope(tf.get_variable_scope(), use_resource=False):
            build_slim()
        saver = tf.train.Saver()
        saver.restore(session, str(files.checkpoint))
        files.graph = tf.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), [OUTPUT])
        files.frozen = write(folder / "frozen.pb", files.graph)
        files.unfrozen = write(folder / "unfrozen.pb", graph.as_graph_def())
        files.saved_model = folder / "saved_model"
        images, output = graph.get_operations()[0].outputs[0], graph.get_tensor_by_name(f"{OUTPUT}:0")
        tf.saved_model.simple_save(session, str(files.saved_model), {"images": images}, {"scores": output})
        (folder / "meta").mkdir()
        saver.save(session, str(folder / "meta/model.ckpt"), 7)
        files.meta = folder / "meta/model.ckpt-7.meta"
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(files.graph, name="InceptionV3")
        files.imported = write(folder / "imported.pb", graph.as_graph_def())
    return files


def write(path, message):
    path.write_bytes(message.SerializeToString())
    return path


def copy(graph):
    copied = type(graph)()
    copied.CopyFrom(graph)
    return copied


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as raised:
        open_checkpoint(path)
    assert path.name in str(raised.value) and len(str(raised.value)) < 400 and "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["frozen", "resource", "imported"])
def test_a_frozen_graph(slim, kind):
    checkpoint = open_checkpoint(getattr(slim, kind))
    begin = ("InceptionV3/Conv", "InceptionV3/Mixed_5b") if kind == "resource" else ""
    assert holds(checkpoint, {name: value for name, value in slim.values.items() if name.startswith(begin)})
    assert checkpoint.container == "frozen GraphDef" + (", imported under InceptionV3" if kind == "imported" else "")
    assert checkpoint.prefix is None and checkpoint.step is None


def test_the_version_of_a_frozen_graph(slim, tmp_path):
    graph = copy(slim.graph)
    graph.versions.producer = 21
    assert open_checkpoint(write(tmp_path / "a.pb", graph)).written_by == "a TensorFlow of GraphDef version 21"


def test_a_frozen_graph_in_half_precision(slim, tmp_path):
    from tensorflow import make_tensor_proto

    graph = copy(slim.graph)
    for node in graph.node:
        if node.op == "Const" and node.name in slim.values:
            node.attr["value"].tensor.CopyFrom(make_tensor_proto(slim.values[node.name].astype("float16")))
    half = {name: value.astype("float16") for name, value in slim.values.items()}
    assert holds(open_checkpoint(write(tmp_path / "half.pb", graph)), half)


def test_a_saved_model(slim):
    import tensorflow as tf

    for path in (slim.saved_model, slim.saved_model / "saved_model.pb", slim.saved_model / "variables"):
        assert holds(open_checkpoint(path), slim.values)
    checkpoint = open_checkpoint(slim.saved_model)
    assert checkpoint.container == "SavedModel, variables in V2"
    assert checkpoint.written_by == f"TensorFlow {tf.__version__}"


def test_a_saved_model_of_a_frozen_graph(slim, tmp_path):
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.import_graph_def(slim.graph, name="import")
        tensors = {"x": graph.get_operations()[0].outputs[0]}
        tf.saved_model.simple_save(session, str(tmp_path / "m"), tensors, tensors)
    shutil.rmtree(tmp_path / "m/variables", ignore_errors=True)
    checkpoint = open_checkpoint(tmp_path / "m")
    assert holds(checkpoint, slim.values)
    assert checkpoint.container == "SavedModel of a frozen graph, imported under import"


def test_a_meta_graph_beside_the_data(slim):
    import tensorflow as tf

    checkpoint = open_checkpoint(slim.meta)
    assert holds(checkpoint, slim.values)
    assert (checkpoint.container, checkpoint.written_by) == ("V2", f"TensorFlow {tf.__version__}")
    assert open_checkpoint(slim.checkpoint).written_by is None


def test_a_meta_graph_alone_or_damaged(slim, tmp_path):
    shutil.copy(slim.meta, tmp_path)
    refused(tmp_path / slim.meta.name, r"without its weights: model\.ckpt-7\.index and its \.data files are missing")
    for file in slim.meta.parent.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / slim.meta.name).write_bytes(slim.meta.read_bytes()[:1000])
    checkpoint = open_checkpoint(tmp_path / slim.meta.name)
    assert checkpoint.written_by is None and len(checkpoint) == len(slim.values)


@pytest.mark.parametrize("kind", ["frozen", "saved_model"])
def test_in_archives_and_directories(slim, tmp_path, kind):
    source = getattr(slim, kind)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(source, f"nested/{source.name}")
    checkpoint = open_checkpoint(tmp_path / "a.tar.gz")
    assert holds(checkpoint, slim.values)
    assert checkpoint.container.endswith("in a tar archive") and checkpoint.path == tmp_path / "a.tar.gz"
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    folder = tmp_path / "nested" if kind == "frozen" else tmp_path / "nested/saved_model"
    assert holds(open_checkpoint(folder), slim.values)


def test_a_checkpoint_goes_before_what_was_made_of_it(slim, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(slim.saved_model, "export")
        tar.add(slim.frozen, "frozen.pb")
        tar.add(slim.meta.parent, "train")
    assert open_checkpoint(tmp_path / "a.tar").container == "V2 in a tar archive"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["imported", "saved_model"])
def test_verifies_and_loads(slim, kind):
    path = getattr(slim, kind)
    report = itf.verify(path, batch=1)
    assert report.passed and len(report.rows) > 20, report
    model = itf.create_model("inception_v3", weights=path)
    assert model.card.scope == "InceptionV3" and model.output_shape == (None, 5)


def test_converts_from_the_command_line(slim, tmp_path, capsys):
    assert main(["convert", str(slim.imported), str(tmp_path / "m.keras"), "--no-verify"]) == 0
    assert holds(open_checkpoint(tmp_path / "m.keras"), slim.values)
    assert main(["inspect", str(slim.imported)]) == 0
    out = capsys.readouterr().out
    assert "frozen GraphDef, imported under InceptionV3" in out and "a TensorFlow of GraphDef version" in out
    assert "inception_v3, sure: " in out


def stripped(graph):
    """Without the Identities that variables are read through, as strip_unused and optimize_for_inference leave it."""
    import tensorflow.compat.v1 as tf

    return tf.graph_util.remove_training_nodes(graph, protected_nodes=[OUTPUT])


def folded_by_tensorflow(graph):
    from tensorflow.python.tools.optimize_for_inference_lib import fold_batch_norms

    return fold_batch_norms(stripped(graph))


def folded_under_other_names(graph):
    """Every batch norm as a BiasAdd, with nothing in a name that tells of it."""
    folded = copy(graph)
    del folded.node[:]
    constants = {node.name: node for node in graph.node if node.op == "Const"}
    for node in graph.node:
        scope = node.name.partition("/BatchNorm/")[0]
        if "/BatchNorm/" not in node.name:
            folded.node.add().CopyFrom(node)
        elif "FusedBatchNorm" in node.op:
            beta = constants[f"{scope.removeprefix('InceptionV3/')}/BatchNorm/beta"]
            folded.node.add(name=f"{scope}/folded", op="Const").attr["value"].CopyFrom(beta.attr["value"])
            folded.node.add(name=f"{scope}/add", op="BiasAdd", input=[node.input[0], f"{scope}/folded"])
    for node in folded.node:
        node.input[:] = [
            f"{name.partition('/BatchNorm/')[0]}/add" if "/BatchNorm/" in name else name for name in node.input
        ]
    return folded


def test_a_frozen_graph_without_the_identities(slim, tmp_path):
    graph = stripped(slim.graph)
    assert not any(node.name.endswith("/read") for node in graph.node)
    assert holds(open_checkpoint(write(tmp_path / "stripped.pb", graph)), slim.values)


@pytest.mark.parametrize("fold", [folded_by_tensorflow, folded_under_other_names])
def test_a_folded_graph_is_refused(slim, tmp_path, fold):
    graph = fold(slim.graph)
    assert not any("moving_variance" in name for node in graph.node for name in node.input)
    refused(write(tmp_path / "folded.pb", graph), "its batch norm folded into the convolutions")


def test_a_graph_folded_into_variables_of_its_own_is_one_without_batch_norm(slim, tmp_path):
    values = {n.replace("BatchNorm/beta", "biases"): v for n, v in slim.values.items() if "moving_" not in n}
    assert itf.detect(write_tensors(tmp_path / "m.ckpt", values)).options["batch_norm"] is False


def test_a_network_without_batch_norm_is_not_taken_for_folded(tmp_path):
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default() as graph, tf.Session() as session:
        variables = build_slim("alexnet_v2", size=224)
        session.run(tf.global_variables_initializer())
        frozen = tf.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), ["alexnet_v2/fc8/squeezed"]
        )
        values = session.run({v.op.name: v for v in variables})
    checkpoint = open_checkpoint(write(tmp_path / "a.pb", frozen))
    assert holds(checkpoint, values)
    assert itf.detect(checkpoint).network == "alexnet_v2"


def test_quantized_graphs_are_refused(slim, tmp_path):
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default() as graph:
        x = tf.placeholder(tf.float32, (1, 8, 8, 3))
        tf.quantization.fake_quant_with_min_max_args(x)
    refused(write(tmp_path / "trained.pb", graph.as_graph_def()), "quantized graph.*FakeQuantWithMinMaxArgs")
    with tf.Graph().as_default() as graph:
        weights = tf.constant(np.zeros((3, 3, 3, 8), np.uint8), name="weights")
        tf.raw_ops.Dequantize(input=tf.bitcast(weights, tf.quint8), min_range=0.0, max_range=1.0)
    refused(write(tmp_path / "packed.pb", graph.as_graph_def()), "quantized graph.*Dequantize")


def test_graphs_without_their_weights_are_refused(slim, tmp_path):
    refused(slim.unfrozen, "graph without its weights: .* variables are not frozen")
    shutil.copytree(slim.saved_model, tmp_path / "a")
    shutil.rmtree(tmp_path / "a/variables")
    refused(tmp_path / "a", "graph without its weights")
    (tmp_path / "a/variables").mkdir()
    refused(tmp_path / "a", "There is no checkpoint")


def test_text_is_refused(slim, tmp_path):
    import tensorflow.compat.v1 as tf

    for name in ("graph.pb", "graph.pbtxt"):
        tf.train.write_graph(slim.graph, str(tmp_path), name, as_text=True)
        refused(tmp_path / name, "text")


def test_damaged_graphs_are_refused(slim, tmp_path):
    data = slim.frozen.read_bytes()
    first = type(slim.graph)(node=slim.graph.node[:1]).ByteSize()
    for end in (0, 1, 100, first, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.pb").write_bytes(data[:end])
        refused(tmp_path / "cut.pb", "no checkpoint|damaged|holds no tensors")
    for content in (b"<html></html>" * 100, bytes(1000), b"\x89PNG\r\n" * 100):
        (tmp_path / "other.pb").write_bytes(content)
        refused(tmp_path / "other.pb", "no checkpoint: other.pb is no GraphDef")
    graph = copy(slim.graph)
    del graph.node[20:]
    del graph.node[3]
    refused(write(tmp_path / "holes.pb", graph), "damaged or incomplete: .* reads .*, which is missing")
    graph = copy(slim.graph)
    name = "InceptionV3/Logits/Conv2d_1c_1x1/biases"
    next(n for n in graph.node if n.name == name).attr["value"].tensor.tensor_content = b"short"
    with pytest.raises(CheckpointError, match=f"its constant {name} cannot be read"):
        open_checkpoint(write(tmp_path / "short.pb", graph))[name]


def test_a_saved_model_by_objects_is_refused(tmp_path):
    import tensorflow as tf

    module = tf.Module()
    module.weights = tf.Variable([1.0, 2.0])
    tf.saved_model.save(module, str(tmp_path / "objects"))
    refused(tmp_path / "objects", "SavedModel of TensorFlow 2 or Keras")


def test_what_nearly_fits(slim, tmp_path):
    values = dict(slim.values)
    values["InceptionV3/Mixed_6d/odd"] = values.pop("InceptionV3/Mixed_5b/Branch_0/Conv2d_0a_1x1/weights")
    summary = summarize(write_tensors(tmp_path / "m.ckpt", values))
    assert summary["detection"].network == "inception_v3" and 0.9 < summary["detection"].match < 1
    text = summary_text(summary)
    assert "none fits. Nearest: inception_v3" in text
    assert "Mixed_5b/Branch_0/Conv2d_0a_1x1/weights is missing" in text
    assert "Mixed_6d/odd is not in the network" in text


def test_constants_that_were_folded_into_their_readers(slim, tmp_path):
    """As Grappler's constant folding leaves them: only the operations' names tell which weights they are."""
    import tensorflow.compat.v1 as tf
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
    from tensorflow.python.grappler import tf_optimizer

    graph_def = type(slim.graph).FromString(slim.resource.read_bytes())
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        graph.add_to_collection("train_op", graph.get_tensor_by_name("InceptionV3/Mixed_5b/concat:0"))
        meta_graph = tf.train.export_meta_graph(graph=graph)
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.optimizers.append("constfold")
    rewrite.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    rewrite.min_graph_nodes = -1
    graph = tf_optimizer.OptimizeGraph(config, meta_graph)
    names = {node.name for node in graph.node if node.op == "Const"}
    assert "InceptionV3/Conv2d_1a_3x3/Conv2D/ReadVariableOp" in names and not names & set(slim.values)
    begin = ("InceptionV3/Conv", "InceptionV3/Mixed_5b")
    expected = {name: value for name, value in slim.values.items() if name.startswith(begin)}
    assert holds(open_checkpoint(write(tmp_path / "g.pb", graph)), expected)


def test_partitioned_variables_are_put_together(tmp_path):
    import tensorflow.compat.v1 as tf

    values = {f"InceptionV3/conv{i}/weights": np.full((3, 3, 3, 22), i) + np.arange(22.0) for i in (1, 2)}
    values = {name: value.astype("float32") for name, value in values.items()}
    images = tf.zeros((1, 8, 8, 3)).numpy()
    with tf.Graph().as_default() as graph, tf.Session() as session:
        outputs = []
        for name, value in values.items():
            with tf.variable_scope("", use_resource=False, partitioner=tf.fixed_size_partitioner(11, axis=3)):
                kernel = tf.get_variable(name, value.shape, initializer=tf.zeros_initializer())
            for i, part in enumerate(kernel):
                session.run(part.initializer, {part.initial_value: value[..., 2 * i : 2 * i + 2]})
            outputs.append(tf.nn.conv2d(images, kernel, 1, "SAME", name=f"{name}/Conv2D").op.name)
        frozen = tf.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), outputs)
    assert sum("part_" in node.name and node.op == "Const" for node in frozen.node) >= 22
    assert holds(open_checkpoint(write(tmp_path / "g.pb", frozen)), values)


@pytest.mark.slow
def test_gamma_of_a_frozen_graph(tmp_path):
    """A network of batch norm with gamma, under the scope that it was imported in."""
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default() as graph, tf.Session() as session:
        with tf.variable_scope(tf.get_variable_scope(), use_resource=False):
            variables = build_slim("resnet_v1_50", size=33)
        session.run(tf.global_variables_initializer())
        values = session.run({v.op.name: v for v in variables})
        frozen = tf.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), ["resnet_v1_50/predictions/Reshape_1"]
        )
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen, name="import")
    checkpoint = open_checkpoint(write(tmp_path / "g.pb", graph.as_graph_def()))
    assert holds(checkpoint, values) and "resnet_v1_50/conv1/BatchNorm/gamma" in checkpoint and not checkpoint.notes
