"""The best classes of photographs: files, patterns and directories. A bad file is named at the end, not fatal.

With --out, of any number of them, in bounded memory: IMAGE is also a prefix as s3://bucket/photos/, a manifest (CSV or
Parquet with a column path), WebDataset's .tar files or TFRecords. Each has a row in OUT: path, class, name, score,
error. The same command run again resumes.
"""

from inception_tf.cli.options import MODEL, add_decoding, add_job, add_precision, check_ray, model_needs_keras, run_job
from inception_tf.cli.outcome import Outcome
from inception_tf.errors import UsageError

KERAS = model_needs_keras


def add_arguments(parser):
    parser.add_argument("model", help=MODEL)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, patterns or directories")
    parser.add_argument(
        "--top", type=int, help="how many classes (5; of a model of several labels, all that reach their threshold)"
    )
    parser.add_argument("--labels", metavar="FILE", help="the class names, a line each (default: the model's own)")
    parser.add_argument("--batch", type=int, default=16, help="images at a time (16)")
    parser.add_argument("--openvino", action="store_true", help="have OpenVINO run a SavedModel, .tflite or .onnx")
    add_precision(parser)
    add_decoding(parser)
    parser.add_argument(
        "--out", metavar="OUT", help="write rows to part files in a folder, or at a URL as s3://bucket/run/"
    )
    parser.add_argument("--embed", action="store_true", help="with --out: the features too, a column embedding")
    parser.add_argument("--crops", action="store_true", help="with --out: the mean of ten windows of each image")
    add_job(parser)


def run(args):
    check_ray(args)
    if args.out:
        options = {name: getattr(args, name) for name in ("embed", "openvino", "precision", "labels", "fast_decode")}
        options["crops"] = 10 if args.crops else 1
        return run_job(args, top=1 if args.top is None else args.top, **options)
    if args.embed or args.crops or args.ray or args.format:
        raise UsageError("--embed, --crops, --ray and --format are for rows in a folder: name it with --out.")

    from inception_tf import tables
    from inception_tf.images.files import find_images
    from inception_tf.inference.classify import classify
    from inception_tf.inference.engines import open_engine

    paths = find_images(args.images)
    options = {"labels": args.labels, "openvino": args.openvino, "precision": args.precision}
    engine = open_engine(args.model, threads=args.threads, **options)
    results, failures = classify(engine, paths, args.top, args.batch, args.exif, args.fast_decode)
    rows = []
    for path, best in results.items():
        rows += [] if best else [(path, "none", "")]
        rows += [(path if i == 0 else "", name, f"{score:.4f}") for i, (_, name, score) in enumerate(best)]
    text = tables.render(rows, ("image", "class", "score"), "<<>")
    text += "\n\nLarge JPEGs were decoded scaled down (--fast-decode)." * args.fast_decode
    if failures:
        lines = [f"  {path}: {reason}" for path, reason in failures.items()]
        text += f"\n\n{len(failures)} of {len(paths)} images could not be classified:\n" + "\n".join(lines)
    data = {
        "images": [
            {"image": str(path), "classes": [{"index": i, "name": name, "score": score} for i, name, score in best]}
            for path, best in results.items()
        ],
        "fast_decode": args.fast_decode,
        "failed": [{"image": str(path), "error": reason} for path, reason in failures.items()],
    }
    return Outcome(text.strip(), data, 1 if failures else 0)
