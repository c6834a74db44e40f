"""Profiles of networks and models by name or by file: as tables, as data, as pictures, side by side."""

from dataclasses import dataclass
from pathlib import Path

from inception_tf import figures, tables
from inception_tf.analysis.naive import DESIGNS, naive_blocks, with_inputs
from inception_tf.analysis.profile import Profile, profile, total
from inception_tf.errors import UsageError
from inception_tf.models.initialization import meta_init
from inception_tf.models.model import build_model
from inception_tf.models.registry import find_network
from inception_tf.slim.catalogue import catalogue
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.detect import detect, weights_of
from inception_tf.slim.names import model_variables, scoped
from inception_tf.zoo import load_model, resolve

COSTS = {"parameters": "parameters", "multiply_adds": "multiply-adds", "activation_bytes": "memory"}

# The networks that the literature on the Inceptions compares them with, the smallest step forward first.
COMPARED = (
    "alexnet_v2",
    "vgg_16",
    "nin",
    "inception_v1",
    "inception_v2",
    "inception_v3",
    "inception_v4",
    "resnet_v1_50",
    "resnet_v1_101",
    "resnet_v1_152",
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
    if resolve(what).kind == "network":
        with meta_init():
            return profile(_build(find_network(str(what)), size, {} if classes is None else {"classes": classes}))
    if classes is not None:
        raise UsageError(f"The classes of {what} are its own. Received: {classes}")
    return _of_keras_file(what, size) if _is_keras_file(what) else _of_checkpoint(what, size)


def _of_keras_file(path, size):
    model = load_model(path)
    if not getattr(model, "card", None):
        return profile(model, size)
    info, own = find_network(model.card.network), model.input_shape[1:]
    size = size or tuple(side or default for side, default in zip(own, model.card.preprocessing["size"]))
    with meta_init():
        other = _build(info, size, {**model.card.options, "input_shape": own})
        if [weight.shape for weight in other.weights] != [weight.shape for weight in model.weights]:
            raise UsageError(f"{path} has layers that fit images of {shape_text(own[:2])} alone.")
        return profile(other)


def profile_of_card(card):
    """The `Profile` of the network that a model's card describes, such as an export carries, on images of its size.

    Raises:
        UsageError: it does not tell the size.
    """
    if card.preprocessing is None:
        raise UsageError(f"The card of {card.network} does not say how large its images are.")
    shape = (*card.preprocessing["size"], card.preprocessing["channels"])
    with meta_init():
        return profile(_build(find_network(card.network), None, {**card.options, "input_shape": shape}))


def _of_checkpoint(path, size):
    checkpoint = open_checkpoint(path)
    found = detect(checkpoint)
    top = {"classes": found.classes} if found.classes else {"include_top": False}
    shapes = weights_of(checkpoint)
    with meta_init():
        model = _build(find_network(found.network), size, {**found.options, **top})
        for name, variable in model_variables(model).items():
            if shapes.get(scoped(found.scope, name)) != tuple(variable.shape):
                images = shape_text(model.input_shape[1:3])
                raise UsageError(f"{path} is not for images of {images}: {name} has another shape. Say which size.")
        return profile(model)


def _is_keras_file(path):
    return Path(path).suffix == ".keras" or (Path(path) / "best.keras").is_file()


def _build(info, size, options):
    shape = options.get("input_shape") or (info.input_size, info.input_size, info.channels)
    return build_model(info, **{**options, "input_shape": (*(size or shape[:2]), shape[2])})


def short(number, unit=""):
    """4.3 k, 23.9 M, 5.71 G; with a unit, 4.3 kB."""
    for factor, prefix, digits in ((1e9, "G", 2), (1e6, "M", 1), (1e3, "k", 1)):
        if number >= factor:
            return f"{number / factor:.{digits}f} {prefix}{unit}"
    return f"{number} {unit}".rstrip()


def times(number, base):
    """×2.75 for as much more than `base`, ÷7.58 for as much less."""
    return f"×{number / base:.3g}" if number >= base else f"÷{base / number:.3g}"


def sides(pair):
    """299, or 299×331 where height and width differ."""
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}×{pair[1]}"


def shape_text(shape):
    return "×".join(map(str, shape))


