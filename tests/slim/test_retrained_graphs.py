"""Graphs whose head is not Slim's: TF-Slim trunks with dense layers on them, frozen by TensorFlow's own functions."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
from slim_files import SMALL, holds

import inception_tf as itf
from inception_tf.cli.main import main
from inception_tf.errors import CheckpointError
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.slim import reference
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.golden import deterministic_images, deterministic_weights
from inception_tf.slim.summary import summarize

SIZE = 107
IMAGES = deterministic_images(2, SIZE, SIZE)  # in [-1, 1]
LABELS = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
FEATURES = 204


def trunk(images, resource=False, options=None):
    """TF-Slim's small Inception-v3 up to its pooled features N×1×1×C."""
    import tensorflow.compat.v1 as tf

    with tf.variable_scope(tf.get_variable_scope(), use_resource=resource):
        options = {**SMALL["inception_v3"], "classes": 2, "aux_logits": False, **(options or {})}
        return reference.build("inception_v3", images, options, "InceptionV3")["PreLogits"]


def hub_module(images, resource=False):
    """The same as tensorflow_hub applies a module: its graph once for the variables, once more with them put in."""
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default() as graph:
        inputs = tf.placeholder(tf.float32, (None, SIZE, SIZE, 3), name="hub_input/images")
        features = trunk(
            tf.subtract(tf.multiply(inputs, 2.0, name="hub_input/Mul"), 1.0, name="hub_input/Sub"), resource
        )
        tf.squeeze(features, [1, 2], name="hub_output/feature_vector/SpatialSqueeze")
        module = tf.train.export_meta_graph(graph=graph)
        handles = [op.name for op in graph.get_operations() if op.type in ("VariableV2", "VarHandleOp")]
    tf.train.import_meta_graph(module, import_scope="module")
    graph = tf.get_default_graph()
    state = {f"{name}:0": graph.get_tensor_by_name(f"module/{name}:0") for name in handles}
    applied = {"hub_input/images:0": images, **state}
    module.collection_def.clear()
    for node in module.graph_def.node:
        if node.name in handles:
            kind = tf.resource if node.op == "VarHandleOp" else tf.float32
            node.op = "Placeholder"
            node.attr.clear()
            node.attr["dtype"].type = kind.as_datatype_enum
    tf.train.import_meta_graph(module, import_scope="module_apply_default", input_map=applied)
    return graph.get_tensor_by_name("module_apply_default/hub_output/feature_vector/SpatialSqueeze:0")


def retrain(features):
    """The layers of retrain.py (tensorflow/hub, examples/image_retraining), under its names."""
    import tensorflow.compat.v1 as tf

    with tf.name_scope("input"):
        features = tf.placeholder_with_default(features, (None, features.shape[-1]), "BottleneckInputPlaceholder")
    with tf.name_scope("final_retrain_ops"):
        with tf.name_scope("weights"):
            weights = tf.Variable(tf.zeros((features.shape[-1], 5)), name="final_weights", use_resource=False)
        with tf.name_scope("biases"):
            biases = tf.Variable(tf.zeros(5), name="final_biases", use_resource=False)
        with tf.name_scope("Wx_plus_b"):
            logits = tf.matmul(features, weights) + biases
    return tf.nn.softmax(logits, name="final_result")


def dense(features, activation="softmax", use_bias=True, hidden=0, name="dense", resource=True):
    """What Keras and `tf.layers` add: a dense layer of resource variables."""
    import tensorflow.compat.v1 as tf

    x = tf.reshape(features, (-1, features.shape[-1]))
    with tf.variable_scope(tf.get_variable_scope(), use_resource=resource):
        for layer, units in (("hidden", hidden), (name, 5)):
            if units:
                with tf.variable_scope(layer):
                    kernel = tf.get_variable("kernel", (x.shape[-1], units))
                    bias = tf.get_variable("bias", (units,)) if use_bias else None
                x = tf.matmul(x, kernel, name=f"{layer}/MatMul")
                x = tf.nn.bias_add(x, bias, name=f"{layer}/BiasAdd") if use_bias else x
                x = tf.nn.relu(x) if layer == "hidden" else x
    return {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid, None: tf.identity}[activation](x, name="scores")


