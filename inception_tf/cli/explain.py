"""Where in photographs the evidence for a model's top classes is: one picture, a heat map for each.

Class activation maps are exact: their mean is the class's logit. They need global average pooling ahead of a linear
classifier, as the Inceptions, the ResNets and Network in Network have it. Grad-CAM (--at) works on any network.
"""

from inception_tf.cli.outcome import Outcome


def add_arguments(parser):
    parser.add_argument("model", help="a .keras file, or a Slim checkpoint")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, patterns or directories")
    parser.add_argument("--top", type=int, default=3, help="how many classes of each photograph (3)")
    parser.add_argument("--class", dest="classes", metavar="NAME", action="append", help="this class, not the top ones")
    parser.add_argument("--at", metavar="END_POINT", help="Grad-CAM at this end point, such as Mixed_6e")
    parser.add_argument("--labels", metavar="FILE", help="the class names, a line each (default: the model's own)")
    parser.add_argument("--out", metavar="FILE.png", help="the picture (the first photograph's name, .explain.png)")
    parser.add_argument("--force", action="store_true", help="replace the picture when it exists")
    parser.add_argument("--exif", action="store_true", help="turn photographs as their EXIF orientation says")


def run(args):
    from pathlib import Path

    from inception_tf import figures, tables
    from inception_tf.analysis.explain import explain, figure
    from inception_tf.images.files import find_images
    from inception_tf.inference.engines import open_engine

    paths = find_images(args.images)
    out = args.out or f"{Path(paths[0]).stem}.explain.png"
    figures.check(out, args.force)
    engine = open_engine(args.model, labels=args.labels)
    found = explain(engine, paths, args.top, args.at, args.classes, args.exif)
    drawn = found[0].positions != (1, 1)
    if drawn:
        figures.save(figure(found), out, args.force)
    rows, data = [], []
    for one in found:
        classes = []
        for i, (index, name, score) in enumerate(one.classes):
            y, x = one.peak(i) if drawn else (None, None)
            rows.append((one.path if i == 0 else "", name, f"{score:.4f}", f"{x}, {y}" if drawn else "–"))
            peak = {"x": x, "y": y} if drawn else None
            classes.append({"index": index, "name": name, "score": score, "peak": peak})
        data.append({"image": str(one.path), "method": one.method, "end_point": one.at, "classes": classes})
    text = tables.render(rows, ("image", "class", "score", "strongest at x, y"), "<<>>")
    said = f"Written: {out} ({found[0].method} at {found[0].at})"
    if not drawn:
        size = "×".join(map(str, engine.preprocessing.size))
        said = f"No picture: {found[0].at} has one position for images of {size}, so its map cannot say where. "
        said += "--at END_POINT gives Grad-CAM at an earlier one."
    return Outcome(f"{text}\n\n{said}", {"images": data, "picture": str(out) if drawn else None})