@dataclass(frozen=True)
class Report:
    """A `Profile` with its naive designs, where it has mixed blocks.

    Attributes:
        profile: the `Profile`.
        blocks: its `NaiveBlock`s, or an empty list.
    """

    profile: Profile
    blocks: list

    @classmethod
    def of(cls, what, size=None, classes=None):
        """The report of what `profile_of` takes."""
        found = profile_of(what, size, classes)
        return cls(found, naive_blocks(found) if found.blocks else [])

    def data(self):
        """All of it as dicts, lists, strings and numbers."""
        layers = self.profile.layers
        return {
            "network": self.profile.name,
            "input": list(self.profile.input),
            **_sums(layers),
            "end_points": [
                {
                    "end_point": name,
                    **_map_data(self.profile.end_points[name]),
                    **_sums(group),
                    **({"branches": branches} if (branches := self._branches(name, group)) else {}),
                }
                for name, group in self._end_points()
            ],
            "kernels": [{"kernel": kind, "layers": len(g), **_sums(g)} for kind, g in self.profile.by("kind").items()],
            "layers": [
                {
                    "layer": layer.path,
                    "end_point": layer.end_point,
                    "branch": layer.branch,
                    "kernel": layer.kind,
                    **_map_data(layer.map),
                    **_sums([layer]),
                }
                for layer in layers
            ],
            **({"naive": [_naive_data(block) for block in self.blocks]} if self.blocks else {}),
        }

    def _branches(self, end_point, layers):
        return [
            {"branch": branch, **_map_data(self.profile.branches[end_point, branch]), **_sums(group)}
            for branch, group in _by_branch(layers).items()
        ]

    def text(self):
        """The tables: by end point and branch, by kernel, and the naive designs where there are blocks."""
        image = shape_text(self.profile.input)
        head = f"{self.profile.name}, one image of {image}, activations as float32"
        parts = [head, self.end_point_table(), self.kernel_table()]
        return "\n\n".join([*parts, *([self.naive_text()] if self.blocks else [])])

    def _end_points(self):
        groups = self.profile.by("end_point")
        return [(name, groups.get(name, [])) for name in self.profile.end_points]

    def end_point_table(self):
        """A row for every end point, and for every branch of it."""
        rows = []
        for name, group in self._end_points():
            rows.append(_row(name, self.profile.end_points[name], group))
            for branch, layers in _by_branch(group).items():
                rows.append(_row(f"  {branch}", self.profile.branches[name, branch], layers))
        rows.append(_row("total", None, self.profile.layers))
        header = ("end point", "output", "parameters", "multiply-adds", "memory", "receptive field", "stride")
        return tables.render(rows, header, "<>>>>>>")

    def kernel_table(self):
        """A row for every shape of kernel, with its share of the whole."""
        layers = self.profile.layers
        whole = [total(layers, cost) or 1 for cost in COSTS]
        rows = []
        for kind, group in sorted(self.profile.by("kind").items(), key=lambda item: -total(item[1], "multiply_adds")):
            sums = [total(group, cost) for cost in COSTS]
            cells = [f"{sums[0]:,}", short(sums[1]), short(sums[2], "B")]
            shares = [f"{100 * part / all_:.1f} %" for part, all_ in zip(sums, whole)]
            rows.append((kind, len(group), *(cell for pair in zip(cells, shares) for cell in pair)))
        header = ("kernel", "layers", "parameters", "", "multiply-adds", "", "memory", "")
        return tables.render(rows, header, "<>>>>>>>")

    def naive_text(self):
        """The naive designs of every end point with blocks: weights, multiply-adds, and how wide its output gets."""
        blocks = naive_blocks(self.profile)
        designs = [name for name in DESIGNS if name in blocks[0].designs]
        baseline = "paper" if "paper" in designs else "built"
        groups = {}
        for block in blocks:
            groups.setdefault(block.end_point, []).append(block)
        rows = {"weights": [], "multiply_adds": []}
        widths, totals = [], {cost: [0] * len(designs) for cost in rows}
        for name, blocks in groups.items():
            for cost, lines in rows.items():
                sums = [sum(getattr(block, cost)(design) for block in blocks) for design in designs]
                totals[cost] = [a + b for a, b in zip(totals[cost], sums)]
                lines.append((name, *_design_cells(cost, sums, designs.index(baseline))))
            last = blocks[-1]
            if any(block.unprojected != block.channels for block in blocks) or last.all_unprojected != last.channels:
                weights = last.projection.weights(last.input) if last.projection else None
                projection = last.projection and f"{last.projection.filters} of {last.input}"
                widths.append(
                    (
                        name,
                        projection,
                        weights and f"{weights:,}",
                        last.channels,
                        last.unprojected,
                        last.all_unprojected,
                    )
                )
        notes = [f"  {name}: {DESIGNS[name]}" for name in designs]
        text = ["The blocks in naive designs, each on the input it has, without the 1×1 convolution after the pooling:"]
        text += ["\n".join(notes)]
        for cost, title in (("weights", "weights of kernels"), ("multiply_adds", "multiply-adds")):
            lines = [*rows[cost], ("total", *_design_cells(cost, totals[cost], designs.index(baseline)))]
            text.append(tables.render(lines, (title, *designs, f"naive : {baseline}"), "<" + ">" * (len(designs) + 1)))
        if widths:
            header = ("channels out", "1×1 after pooling", "its weights", "built", "without it", "without any so far")
            text.append(tables.render(widths, header, "<>>>>>"))
        return "\n\n".join(text)

    def block_text(self, name):
        """The arithmetic of a block, kernel by kernel, in every design.

        Raises:
            UsageError: there is no such block.
        """
        block = self.block(name)
        rows = []
        for design in block.designs:
            for branch, kernels in block.designs[design].items():
                products = [
                    (shape_text((*kernel.size, channels, kernel.filters)), kernel.weights(channels))
                    for kernel, channels in with_inputs(kernels, block.input)
                ]
                weights = sum(weights for _, weights in products)
                rows.append((design, branch, " + ".join(text for text, _ in products), f"{weights:,}"))
            for kernel, channels in block.rest:
                rows.append(
                    (design, "", shape_text((*kernel.size, channels, kernel.filters)), f"{kernel.weights(channels):,}")
                )
            rows.append((design, "all", "", f"{block.weights(design):,}"))
        lines = [f"{block.path} of {self.profile.name}: {block.input} channels in, {block.channels} out"]
        lines += ["", tables.render(rows, ("design", "branch", "height×width×in×out", "weights"), "<<<>")]
        lines += ["", *(f"{name}: {DESIGNS[name]}" for name in block.designs)]
        if block.projection:
            kernel = block.projection
            lines.append(
                f"1×1 after the pooling: {shape_text((*kernel.size, block.input, kernel.filters))} = "
                f"{kernel.weights(block.input):,} weights more; without it {block.unprojected} channels out."
            )
        return "\n".join(lines)

    def block(self, name):
        """The `NaiveBlock` called `name`. Raises a `UsageError` where there is none; it lists those there are."""
        blocks = {block.path: block for block in naive_blocks(self.profile)}
        if name not in blocks:
            raise UsageError(f"{self.profile.name} has no mixed block {name}. It has: {', '.join(blocks)}.")
        return blocks[name]

    def picture(self):
        """A bar chart of the costs by end point; of blocks, their naive design behind what they are."""
        names = [name for name, group in self._end_points() if total(group, "activation_bytes")]
        groups = dict(self._end_points())
        naive = {}
        for block in self.blocks:
            for cost, excess in (("parameters", block.weights), ("multiply_adds", block.multiply_adds)):
                more = excess("naive") - excess("built")
                naive[block.end_point, cost] = naive.get((block.end_point, cost), 0) + more
        picture = figures.figure(12, 1.5 + 0.24 * len(names))
        picture.suptitle(f"{self.profile.name}, one image of {shape_text(self.profile.input)}")
        for axes, (cost, title) in zip(picture.subplots(1, 3, sharey=True), COSTS.items()):
            scale, unit = (1e6, "MB") if cost == "activation_bytes" else (1e6, "millions")
            sums = [total(groups[name], cost) / scale for name in names]
            if any(c == cost for _, c in naive):
                wide = [s + naive.get((name, cost), 0) / scale for s, name in zip(sums, names)]
                axes.barh(names, wide, color="0.85", label="its blocks in the naive design")
            axes.barh(names, sums, color="tab:blue", label="as built")
            axes.set_title(f"{title}, {unit}")
            axes.grid(axis="x", alpha=0.3)
            axes.tick_params(axis="y", labelsize=8)
            if axes.get_legend_handles_labels()[0][1:]:
                axes.legend(fontsize=8, loc="lower right")
        axes.invert_yaxis()
        return picture


