"""How far generated images are from real ones: FID, KID, Inception score, precision and recall, density and coverage.

The features are those of the graph of 2015-12-05. How images are resized changes FID, so it is named in every output:
--resize tensorflow is TTUR's, TF-GAN's and torch-fidelity's, pytorch is pytorch-fid's, clean is clean-fid's.
"""

from inception_tf.cli.options import add_ray, ray_pool
from inception_tf.cli.outcome import Outcome


def add_arguments(parser):
    side = "a folder, a pattern, a .txt of paths, TFRecords, a .parquet, a .npy or .npz of images, or saved statistics"
    parser.add_argument("generated", help=f"the generated images: {side}")
    parser.add_argument("real", nargs="?", help="the real images, as well; left out with --save")
    parser.add_argument(
        "--metrics", default="fid", metavar="LIST", help="some of fid,kid,is,pr,dc with commas between, or all (fid)"
    )
    parser.add_argument(
        "--resize", choices=("tensorflow", "pytorch", "clean"), default="tensorflow", help="whose pixels (tensorflow)"
    )
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="classify_image_graph_def.pb, its .tgz, pytorch-fid's .pth, a .keras, or an export without the top "
        "(the published network)",
    )
    parser.add_argument(
        "--save", metavar="FILE.npz", help="write the statistics of the generated images, for next time"
    )
    parser.add_argument("--force", action="store_true", help="replace the file when it exists")
    parser.add_argument("--batch", type=int, default=32, help="images at a time (32)")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the network (float32); its change of FID is measured and printed",
    )
    parser.add_argument("--kid-subsets", type=int, default=100, metavar="N", help="subsets of KID (100)")
    parser.add_argument("--kid-subset-size", type=int, default=1000, metavar="N", help="images of a subset (1000)")
    parser.add_argument("--splits", type=int, default=10, metavar="N", help="of the Inception score (10)")
    parser.add_argument("--neighbors", type=int, metavar="K", help="of precision and recall (3), density (5)")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave images out that cannot be read")
    parser.add_argument(
        "--no-cache", action="store_false", dest="cache", help="neither keep features nor take kept ones"
    )
    add_ray(parser)


def run(args):
    import functools

    from inception_tf.errors import UsageError
    from inception_tf.evaluation.feature_statistics import FeatureStatistics, check_target, is_statistics
    from inception_tf.evaluation.features import FeatureExtractor, Features
    from inception_tf.evaluation.fid import METRICS, check_options, check_sides, compare, open_side, precision_change

    if not args.real and not args.save:
        raise UsageError("Give the real images too, or --save FILE.npz for the statistics of these.")
    if args.save:
        check_target(args.save, args.force)
    metrics = METRICS if args.metrics == "all" else tuple(filter(None, args.metrics.split(",")))
    options = args.kid_subsets, args.kid_subset_size, args.splits, args.neighbors
    check_options(metrics, *options)
    given = [side for side in (args.generated, args.real) if side is not None]
    given = [FeatureStatistics.load(side) if is_statistics(side) else side for side in given]
    check_sides(given, metrics if args.real else ("fid",), args.resize)
    extractor = functools.cache(lambda: FeatureExtractor(args.model, args.resize, args.precision, args.batch))
    with ray_pool(args) as pool:
        sides = [open_side(side, extractor, args.skip_unreadable, args.cache, pool) for side in given]
    lines, data = [], {}
    if args.real:
        kernel = extractor().kernel if "is" in metrics else None
        comparison = compare(*sides, metrics, kernel, *options)
        comparison.precision_of = args.precision
        if args.precision != "float32" and "fid" in metrics and any(isinstance(side, Features) for side in sides):
            exact = FeatureExtractor(args.model, args.resize, "float32", args.batch)
            comparison.precision_change = precision_change(*given, extractor(), exact, cache=args.cache)
        lines, data = [str(comparison)], comparison.to_json()
    if args.save:
        first = sides[0].statistics if isinstance(sides[0], Features) else sides[0]
        first.save(args.save, args.force)
        lines.append(f"Written: {args.save} (mode {first.mode or 'not recorded'}, {first.count} images)")
        data["written"] = {"file": args.save, "mode": first.mode, "count": first.count}
    return Outcome("\n".join(lines), data)
