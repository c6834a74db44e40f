"""Inception-v3 of this library beside all its peers on the processor, in one run: rounds in turn, medians, ratios.

    python tools/bench_peers.py --batch 1,8,32 --out peers [--torch-python PYTHON]

Ours is exported to each engine, fused; the peers are keras.applications.InceptionV3 in every form that it can be run
in, TF-Slim's own graph in a session, and timm's inception_v3 on PyTorch, in the Python that --torch-python names. All
have random weights, float32, 299×299; images go in and probabilities come out as NumPy arrays.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from inception_tf.benchmark import engines, report
from inception_tf.benchmark.rounds import Contestant, compete
from inception_tf.cli.export import sizes
from inception_tf.quiet import kept_off_stderr, start_keras

NETWORK, SIZE = "inception_v3", 299
BASE = "keras.applications, SavedModel"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=sizes, default=(1, 8, 32))
    parser.add_argument("--only", help="those whose names have one of these parts in them: ours;torch;savedmodel")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--torch-python", help="a Python that has torch and timm")
    parser.add_argument("--unfused", action="store_true", help="ours unfused too")
    parser.add_argument("--out", help="write OUT.md, OUT.json and OUT.png")
    parser.add_argument("--force", action="store_true")
    args = parser.parse_args()
    if args.out:
        report.check_out(args.out, args.force)
    machine, batches = report.machine(), {}
    start_keras()
    with tempfile.TemporaryDirectory() as scratch:
        files = keras_files(Path(scratch))
        path = engines.model_file(NETWORK, scratch)
        for batch in args.batch:
            found = list(keras_contestants(files, batch))
            found += ours(path, args.only, batch, scratch)
            if args.unfused:
                found += ours(path, args.only, batch, Path(scratch, "unfused"), ", unfused", fuse=False)
            found += [peer("TF-Slim, session", "slim", batch), peer("TF-Slim, frozen", "slim", batch, frozen=True)]
            if args.torch_python:
                for form in ("eager", "channels_last", "compiled"):
                    found.append(peer(f"timm, torch, {form}", "timm", batch, args.torch_python, form=form))
            chosen = [contestant for contestant in found if wanted(contestant.name, args.only)]
            batches[batch] = compete([engines.sgemm(), *chosen], args.rounds, args.seconds)
        done = report.Report(NETWORK, engines.cost([path]), BASE, batches, machine)
    print(done.markdown())
    if args.out:
        report.write(done, args.out, args.force)


def ours(path, only, batch, scratch, form="", fuse=True):
    chosen = [engine for engine in engines.ENGINES if wanted(f"ours{form}, {engine}", only)]
    chosen = [engine for engine in chosen if fuse or engine in engines.EXPORTS]
    return engines.contestants(path, chosen, batch, scratch, fuse, f"ours{form},")


def wanted(name, only):
    return only is None or any(part in name.lower() for part in only.lower().split(";"))


def peer(name, function, batch, python=None, **arguments):
    more = {"python": python} if python else {}
    return Contestant(name, f"{Path(__file__).resolve()}:{function}", {"batch": batch, **arguments}, batch, **more)


def keras_files(scratch):
    """keras.applications' network in every form that it is exported to, by its own means or each engine's own."""
    import keras
    import openvino
    import tensorflow as tf

    model = keras.applications.InceptionV3(weights=None)
    files = {"savedmodel": scratch / "theirs", "onnx": scratch / "theirs.onnx", "litert": scratch / "theirs.tflite"}
    with kept_off_stderr():
        model.export(files["savedmodel"], verbose=False)
        model.export(files["onnx"], format="onnx", verbose=False)
        files["litert"].write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(files["savedmodel"])).convert())
        files["openvino"] = scratch / "theirs.xml"
        openvino.save_model(openvino.convert_model(files["savedmodel"]), files["openvino"], compress_to_fp16=False)
    return {name: str(path) for name, path in files.items()}


def keras_contestants(files, batch):
    saved = files["savedmodel"]
    yield peer(BASE, "savedmodel", batch, path=saved)
    yield peer("keras.applications, tf.function", "keras_application", batch)
    yield peer("keras.applications, XLA", "keras_application", batch, jit_compile=True)
    yield peer("keras.applications, frozen, static batch", "frozen", batch, path=saved)
    for name in ("litert", "onnx", "openvino"):
        yield peer(f"keras.applications, {name}", "exported", batch, path=files[name])


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
    import os

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


def timm(batch, form):
    import os

    import timm as library
    import torch

    torch.set_num_threads(os.cpu_count())
    torch.set_grad_enabled(False)
    model = library.create_model(NETWORK, pretrained=False).eval()
    given = np.ascontiguousarray(images(batch).transpose(0, 3, 1, 2))
    layout = torch.contiguous_format if form == "eager" else torch.channels_last
    model = model.to(memory_format=layout)
    run = torch.compile(model) if form == "compiled" else model
    return lambda: run(torch.from_numpy(given).to(memory_format=layout)).softmax(-1).numpy()


if __name__ == "__main__":
    main()