class Frozen(SimpleNamespace):
    """A frozen graph. Attributes: graph, its GraphDef; values, of its variables by name; scores, of IMAGES."""

    def write(self, path, graph=None):
        path.write_bytes((graph or self.graph).SerializeToString())
        return path


@functools.cache
def freeze(trunk, head, scaled=False):
    """The `Frozen` of `head` on `trunk`; of `scaled` images, which are of [0, 1]."""
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default() as graph, tf.Session() as session:
        images = tf.placeholder(tf.float32, (None, SIZE, SIZE, 3))
        output = head(trunk(images))
        variables = [v for v in tf.global_variables() if "/Logits/" not in v.op.name]
        values = {}
        for v in variables:
            name, random = v.op.name.removeprefix("module/"), np.random.default_rng(len(v.op.name))
            new = random.normal(0, 0.3, v.shape).astype("float32")  # tells the classes apart
            values[name] = deterministic_weights(name, v.shape) if name.startswith("InceptionV3/") else new
        session.run(
            [v.initializer for v in variables], {v.initial_value: x for v, x in zip(variables, values.values())}
        )
        scores = session.run(output, {images: (IMAGES + 1) / 2 if scaled else IMAGES})
        frozen = tf.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), [output.op.name])
    return Frozen(graph=frozen, values=values, scores=scores)


@pytest.fixture(scope="module")
def retrained():
    return freeze(hub_module, retrain, scaled=True)


def trunk_of(values):
    return {name: value for name, value in values.items() if name.startswith("InceptionV3/")}


def with_head(values, kernel, bias=None):
    """What a checkpoint of the graph holds, had its head been Slim's."""
    head = "InceptionV3/Logits/Conv2d_1c_1x1"
    biases = values[bias] if bias else np.zeros(5, "float32")
    return {**trunk_of(values), f"{head}/weights": values[kernel][None, None], f"{head}/biases": biases}


def same_scores(model, scores, images=IMAGES):
    np.testing.assert_allclose(np.asarray(model(images, training=False)), scores, rtol=0, atol=1e-5)
    assert np.ptp(scores) > 0.5  # or nothing would be compared


def test_a_retrained_hub_module(retrained, tmp_path, capsys):
    """Loaded with its head and its class names, converted, and equal to what TensorFlow makes of the graph."""
    path = retrained.write(tmp_path / "retrained_graph.pb")
    (tmp_path / "retrained_labels.txt").write_text("\n".join(LABELS) + "\n")
    checkpoint, head = open_checkpoint(path), "final_retrain_ops/weights/final_weights"
    assert holds(checkpoint, with_head(retrained.values, head, "final_retrain_ops/biases/final_biases"))
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert head in out and "[0, 1]" in out and "retrained_labels.txt" in out
    assert main(["convert", str(path), str(tmp_path / "m.keras")]) == 0
    out = capsys.readouterr().out
    assert head in out and "the graph retrained_graph.pb itself" in out and "21 end points" in out
    model = itf.load_model(tmp_path / "m.keras")
    assert (model.card.labels, model.card.scope) == (LABELS, "InceptionV3")
    same_scores(model, retrained.scores)


