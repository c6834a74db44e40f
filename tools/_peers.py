"""What the peers in bench_peers.py run, each as its own documentation has it. Imports of a peer are its own."""

import json
import os
from pathlib import Path

import numpy as np

NETWORK, NAME, SIZE = "inception_v3", "InceptionV3", 299


def images(batch):
    return np.random.default_rng(0).uniform(-1, 1, (batch, SIZE, SIZE, 3)).astype(np.float32)


def savedmodel(path, batch):
    import tensorflow as tf

    given, loaded = images(batch), tf.saved_model.load(path)
    run = loaded.signatures["serving_default"]
    (name,), (result,) = run.structured_input_signature[1], run.structured_outputs
    answer = lambda: run(**{name: tf.constant(given)})[result].numpy()  # noqa: E731
    answer.kept = loaded  # its variables go with it
    return answer


def keras_application(batch, jit_compile=None):
    import keras
    import tensorflow as tf

    given, model = images(batch), keras.applications.InceptionV3(weights=None)
    run = tf.function(lambda x: model(x, training=False), autograph=False, jit_compile=jit_compile)
    return lambda: run(tf.constant(given)).numpy()


def freeze_savedmodel(path, target):
    """Writes a SavedModel's graph with its variables as constants; its placeholder and its output are named here."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(path)
    run = convert_variables_to_constants_v2(loaded.signatures["serving_default"])
    (given,), (result,) = [one for one in run.inputs if one.dtype == tf.float32], run.outputs
    _write_graph(run.graph.as_graph_def(), given, result, target)
    return lambda: None


def freeze_slim(target):
    """Writes TF-Slim's graph with random weights as constants."""
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default() as graph, tf.Session() as session:
        given, scores = _slim_graph(tf)
        session.run(tf.global_variables_initializer())
        definition = tf.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), [scores.op.name])
    _write_graph(definition, given, scores, target)
    return lambda: None


def _write_graph(definition, given, result, target):
    Path(target).write_bytes(definition.SerializeToString())
    Path(f"{target}.json").write_text(json.dumps([given.name, result.name]))


def frozen(path, batch):
    """A frozen graph as a function of one batch size."""
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef.FromString(Path(path).read_bytes())
    placeholder, result = json.loads(Path(f"{path}.json").read_text())

    def network(x):
        return tf.graph_util.import_graph_def(definition, {placeholder: x}, [result], name="")[0]

    given = images(batch)
    run = tf.compat.v1.wrap_function(network, [tf.TensorSpec(given.shape, tf.float32)])
    return lambda: run(tf.constant(given)).numpy()


def exported(path, batch):
    """Each engine as its own documentation runs it, on all processors."""
    given = images(batch)
    if path.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: given})[0]
    if path.endswith(".xml"):
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        model.reshape([batch, SIZE, SIZE, 3])
        request = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
        return lambda: np.array(request.infer([given])[0])
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=processors())
    index, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(index, given.shape)
    interpreter.allocate_tensors()

    def run():
        interpreter.set_tensor(index, given)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return run


def slim(batch):
    import tensorflow.compat.v1 as tf

    given = images(batch)
    with tf.Graph().as_default() as graph:
        placeholder, scores = _slim_graph(tf)
        session = tf.Session(graph=graph)
        session.run(tf.global_variables_initializer())
    return lambda: session.run(scores, {placeholder: given})


def _slim_graph(tf):
    from inception_tf.slim.reference import build

    placeholder = tf.placeholder(tf.float32, (None, SIZE, SIZE, 3))
    return placeholder, build(NETWORK, placeholder, {"classes": 1001, "aux_logits": False}, NAME)["Predictions"]


def torch(batch, form):
    import torch as library
    from _torch_steps import source

    library.set_num_threads(processors())
    library.set_grad_enabled(False)
    name, version, build = source()
    model = build(1000).eval()
    given = np.ascontiguousarray(images(batch).transpose(0, 3, 1, 2))
    layout = library.contiguous_format if form == "eager" else library.channels_last
    model = model.to(memory_format=layout)
    run = library.compile(model) if form == "compiled" else model
    answer = lambda: run(library.from_numpy(given).to(memory_format=layout)).softmax(-1).numpy()  # noqa: E731
    answer.facts = {"versions": {"torch": library.__version__, name: version}}
    return answer


def processors():
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
