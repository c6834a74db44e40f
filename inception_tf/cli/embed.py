"""The feature vectors (PreLogits) of photographs, as a Parquet or .npz file with the columns path and vector.

With a folder or a URL as --out, of any number of them, in bounded memory: rows of path, embedding and error in part
files, from what `classify --out` takes. The same command run again resumes.
"""

from pathlib import Path

from inception_tf.cli.options import MODEL, add_job, check_ray, model_needs_keras, run_job
from inception_tf.cli.outcome import Outcome
from inception_tf.errors import UsageError

KERAS = model_needs_keras


def add_arguments(parser):
    parser.add_argument("model", help=f"{MODEL}; an export of --features")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, patterns or directories")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="a .parquet, which needs pyarrow, or a .npz; or a folder"
    )
    parser.add_argument("--batch", type=int, default=16, help="images at a time (16)")
    parser.add_argument("--exif", action="store_true", help="turn photographs as their EXIF orientation says")
    parser.add_argument("--force", action="store_true", help="replace the file when it exists")
    add_job(parser)


def run(args):
    check_ray(args)
    from inception_tf.files import refuse_existing
    from inception_tf.inference.embed import check_target, embed
    from inception_tf.remote import is_url

    if is_url(args.out) or args.out.endswith("/") or not Path(args.out).suffix:
        return run_job(args, embed=True, classify=False)
    if args.ray or args.format or args.threads:
        raise UsageError(f"--ray, --format and --threads are for a folder, or a URL. Received: --out {args.out}")
    check_target(args.out)
    refuse_existing(args.out, args.force)
    vectors, failures = embed(args.model, args.images, args.batch, args.exif)
    vectors.save(args.out, args.force)
    count, size = vectors.values.shape
    text = f"Written: {args.out} ({count} vectors of {size} values)."
    if failures:
        lines = [f"  {path}: {reason}" for path, reason in failures.items()]
        text += "\n".join([f"\n\n{len(failures)} images could not be read:", *lines])
    failed = [{"image": path, "error": reason} for path, reason in failures.items()]
    data = {"file": args.out, "images": count, "size": size, "failed": failed}
    return Outcome(text, data, 1 if failures else 0)
