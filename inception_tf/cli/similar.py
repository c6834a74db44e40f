"""The photographs most similar to one, near-duplicates and likely wrong labels, by the vectors that `embed` wrote.

--duplicates and --mislabeled look through the photographs of VECTORS; the classes are their folders' names.
"""

from inception_tf.cli.options import MODEL, model_needs_keras
from inception_tf.cli.outcome import Outcome

KERAS = model_needs_keras


def add_arguments(parser):
    parser.add_argument("vectors", help="the .parquet or .npz that embed wrote")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="what to find the like of; needs --model")
    parser.add_argument("--model", help=f"that of embed: {MODEL}")
    parser.add_argument("--top", type=int, default=5, help="how many neighbors of each (5)")
    parser.add_argument("--duplicates", action="store_true", help="find pairs of nearly the same photograph")
    parser.add_argument("--threshold", type=float, default=0.98, help="of --duplicates: the cosine that is one (0.98)")
    ratio = "of --duplicates: their distance as a fraction of that to the next nearest, at most (0.7)"
    parser.add_argument("--ratio", type=float, default=0.7, help=ratio)
    parser.add_argument("--mislabeled", action="store_true", help="find photographs among those of another class")
    parser.add_argument("--neighbors", type=int, default=10, help="of --mislabeled: how many have a vote (10)")
    parser.add_argument("--out", metavar="FILE", help="draw what is found: a .png, .pdf or .svg")
    parser.add_argument("--most", type=int, default=48, help="the most pictures on it (48)")
    parser.add_argument("--force", action="store_true", help="replace the picture when it exists")


def run(args):
    from inception_tf import figures, tables
    from inception_tf.errors import UsageError
    from inception_tf.inference.embed import load_vectors

    if sum([bool(args.images), args.duplicates, args.mislabeled]) != 1:
        raise UsageError("Give photographs to find the like of, or --duplicates, or --mislabeled: one of these.")
    if args.out:
        figures.check(args.out, args.force)
    find = _neighbors if args.images else _duplicates if args.duplicates else _mislabeled
    header, rows, data, tiles, across = find(args, load_vectors(args.vectors))
    text = tables.render(rows, header) or "Nothing found."
    if args.out:
        from inception_tf.evaluation.plots import sheet

        shown = tiles[: max(args.most // across, 1) * across]
        sheet(shown, args.out, f"{args.vectors}: {len(shown)} of {len(tiles)} pictures", across, args.force)
        text += f"\nWritten: {args.out}"
    return Outcome(text, {"vectors": args.vectors, "picture": args.out, **data})


def _neighbors(args, vectors):
    from inception_tf.errors import UsageError
    from inception_tf.evaluation.similar import nearest
    from inception_tf.inference.embed import embed

    if not args.model:
        raise UsageError("The like of a photograph is found by the model of the vectors: --model.")
    queries, failures = embed(args.model, args.images)
    if failures:
        raise UsageError("; ".join(f"{path}: {reason}" for path, reason in failures.items()))
    rows, data, tiles = [], [], []
    for query, indices, cosines in zip(queries.paths, *nearest(vectors.values, queries.values, args.top)):
        found = [(vectors.paths[i], float(cosine)) for i, cosine in zip(indices, cosines)]
        rows += [("" if n else query, path, f"{cosine:.4f}") for n, (path, cosine) in enumerate(found)]
        data.append({"image": query, "similar": [{"image": path, "cosine": cosine} for path, cosine in found]})
        tiles += [(query, "asked"), *((path, f"{cosine:.3f}") for path, cosine in found)]
    return ("image", "similar", "cosine"), rows, {"images": data}, tiles, len(tiles) // len(queries)


def _duplicates(args, vectors):
    from inception_tf.evaluation.similar import duplicates

    found = duplicates(vectors.values, args.threshold, args.ratio)
    pairs = [(vectors.paths[first], vectors.paths[second], cosine) for first, second, cosine in found]
    tiles = [(path, f"{cosine:.3f}") for first, second, cosine in pairs for path in (first, second)]
    data = [{"images": [first, second], "cosine": cosine} for first, second, cosine in pairs]
    rows = [(first, second, f"{cosine:.4f}") for first, second, cosine in pairs]
    return ("image", "near-duplicate", "cosine"), rows, {"duplicates": data}, tiles, 6


def _mislabeled(args, vectors):
    from pathlib import Path

    from inception_tf import tables
    from inception_tf.evaluation.similar import mislabeled

    found = mislabeled(vectors.values, [Path(path).parent.name for path in vectors.paths], args.neighbors)
    rows = [(vectors.paths[row], *classes, tables.percent(agreement, 0)) for row, *classes, agreement in found]
    tiles = [(path, f"{label}\n→ {suggested} {votes}") for path, label, suggested, votes in rows]
    facts = ("row", "label", "suggested", "agreement")
    data = [{"image": vectors.paths[suspect[0]], **dict(zip(facts, suspect))} for suspect in found]
    return ("image", "label", "suggested", "neighbors"), rows, {"mislabeled": data}, tiles, 6
