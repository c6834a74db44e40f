"""A map of class scores over a larger photograph in one pass, as an NPZ file and a picture.

The fully connected layers run as convolutions, so what would take many crops takes one pass; --crops runs those too
and says how fast they are and how far they agree.
"""

from inception_tf.cli.outcome import Outcome
from inception_tf.cli.profile import size


def add_arguments(parser):
    parser.add_argument("model", help="a .keras file, or a Slim checkpoint")
    parser.add_argument("image", help="the photograph")
    parser.add_argument(
        "--out", metavar="PREFIX", help="write PREFIX.npz and PREFIX.png (the photograph's name, .dense)"
    )
    parser.add_argument(
        "--size",
        type=side,
        metavar="N|HxW|original",
        help="resize to this short side, or to height x width, or not (384 for networks of 224, 512 for those of 299)",
    )
    parser.add_argument(
        "--class", dest="classes", metavar="NAME", action="append", help="draw this class, not the best"
    )
    parser.add_argument("--top", type=int, default=5, help="how many classes to list (5)")
    parser.add_argument("--labels", metavar="FILE", help="the class names, a line each (default: the model's own)")
    parser.add_argument("--crops", action="store_true", help="compare with separate crops, in scores and in time")
    parser.add_argument("--force", action="store_true", help="replace the files when they exist")
    parser.add_argument("--exif", action="store_true", help="turn the photograph as its EXIF orientation says")


def side(text):
    """A short side, (height, width), or "original"."""
    if text == "original":
        return text
    height, width = size(text)
    return height if text.isdecimal() else (height, width)


def run(args):
    from pathlib import Path

    from inception_tf import figures, tables
    from inception_tf.analysis.dense import compare_with_crops, dense_model, score_map
    from inception_tf.analysis.explain import find_class
    from inception_tf.errors import UsageError
    from inception_tf.files import atomic_write, refuse_existing
    from inception_tf.images.decoding import read_image
    from inception_tf.inference.engines import KerasEngine, open_engine

    prefix = args.out or f"{Path(args.image).stem}.dense"
    npz, png = Path(f"{prefix}.npz"), Path(f"{prefix}.png")
    figures.check(png, args.force)
    refuse_existing(npz, args.force)
    if args.top < 1:
        raise UsageError(f"top must be at least 1. Received: {args.top}")
    image = read_image(args.image, args.exif)
    engine = open_engine(args.model, labels=args.labels)
    if not isinstance(engine, KerasEngine):
        raise UsageError(
            "A SavedModel takes images of one size. Give the .keras file or the checkpoint it was exported from."
        )
    shown = [find_class(engine.labels, name) for name in args.classes or ()]
    model = dense_model(engine.model)
    result = score_map(model, image, engine.labels, image.shape[:2] if args.size == "original" else args.size)
    crops = compare_with_crops(model, result.inputs, min(engine.preprocessing.size)) if args.crops else None
    best = result.best(args.top)
    figure = result.figure(Path(args.image).name, shown or [best[0][0]])
    with atomic_write(npz, args.force) as part:
        result.save(part)
    figures.save(figure, png, args.force)

    data = {
        "scores": list(result.scores.shape),
        "resized": list(result.inputs.shape[1:3]),
        "stride": list(result.positions.stride),
        "classes": [dict(zip(("index", "name", "mean", "largest"), one)) for one in best],
        "npz": str(npz),
        "picture": str(png),
    }
    rows = [(name, f"{mean:.4f}", f"{largest:.4f}") for _, name, mean, largest in best]
    text = [
        "{}×{} scores of {} classes on {}×{} pixels, {} apart.".format(
            *data["scores"], *data["resized"], data["stride"][0]
        ),
        tables.render(rows, ("class", "mean score", "largest"), "<>>"),
    ]
    if crops:
        data["crops"] = crops
        text.append(
            "{crops} crops of {side}×{side} take {ratio:.1f} times as long as one pass: {crops_seconds:.2f} s to "
            "{pass_seconds:.2f} s, for {work:.1f} times the multiply-adds.\n"
            "The best class is the same at {same_class} of {crops} positions; largest difference of a score "
            "{score_difference:.2g}.\n"
            "Beyond a crop's border lies padding; in the one pass the image goes on there. No padding reached {free} "
            "of the pass's {crops} scores.".format(**crops)
        )
    return Outcome("\n\n".join([*text, f"Written: {npz}, {png}"]), data)
