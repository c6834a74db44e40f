"""How good MODEL is on labeled images: accuracy, precision and recall of every class, calibration; CSV and pictures.

A bad file is named at the end, not fatal.
"""

from inception_tf.cli.options import MODEL, add_decoding, add_precision, model_needs_keras
from inception_tf.cli.outcome import Outcome

KERAS = model_needs_keras


def add_arguments(parser):
    parser.add_argument("model", help=MODEL)
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="PATH",
        help="class folders; CSV or Parquet of paths and labels; WebDataset's .tar; TFRecords, which need TensorFlow; "
        "hf:NAME; tfds:NAME",
    )
    parser.add_argument(
        "--labels", metavar="FILE", help="the class names, a line each, of TFRecords and of a model that has none"
    )
    parser.add_argument(
        "--labels-offset", type=int, default=0, metavar="N", help="subtracted from the labels of TFRecords (0)"
    )
    parser.add_argument("--batch", type=int, default=32, help="images at a time (32)")
    parser.add_argument("--openvino", action="store_true", help="have OpenVINO run a SavedModel, .tflite or .onnx")
    add_precision(parser)
    add_decoding(parser)
    parser.add_argument("--csv", metavar="FILE", help="write a row for every image")
    parser.add_argument(
        "--out", metavar="DIR", help="write evaluation.json, predictions.csv, confusion.png and confident_errors.png"
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(args):
    from inception_tf.evaluation.evaluate import evaluate, write_predictions
    from inception_tf.evaluation.report import refuse_report, write_report
    from inception_tf.files import refuse_existing
    from inception_tf.images.labels import class_names
    from inception_tf.images.sources import open_examples
    from inception_tf.inference.engines import open_engine

    if args.csv:
        refuse_existing(args.csv, args.force)
    if args.out:
        refuse_report(args.out, args.force)
    data = args.data[0] if len(args.data) == 1 else args.data
    examples = open_examples(data, args.labels, args.labels_offset, complete=False)
    engine = open_engine(args.model, openvino=args.openvino, precision=args.precision)
    if args.labels and engine.labels == class_names(len(engine.labels)):
        engine.labels = class_names(len(engine.labels), examples.class_names)
    evaluation = evaluate(engine, examples, args.batch, args.exif, args.fast_decode)

    text, written = str(evaluation), []
    if args.csv:
        write_predictions(evaluation, args.csv, args.force)
        written.append(args.csv)
    if args.out:
        files, missing = write_report(evaluation, examples, args.out, args.force)
        written += files
        text += f"\n{missing}" if missing else ""
    if written:
        text += f"\nWritten: {', '.join(map(str, written))}"
    return Outcome(text, {**evaluation.to_json(), "written": list(map(str, written))})
