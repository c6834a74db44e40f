"""What the peers in bench_peers.py run, each as its own documentation has it. Imports of a peer are its own.

Images go in and probabilities come out as NumPy arrays.
"""

import numpy as np

NETWORK, NAME, SIZE = "inception_v3", "InceptionV3", 299


def images(batch):
    return np.random.default_rng(0).uniform(-1, 1, (batch, SIZE, SIZE, 3)).astype(np.float32)


def exported(path, batch):
    """A `.tflite`, `.onnx` or `.xml` file."""
    from inception_tf.inference.runtimes import runtime_for

    given, run = images(batch), runtime_for(path)(path)
    return lambda: run(given)


def openvino_by_default(path, batch):
    """OpenVINO as it is by default, in bfloat16 where the processor multiplies it."""
    import openvino

    given, run = images(batch), openvino.compile_model(path, "CPU")
    return lambda: run(given)[0]


def savedmodel(path, batch, frozen=False):
    """A SavedModel; frozen: its variables made constants first."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    given, loaded = images(batch), tf.saved_model.load(path)
    run = loaded.signatures["serving_default"]
    if frozen:
        run = convert_variables_to_constants_v2(run)
        return lambda: run(tf.constant(given))[0].numpy()
    (name,), (result,) = run.structured_input_signature[1], run.structured_outputs
    answer = lambda: run(**{name: tf.constant(given)})[result].numpy()  # noqa: E731
    answer.loaded = loaded  # its variables go with it
    return answer


def keras_application(batch, jit_compile=None):
    import keras
    import tensorflow as tf

    given, model = images(batch), keras.applications.InceptionV3(weights=None)
    run = tf.function(lambda x: model(x, training=False), autograph=False, jit_compile=jit_compile)
    return lambda: run(tf.constant(given)).numpy()


def slim(batch, frozen=False):
    """TF-Slim's graph with random weights in a session; frozen: as a function, its variables made constants first."""
    import tensorflow as tf

    from inception_tf.slim.reference import build

    given, graph = images(batch), tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, SIZE, SIZE, 3))
        scores = build(NETWORK, x, {"classes": 1001, "aux_logits": False}, NAME)["Predictions"]
        session = tf.compat.v1.Session(graph=graph)
        session.run(tf.compat.v1.global_variables_initializer())
    if not frozen:
        return lambda: session.run(scores, {x: given})
    constants = tf.compat.v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), [scores.op.name])
    session.close()
    run = tf.compat.v1.wrap_function(
        lambda images: tf.graph_util.import_graph_def(constants, {x.name: images}, [scores.name])[0],
        [tf.TensorSpec(given.shape, tf.float32)],
    )
    return lambda: run(tf.constant(given)).numpy()