def test_a_decoded_image(retrained, tmp_path):
    """retrain.py and label_image.py resize the whole image; so do we for such a graph, without Slim's crop."""
    import tensorflow.compat.v1 as tf

    model = itf.create_model("inception_v3", weights=retrained.write(tmp_path / "g.pb"))
    image = np.random.default_rng(0).integers(0, 256, (150, 130, 3), "uint8")
    with tf.Graph().as_default(), tf.Session() as session:
        inputs = tf.image.resize_bilinear(tf.image.convert_image_dtype(image, tf.float32)[None], (SIZE, SIZE))
        scores = tf.import_graph_def(retrained.graph, {"Placeholder:0": inputs}, ["final_result:0"])
        scores = session.run(scores)[0]
    same_scores(model, scores, preprocessing_of(model)(image))


def test_a_graph_of_other_operations_is_not_run(retrained, tmp_path):
    """TensorFlow's operations read and write files: a stranger's graph is run where it has none but a network's."""
    graph = type(retrained.graph)()
    graph.CopyFrom(retrained.graph)
    next(node for node in graph.node if node.op == "Relu").op = "WriteFile"
    with pytest.raises(CheckpointError, match="g.pb.*not run.*WriteFile"):
        itf.verify(retrained.write(tmp_path / "g.pb", graph))


@pytest.mark.parametrize("labels", ["one\ntwo\n", "a\n\nb\nc\nd\n"])
def test_class_names_that_do_not_fit_are_named(retrained, tmp_path, labels):
    path = retrained.write(tmp_path / "g.pb")
    (tmp_path / "retrained_labels.txt").write_text(labels)
    checkpoint = open_checkpoint(path)
    assert checkpoint.labels is None and "not those of retrained_labels.txt" in checkpoint.notes[-1]


def test_a_head_of_resource_variables(tmp_path):
    frozen = freeze(functools.partial(trunk, resource=True), functools.partial(dense, activation="sigmoid"))
    path = frozen.write(tmp_path / "g.pb")
    assert "dense/MatMul/ReadVariableOp" in {node.name for node in frozen.graph.node}
    assert holds(open_checkpoint(path), with_head(frozen.values, "dense/kernel", "dense/bias"))
    model = itf.create_model("inception_v3", weights=path)
    same_scores(model, frozen.scores)
    assert (
        model.card.options["classifier_activation"] == "sigmoid" and "central_fraction" not in model.card.preprocessing
    )


@pytest.mark.slow
@pytest.mark.parametrize("between", ["maximum", "product", "temperature", "convolution"])
def test_a_head_that_computes_something_else_is_not_loaded(tmp_path, between):
    """Its scores would not be the graph's."""
    import tensorflow.compat.v1 as tf

    def head(features):
        last = next(op for op in reversed(tf.get_default_graph().get_operations()) if op.type == "ConcatV2").outputs[0]
        if between == "maximum":
            features = tf.reduce_max(last, [1, 2])
        if between == "convolution":
            kernel = tf.get_variable("own/kernel", (1, 1, last.shape[-1], last.shape[-1]))
            features = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(last, kernel, 1, "SAME")), [1, 2])
        scores = dense(features * 0.5 if between == "product" else features, None)
        return tf.nn.softmax(scores * 2.0) if between == "temperature" else scores

    path = freeze(trunk, head).write(tmp_path / "g.pb")
    checkpoint = open_checkpoint(path)
    assert (
        checkpoint.head is None and "not loaded" in checkpoint.notes[0] and "dense/kernel 203×5" in checkpoint.notes[0]
    )
    assert "dense/bias" in itf.create_model("inception_v3", weights=path, include_top=False).card.weights.report


