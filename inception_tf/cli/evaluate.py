"""How good MODEL is on labeled images: accuracy, precision and recall of every class, calibration; CSV and pictures.

A bad file is named at the end, not fatal.

With --answers, of any number of images, in bounded memory: PATH is also what classify --out takes, each image in a
folder called as its class. Each has a row in OUT: path, label, label_name, class, name, score, error. The same command
run again resumes, and its figures are of all rows in OUT.
"""

from inception_tf.cli.options import (
    MODEL,
    add_decoding,
    add_job,
    add_precision,
    check_ray,
    model_needs_keras,
    run_tables,
    table_predictor,
)
from inception_tf.cli.outcome import Outcome
from inception_tf.errors import ImageError, UsageError

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
    parser.add_argument(
        "--answers", metavar="OUT", help="write rows to part files in a folder, or at a URL as s3://bucket/run/"
    )
    parser.add_argument("--top", type=int, help="with --answers: classes of each row (1); top-5 is counted from 5 on")
    parser.add_argument("--crops", action="store_true", help="with --answers: the mean of ten windows of each image")
    add_job(parser)


def run(args):
    check_ray(args)
    if args.answers:
        return _run_job(args)
    if args.top or args.crops or args.ray or args.format:
        raise UsageError("--top, --crops, --ray and --format are for rows in a folder: name it with --answers.")

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
    engine = open_engine(args.model, openvino=args.openvino, precision=args.precision, threads=args.threads)
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


def _run_job(args):
    from inception_tf.evaluation.tally import Tally
    from inception_tf.images.folders import class_folders
    from inception_tf.images.labels import class_names, load_labels
    from inception_tf.images.streams import image_tables
    from inception_tf.inference.jobs import Parts

    if args.out or args.csv:
        raise UsageError("--answers writes a row for every image and prints the figures. Leave out --out and --csv.")
    top = 1 if args.top is None else args.top
    options = {name: getattr(args, name) for name in ("openvino", "precision", "fast_decode")}
    predictor = table_predictor(args, top=top, crops=10 if args.crops else 1, **options)
    engine = predictor.pipe.engine
    if getattr(engine.card, "multi_label", False):
        raise UsageError("The model gives an image several labels. --answers is for one label an image.")
    names = load_labels(args.labels)[args.labels_offset :] if args.labels else class_folders(args.data)
    if args.labels and engine.labels == class_names(len(engine.labels)):
        engine.labels = predictor.labels = class_names(len(engine.labels), names)
    tally = Tally(engine.labels, names, args.labels_offset)

    def tables(rows):
        import pyarrow as pa

        for table in image_tables(args.data, rows, "numbers" if args.labels else "names"):
            truth = [tally.truth(label) for label in table["label"].to_pylist()]
            names = [None if i is None else engine.labels[i] for i in truth]
            table = table.drop_columns([name for name in ("label", "label_name") if name in table.column_names])
            table = table.append_column("label", pa.array(truth, pa.int32()))
            yield table.append_column("label_name", pa.array(names, pa.string()))

    labeled = [args.labels_offset, names if args.labels else None]
    parts = Parts(args.answers, {**predictor.settings, "labeled": labeled}, args.format or "parquet")
    _, text, job = run_tables(args, predictor, parts, tables, "Evaluating")
    for columns in parts.rows("path", "label", "class", "score", "error"):
        tally.count(*columns)
    if not len(tally):
        first = "".join(f" {path}: {reason}" for path, reason in list(tally.skipped.items())[:1])
        raise ImageError(f"Not one of the {tally.failed} images could be read.{first}")
    top5 = top >= 5 and len(engine.labels) > 5
    return Outcome(f"{tally.text(top5)}\n\n{text}", {**tally.to_json(top5), "job": job})