def _sums(layers):
    return {cost: total(layers, cost) for cost in COSTS}


def _by_branch(layers):
    groups = {}
    for layer in layers:
        if layer.branch:
            groups.setdefault(layer.branch, []).append(layer)
    return dict(sorted(groups.items()))


def _map_data(x):
    return {
        "output": list(x.shape),
        "receptive_field": list(x.receptive_field),
        "stride": list(x.stride),
        "first_field": [list(x.low), list(x.high)],
    }


def _row(name, x, layers):
    sums = [total(layers, cost) for cost in COSTS]
    costs = [f"{sums[0]:,}", short(sums[1]), short(sums[2], "B")] if layers else ["", "", ""]
    if x is None:
        return (name, "", *costs, "", "")
    stride = sides(x.stride) if x.stride[0] else "–"
    return (name, shape_text(x.shape), *costs, sides(x.receptive_field), stride)


def _design_cells(cost, sums, baseline):
    shown = [f"{number:,}" if cost == "weights" else short(number) for number in sums]
    return (*shown, f"{sums[-1] / sums[baseline]:.1f}")


def _naive_data(block):
    return {
        "block": block.path,
        "end_point": block.end_point,
        "channels_in": block.input,
        "weights": {design: block.weights(design) for design in block.designs},
        "multiply_adds": {design: block.multiply_adds(design) for design in block.designs},
        "projection_weights": block.projection.weights(block.input) if block.projection else None,
        "channels": {
            "built": block.channels,
            "unprojected": block.unprojected,
            "all_unprojected": block.all_unprojected,
        },
        "designs": {
            design: {
                branch: [
                    [*kernel.size, channels, kernel.filters] for kernel, channels in with_inputs(steps, block.input)
                ]
                for branch, steps in branches.items()
            }
            for design, branches in block.designs.items()
        },
    }


