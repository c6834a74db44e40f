"""Profiles of networks and models by name or by file: as tables, as data, side by side."""

import itertools
import math

from inception_tf import tables
from inception_tf.analysis.naive import DESIGNS, naive_blocks
from inception_tf.analysis.profile import profile, total
from inception_tf.errors import UsageError
from inception_tf.models.initialization import meta_init
from inception_tf.models.model import build_model
from inception_tf.models.registry import find_network
from inception_tf.slim.catalogue import catalogue
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.detect import detect, weights_of
from inception_tf.slim.names import model_variables, scoped, shape_text
from inception_tf.tables import short
from inception_tf.zoo import load_model, resolve

COSTS = {"parameters": "parameters", "multiply_adds": "multiply-adds", "activation_bytes": "memory"}

# The networks that the literature on the Inceptions compares them with, the smallest step forward first.
COMPARED = (
    *("alexnet_v2", "vgg_16", "nin", "inception_v1", "inception_v2", "inception_v3", "inception_v4"),
    *("resnet_v1_50", "resnet_v1_101", "resnet_v1_152"),
)


def profile_of(what, size=None, classes=None):
    """The `Profile` of a network by name, or of a `.keras` file, a run's directory or a Slim checkpoint.

    Args:
        what: the name or the path.
        size: (height, width) of the image. Default: as published, or as the model was made for.
        classes: of a network by name. Default: as published.

    Raises:
        UsageError: no such network; an image too small, or one that the model's fully connected layers do not fit.
        CheckpointError, MismatchError: the file is no model.
    """
    source = resolve(what)
    if source.kind in ("network", "published"):
        return _profile(what, {} if classes is None else {"classes": classes}, size)
    if classes is not None:
        raise UsageError(f"The classes of {what} are its own. Received: {classes}")
    if source.kind == "keras":
        model = load_model(what)
        if not getattr(model, "card", None):
            return profile(model, size)
        sides = [side or known for side, known in zip(model.input_shape[1:3], model.card.preprocessing["size"])]
        options = {**model.card.options, "input_shape": (*sides, model.input_shape[3])}
        shapes = {name: tuple(variable.shape) for name, variable in model_variables(model).items()}
        return _profile(model.card.network, options, size, shapes, what)
    checkpoint = open_checkpoint(what)
    found = detect(checkpoint)
    shapes = {name.removeprefix(scoped(found.scope, "")): shape for name, shape in weights_of(checkpoint).items()}
    return _profile(found.network, found.arguments, size, shapes, what)


def profile_of_card(card):
    """The `Profile` of the network that a model's card describes, such as an export carries, on images of its size.

    Raises:
        UsageError: it does not tell the size.
    """
    if card.preprocessing is None:
        raise UsageError(f"The card of {card.network} does not say how large its images are.")
    shape = (*card.preprocessing["size"], card.preprocessing["channels"])
    return _profile(card.network, {**card.options, "input_shape": shape})


def _profile(network, options, size=None, shapes=None, path=None):
    """The `Profile` of a network, whose variables must have the `shapes` of those in a file."""
    info = find_network(str(network))
    shape = options.get("input_shape") or (info.input_size, info.input_size, info.channels)
    shape = (*(size or shape[:2]), shape[2])
    with meta_init():
        model = build_model(info, **{**options, "input_shape": shape})
        for name, variable in model_variables(model).items() if shapes else ():
            if shapes.get(name) != tuple(variable.shape):
                images = shape_text(shape[:2])
                raise UsageError(f"{path} is not for images of {images}: {name} has another shape. Say which size.")
        return profile(model)


def times(number, base):
    """×2.75 for as much more than `base`, ÷7.58 for as much less."""
    return f"×{number / base:.3g}" if number >= base else f"÷{base / number:.3g}"


def sides(pair):
    """299, or 299×331 where height and width differ."""
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}×{pair[1]}"


def profile_data(found):
    """All of a `Profile`, and of the naive designs of its blocks, as dicts, lists, strings and numbers."""
    groups, end_points = found.by("end_point"), []
    for name, output in found.end_points.items():
        layers = groups.get(name, [])
        branches = [
            {"branch": branch, **_positions(x), **_sums([layer for layer in layers if layer.branch == branch])}
            for (end_point, branch), x in found.branches.items()
            if end_point == name
        ]
        entry = {"end_point": name, **_positions(output), **_sums(layers)}
        end_points.append({**entry, "branches": branches} if branches else entry)
    data = {
        "network": found.name,
        "input": list(found.input),
        **_sums(found.layers),
        "end_points": end_points,
        "kernels": [
            {"kernel": kind, "layers": len(layers), **_sums(layers)} for kind, layers in found.by("kind").items()
        ],
        "layers": [
            {
                "layer": layer.path,
                "end_point": layer.end_point,
                "branch": layer.branch,
                "kernel": layer.kind,
                **_positions(layer.output),
                **_sums([layer]),
            }
            for layer in found.layers
        ],
    }
    return {**data, "naive": naive_blocks(found)} if found.blocks else data


def block_data(found, path):
    """What `naive_blocks` says of a block.

    Raises:
        UsageError: there is no such block.
    """
    blocks = {block["block"]: block for block in naive_blocks(found)}
    if path not in blocks:
        raise UsageError(f"{found.name} has no mixed block {path}. It has: {', '.join(blocks)}.")
    return blocks[path]


def _sums(layers):
    return {cost: total(layers, cost) for cost in COSTS}


def _positions(x):
    return {
        "output": list(x.shape),
        "receptive_field": list(x.receptive_field),
        "stride": list(x.stride),
        "first_field": [list(x.low), list(x.high)],
    }


