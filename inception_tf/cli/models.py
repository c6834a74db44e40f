"""The networks and their published checkpoints."""

from inception_tf.cli.outcome import Outcome


def add_arguments(parser):
    parser.add_argument("pattern", nargs="?", default="*", help="a wildcard such as 'inception*' (all)")


def run(args):
    import dataclasses

    from inception_tf import tables
    from inception_tf.errors import UsageError
    from inception_tf.models.registry import find_network, list_models
    from inception_tf.slim.catalogue import catalogue

    names = list_models(args.pattern)
    if not names:
        raise UsageError(f"No network matches {args.pattern!r}. There are: {', '.join(list_models())}.")
    rows, data = [], []
    for name in names:
        info = find_network(name)
        published = [entry for entry in catalogue() if entry.network == name]
        size = f"{info.input_size}×{info.input_size}"
        for entry in published:
            rows.append((name, entry.weights, entry.classes, size, entry.top1, entry.top5))
        if not published:
            rows.append((name, None, info.classes, size, None, None))
        data.append(
            {
                "network": name,
                "classes": info.classes,
                "input_size": info.input_size,
                "weights": [dataclasses.asdict(entry) | {"name": entry.name, "url": entry.url} for entry in published],
            }
        )
    header = ("network", "weights", "classes", "input", "top-1 %", "top-5 %")
    return Outcome(tables.render(rows, header), data)
