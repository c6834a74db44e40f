"""A servable: MODEL as a SavedModel under the next free version number of DIRECTORY, for TensorFlow Serving.

It is loaded back in a fresh process without Keras and compared with the model before it counts as written.
"""

from inception_tf.cli.outcome import Outcome


def add_arguments(parser):
    parser.add_argument("model", help="a .keras file, or a Slim checkpoint")
    parser.add_argument("directory", help="the servable's directory; 1/, 2/, … are its versions")
    parser.add_argument("--labels", metavar="FILE", help="the class names, a line each (default: the model's own)")
    parser.add_argument("--top", type=int, default=5, help="the classes that predict_image_bytes returns (5)")
    parser.add_argument("--no-check", action="store_true", help="do not load it back and compare")


def run(args):
    import time

    from inception_tf.export.savedmodel import export_savedmodel
    from inception_tf.inference.engines import open_model

    start = time.perf_counter()
    model = open_model(args.model)
    path = export_savedmodel(model, args.directory, labels=args.labels, top=args.top, check=not args.no_check)
    seconds = time.perf_counter() - start
    checked = "not checked" if args.no_check else "loaded back without Keras, same outputs"
    signatures = "serving_default, predict_image_bytes, features"
    text = f"Written: {path} ({seconds:.1f} s, {checked}). Signatures: {signatures}."
    return Outcome(text, {"path": str(path), "seconds": seconds, "checked": not args.no_check})