def profile_text(data):
    """The tables of what `profile_data` returns: by end point and branch, by kernel, and the naive designs."""
    rows = []
    for entry in data["end_points"]:
        for part in (entry, *entry.get("branches", ())):
            name = part.get("end_point") or f"  {part['branch']}"
            field, stride = sides(part["receptive_field"]), sides(part["stride"]) if part["stride"][0] else "–"
            rows.append((name, shape_text(part["output"]), *_cost_cells(part), field, stride))
    rows.append(("total", "", *_cost_cells(data), "", ""))
    header = ("end point", "output", "parameters", "multiply-adds", "memory", "receptive field", "stride")
    parts = [f"{data['network']}, one image of {shape_text(data['input'])}, activations as float32"]
    parts.append(tables.render(rows, header, "<>>>>>>"))
    rows = []
    for kind in sorted(data["kernels"], key=lambda kind: -kind["multiply_adds"]):
        fractions = (f"{100 * kind[cost] / (data[cost] or 1):.1f} %" for cost in COSTS)
        rows.append((kind["kernel"], kind["layers"], *itertools.chain(*zip(_cost_cells(kind), fractions))))
    header = ("kernel", "layers", "parameters", "", "multiply-adds", "", "memory", "")
    parts.append(tables.render(rows, header, "<>>>>>>>"))
    return "\n\n".join([*parts, naive_text(data["naive"])] if "naive" in data else parts)


def _cost_cells(entry):
    return f"{entry['parameters']:,}", short(entry["multiply_adds"]), short(entry["activation_bytes"], "B")


def naive_text(blocks):
    """Tables of what `naive_blocks` returns: weights and multiply-adds."""
    groups = {block["end_point"]: [] for block in blocks}
    for block in blocks:
        groups[block["end_point"]].append(block)
    designs = list(blocks[0]["designs"])
    baseline = "paper" if "paper" in designs else "built"
    parts = ["The blocks in naive designs, each on the input it has, without the 1×1 convolution after the pooling:"]
    parts.append("\n".join(f"  {name}: {DESIGNS[name]}" for name in designs))
    columns = (("weights", "weights of kernels", "{:,}".format), ("multiply_adds", "multiply-adds", short))
    for count, title, shown in columns:
        rows = []
        for name, group in [*groups.items(), ("total", blocks)]:
            sums = {design: sum(block[count][design] for block in group) for design in designs}
            rows.append((name, *map(shown, sums.values()), f"{sums['naive'] / sums[baseline]:.1f}"))
        header = (title, *designs, f"naive : {baseline}")
        parts.append(tables.render(rows, header, "<" + ">" * (len(designs) + 1)))
    return "\n\n".join(parts)


def block_text(network, block):
    """The arithmetic of a block, as `block_data` returns it, kernel by kernel, in every design."""
    rows, channels = [], block["channels"]
    for design, branches in block["designs"].items():
        parts = [*branches.items(), *(("", [shape]) for shape in block["rest"])]
        for branch, shapes in parts:
            weights = sum(map(math.prod, shapes))
            rows.append((design, branch, " + ".join(map(shape_text, shapes)), f"{weights:,}"))
        rows.append((design, "all", "", f"{block['weights'][design]:,}"))
    lines = [f"{block['block']} of {network}: {block['channels_in']} channels in, {channels['built']} out", ""]
    lines += [tables.render(rows, ("design", "branch", "height×width×in×out", "weights"), "<<<>"), ""]
    lines += [f"{name}: {DESIGNS[name]}" for name in block["designs"]]
    for shape in block["projection"]:
        lines.append(
            f"1×1 after the pooling: {shape_text(shape)} = {math.prod(shape):,} weights more; "
            f"without it {channels['unprojected']} channels out."
        )
    return "\n".join(lines)


def compare_networks(whats=COMPARED, size=None, classes=None):
    """Networks and models side by side, as `profile_of` takes them.

    Returns:
        A list of dicts: `network`, `input`, `classes`, the sums of `COSTS`, `receptive_field` of the last feature map
        of several positions, `top1`, the published accuracy of a network by name in percent, or None.
    """
    published = {entry.network: entry.top1 for entry in catalogue() if entry.weights == "imagenet"}
    rows = []
    for what in dict.fromkeys(whats):
        found = profile_of(what, size, classes if resolve(what).kind == "network" else None)
        *_, last = found.end_points.values()
        *_, spatial = (x for x in found.end_points.values() if len(x.shape) == 3 and x.shape[:2] != (1, 1))
        rows.append(
            {
                "network": str(what),
                "input": list(found.input),
                "classes": last.shape[0] if len(last.shape) == 1 else None,
                **_sums(found.layers),
                "receptive_field": list(spatial.receptive_field),
                "top1": published.get(what),
            }
        )
    return rows


def comparison_text(rows):
    """A table of what `compare_networks` returns, each beside the first."""
    first, lines = rows[0], []
    for row in rows:
        parameters, multiply_adds, memory = _cost_cells(row)
        more = (times(row[cost], first[cost]) for cost in ("parameters", "multiply_adds"))
        costs = (parameters, next(more), multiply_adds, next(more), memory, sides(row["receptive_field"]))
        accuracy = "–" if row["top1"] is None else row["top1"]
        lines.append((row["network"], shape_text(row["input"]), row["classes"] or "–", *costs, accuracy))
    costs = ("parameters", "", "multiply-adds", "", "memory", "receptive field")
    notes = [
        f"× and ÷: beside {first['network']}. Receptive field: of the last feature map of several positions.",
        "top-1: of the published checkpoint, one central crop; –: none was published.",
    ]
    table = tables.render(lines, ("network", "input", "classes", *costs, "top-1 %"), "<>>>>>>>>>")
    return "\n".join([table, "", *notes])
