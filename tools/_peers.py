"""What the peers in bench_peers.py run, each as its own documentation has it. Imports of a peer are its own."""

import os

import numpy as np

NETWORK, SIZE = "inception_v3", 299


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


def frozen(path, batch):
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    given, loaded = images(batch), tf.saved_model.load(path)
    (name,) = loaded.signatures["serving_default"].structured_input_signature[1]
    run = tf.function(lambda x: loaded.signatures["serving_default"](**{name: x}), autograph=False)
    run = convert_variables_to_constants_v2(run.get_concrete_function(tf.TensorSpec(given.shape, tf.float32)))
    return lambda: run(tf.constant(given))[0].numpy()


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

    interpreter = Interpreter(path, num_threads=os.cpu_count())
    index, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(index, given.shape)
    interpreter.allocate_tensors()

    def run():
        interpreter.set_tensor(index, given)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return run


def slim(batch, frozen=False):
    import tensorflow.compat.v1 as tf

    from inception_tf.slim.reference import build

    given = images(batch)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        placeholder = tf.placeholder(tf.float32, (None, SIZE, SIZE, 3))
        scores = build(NETWORK, placeholder, {"classes": 1001, "aux_logits": False}, "InceptionV3")["Predictions"]
        session.run(tf.global_variables_initializer())
        definition = graph.as_graph_def()
        if frozen:
            definition = tf.graph_util.convert_variables_to_constants(session, definition, [scores.op.name])
    if not frozen:
        session = tf.Session(graph=graph)
        with graph.as_default():
            session.run(tf.global_variables_initializer())
        return lambda: session.run(scores, {placeholder: given})
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(definition, name="")
    session = tf.Session(graph=graph)
    return lambda: session.run(scores.name, {placeholder.name: given})


def torch(batch, form):
    import torch as library
    from _torch_steps import source

    library.set_num_threads(os.cpu_count())
    library.set_grad_enabled(False)
    model = source()[2](1000).eval()
    given = np.ascontiguousarray(images(batch).transpose(0, 3, 1, 2))
    layout = library.contiguous_format if form == "eager" else library.channels_last
    model = model.to(memory_format=layout)
    run = library.compile(model) if form == "compiled" else model
    return lambda: run(library.from_numpy(given).to(memory_format=layout)).softmax(-1).numpy()