@pytest.mark.slow
def test_a_graph_of_tensorflow_2(tmp_path):
    """Frozen by its own converter, of a function in a function, whose captures it numbers."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    images = tf.TensorSpec((None, SIZE, SIZE, 3))
    tf.compat.v1.disable_tensor_equality()  # as TF-Slim needs it in there
    try:
        inner = tf.compat.v1.wrap_function(lambda x: dense(trunk(x, resource=True)), [images])
    finally:
        tf.compat.v1.enable_tensor_equality()
    for variable in inner.graph.variables:
        name, random = variable.name.removesuffix(":0"), np.random.default_rng(0)
        is_head = name.startswith("dense")
        variable.assign(
            random.normal(0, 0.3, variable.shape) if is_head else deterministic_weights(name, variable.shape)
        )
    outer = tf.function(lambda x: inner(x)).get_concrete_function(images)
    graph = convert_variables_to_constants_v2(outer).graph.as_graph_def()
    assert any(node.name.isdigit() for node in graph.node if node.op == "Const")
    (tmp_path / "g.pb").write_bytes(graph.SerializeToString())
    model = itf.create_model("inception_v3", weights=tmp_path / "g.pb")
    wanted = outer(tf.constant(IMAGES)).numpy()
    np.testing.assert_allclose(np.asarray(model(IMAGES, training=False)), wanted, rtol=0, atol=1e-5)
    assert np.ptp(wanted) > 1e-3


def test_functions_that_are_called(tmp_path):
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        tf.function(lambda x: tf.nn.conv2d(x, tf.ones((3, 3, 3, 4)), 1, "SAME"))(tf.zeros((1, 8, 8, 3)))
    (tmp_path / "g.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(CheckpointError, match="PartitionedCall.*convert_variables_to_constants_v2"):
        open_checkpoint(tmp_path / "g.pb")


def test_two_heads_are_both_named(retrained, tmp_path, capsys):
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default() as graph:
        tf.import_graph_def(retrained.graph, name="")
        features = graph.get_tensor_by_name("input/BottleneckInputPlaceholder:0")
        second = np.random.default_rng(0).normal(size=(features.shape[-1], 7)).astype("float32")
        tf.matmul(features, tf.identity(tf.constant(second, name="other/kernel"), name="other/MatMul/ReadVariableOp"))
        path = retrained.write(tmp_path / "g.pb", graph.as_graph_def())
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "final_retrain_ops/weights/final_weights 203×5" in out and "other/kernel 203×7" in out
    assert "no classifier" in out


@pytest.mark.slow
def test_heads_that_are_none_are_named(tmp_path, capsys):
    """A hidden layer: the trunk loads, and every constant that does not is listed."""
    frozen = freeze(trunk, functools.partial(dense, hidden=203))
    path = frozen.write(tmp_path / "g.pb")
    assert holds(open_checkpoint(path), frozen.values)
    for command in (["inspect", str(path)], ["convert", str(path), str(tmp_path / "m.keras"), "--no-verify"]):
        assert main(command) == 0
        out = capsys.readouterr().out
        assert all(f"{name} " in out for name in ("hidden/kernel", "hidden/bias", "dense/kernel", "dense/bias"))
    assert summarize(path)["detection"].classes is None and itf.load_model(tmp_path / "m.keras").card.labels is None


def dropped(features):
    """A dense layer behind dropout as TensorFlow 1 wrote it."""
    import tensorflow.compat.v1 as tf

    keep, width = tf.placeholder_with_default(1.0, ()), features.shape[-1]
    with tf.name_scope("dropout"):
        mask = tf.floor(keep + tf.random.uniform(tf.shape(features)))
        features = tf.multiply(tf.realdiv(features, keep, name="div"), mask, name="mul")
    return dense(tf.reshape(features, (-1, width)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trunk", "head"),
    [
        (trunk, dropped),
        (functools.partial(hub_module, resource=True), functools.partial(dense, name="my_head", resource=False)),
        (trunk, functools.partial(dense, activation=None, use_bias=False)),
    ],
    ids=["dropout", "resources below", "no bias, no activation"],
)
def test_further_heads(tmp_path, trunk, head):
    frozen = freeze(trunk, head, scaled="module" in trunk.func.__name__ if hasattr(trunk, "func") else False)
    path = frozen.write(tmp_path / "g.pb")
    model = itf.create_model("inception_v3", weights=path)
    same_scores(model, frozen.scores)
    assert itf.verify(path).passed