@dataclass(frozen=True)
class Comparison:
    """Networks and models side by side, each beside the first.

    Attributes:
        rows: a dict each: `network`, `input`, `classes`, the sums of `COSTS`, `receptive_field` of the last map, `top1`
            (published, in percent, or None).
    """

    rows: list

    def data(self):
        return self.rows

    def text(self):
        first = self.rows[0]
        rows = [
            (
                row["network"],
                shape_text(row["input"]),
                row["classes"] or "–",
                f"{row['parameters']:,}",
                times(row["parameters"], first["parameters"]),
                short(row["multiply_adds"]),
                times(row["multiply_adds"], first["multiply_adds"]),
                short(row["activation_bytes"], "B"),
                sides(row["receptive_field"]),
                "–" if row["top1"] is None else row["top1"],
            )
            for row in self.rows
        ]
        header = ("network", "input", "classes", "parameters", "", "multiply-adds", "", "memory", "sees", "top-1 %")
        notes = [
            f"× and ÷: beside {first['network']}. sees: the receptive field of the last map of several places.",
            "top-1: of the published checkpoint, one central crop; –: none was published.",
        ]
        return "\n".join([tables.render(rows, header, "<>>>>>>>>>"), "", *notes])

    def picture(self):
        """Bars of parameters, multiply-adds and published top-1."""
        names = [row["network"] for row in self.rows]
        picture = figures.figure(12, 1.2 + 0.4 * len(names))
        bars = (("parameters", "parameters, millions", 1e6), ("multiply_adds", "multiply-adds, billions", 1e9))
        for axes, (cost, title, scale) in zip(
            picture.subplots(1, 3, sharey=True), (*bars, ("top1", "published top-1, %", 1))
        ):
            values = [(row[cost] or 0) / scale for row in self.rows]
            axes.bar_label(axes.barh(names, values), [f"{v:.3g}" if v else "none published" for v in values], padding=3)
            axes.margins(x=0.2)
            axes.set_title(title)
        axes.set_xlim(0, 100)
        axes.invert_yaxis()
        return picture


def compare(whats=COMPARED, size=None, classes=None):
    """A `Comparison` of what `profile_of` takes. The published accuracy is that of a network by name alone."""
    published = {entry.network: entry.top1 for entry in catalogue() if entry.weights == "imagenet"}
    rows = []
    for what in dict.fromkeys(whats):
        found = profile_of(what, size, classes if resolve(what).kind == "network" else None)
        maps = [x for x in found.end_points.values() if len(x.shape) == 3 and x.shape[:2] != (1, 1)]
        last = list(found.end_points.values())[-1].shape
        rows.append(
            {
                "network": str(what),
                "input": list(found.input),
                "classes": last[0] if len(last) == 1 else None,
                **_sums(found.layers),
                "receptive_field": list(maps[-1].receptive_field),
                "top1": published.get(what),
            }
        )
    return Comparison(rows)
