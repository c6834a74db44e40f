"""The figures of a training run and of an evaluation."""

import bisect
import contextlib
import math
import warnings
from functools import partial

import numpy as np

from inception_tf import figures, tables
from inception_tf.errors import ImageError
from inception_tf.images.decoding import decode_image, read_image

_GRAY, _BLUE, _ORANGE = "#6b7280", "#2f6db3", "#d1571f"
_STYLE = {
    "text.parse_math": False,  # a class may be called "costs $5 or $6"
    "text.color": "#1d2330",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "grid.color": "#e5e7eb",
}
# matplotlib's own font has no Chinese, Japanese and Korean.
_CJK_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Hiragino Sans", "Microsoft YaHei")
_DPI = 150

# More classes than these make a matrix without numbers, and one without names.
_NUMBERED, _NAMED = 30, 100


@contextlib.contextmanager
def _style():
    """A context, and a decorator, for drawing in our style, with fonts for the names of classes and files."""
    with figures.style(_STYLE), warnings.catch_warnings():
        import matplotlib
        from matplotlib import font_manager

        installed = {font.name for font in font_manager.fontManager.ttflist}
        matplotlib.rcParams["font.family"] = ["DejaVu Sans", *(name for name in _CJK_FONTS if name in installed)]
        warnings.simplefilter("ignore")  # of letters that no font here has
        yield


@_style()
def learning_curves(rows, path, overwrite=False):
    """Draws loss and accuracy over the steps of a training run, its phases marked.

    Args:
        rows: dicts with "step" and any of "phase", "loss", "accuracy", "val_loss" and "val_accuracy", in the order of
            the steps. What is not a finite number is left out.
        path: the picture, a .png, .pdf or .svg.
        overwrite: whether it may be replaced.

    Raises:
        NoMatplotlibError, UsageError, InceptionTFError: as `figures.save`.
    """
    figure = figures.figure(12, 5, dpi=_DPI)
    last = max((row["step"] for row in rows), default=1)
    lines = {}
    several = any("val_pr_auc" in row for row in rows)
    score = ("Area under precision and recall", "pr_auc", max) if several else ("Accuracy", "accuracy", max)
    for axes, (title, key, best) in zip(figure.subplots(1, 2), (("Loss", "loss", min), score)):
        train, val = _series(rows, key), _series(rows, f"val_{key}")
        lines |= _curves(axes, train, val)
        axes.grid()
        axes.set(xlim=(0, 1.02 * last), xlabel="step")
        axes.set_title(title, loc="left", size=13, weight="bold", pad=22)
        if not train[1] + val[1]:
            axes.text(0.5, 0.5, "no values", color=_GRAY, ha="center", transform=axes.transAxes)
        elif key != "loss":
            low = math.floor(10 * min(train[1] + val[1]) - 1e-9) / 10
            axes.set_ylim(max(low, 0), 1 + 0.02 * (1 - low))
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %" if value < 1.001 else "")
        else:
            # Single steps may leap: they are not to flatten the rest.
            axes.set_ylim(0, 1.08 * max([np.percentile(train[1] or [0], 99), *val[1]]) or 1)
        if val[1]:
            value = best(val[1])
            step, value = val[0][val[1].index(value)], tables.percent(value) if key != "loss" else f"{value:.4f}"
            axes.set_title(f"best on validation: {value}, step {step:,}", loc="right", color=_GRAY, pad=22)
        _mark_phases(axes, rows, last)
    if lines:
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=2, frameon=False)
    figures.save(figure, path, overwrite)


def _series(rows, key):
    """Steps and values of a key, as far as they are finite numbers."""
    found = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))]
    found = [(step, value) for step, value in found if math.isfinite(value)]
    return [step for step, _ in found], [value for _, value in found]


def _curves(axes, train, val):
    """Draws them; a dict from their names to the lines."""
    (steps, values), lines = train, {}
    if len(values) >= 100:
        axes.plot(steps, values, color=_BLUE, alpha=0.25, linewidth=0.8)
        window = len(values) // 50
        values = np.convolve(values, np.ones(window) / window, "valid")
        steps = steps[window // 2 :][: len(values)]
        (lines[f"training, mean of {window}"],) = axes.plot(steps, values, color=_BLUE, linewidth=1.8)
    elif values:
        (lines["training"],) = axes.plot(steps, values, color=_BLUE, linewidth=1.8, marker="o", markersize=3)
    if val[1]:
        (lines["validation"],) = axes.plot(*val, color=_ORANGE, linewidth=1.8, marker="o", markersize=4)
    return lines


def _mark_phases(axes, rows, last):
    # A row is written at the end of its steps, so a phase begins at the row before its first.
    starts = [
        (before.get("step", 0), row["phase"])
        for before, row in zip([{}, *rows], rows)
        if row.get("phase") not in (None, before.get("phase"))
    ]
    for (start, phase), (end, _) in zip(starts, [*starts[1:], (last, None)]):
        text = _fit(phase, 5 * (end - start) / last - 0.1, 9)
        if text != "…":
            axes.text(start, 1.02, text, size=9, color=_GRAY, transform=axes.get_xaxis_transform())
        if start:
            axes.axvline(start, color=_GRAY, linewidth=0.8, linestyle="--")


@_style()
def confusion_matrix(evaluation, path, overwrite=False):
    """Draws which class was called which: with numbers for up to 30 classes, else as a heat map beside a list of the
    most frequent confusions.

    Classes that have no images are left out, where most have none; answers that name them are one column.

    Args:
        evaluation: an `Evaluation`.
        path, overwrite: as in `learning_curves`, errors too.
    """
    counts, names, columns = _present_classes(evaluation)
    numbered, named = len(names) <= _NUMBERED, len(names) <= _NAMED
    # A cell of a heat map has a pixel at least, or lines would vanish.
    cell = max(2.5 / len(names), 0.42) if numbered else 0.08 if named else max(7 / len(names), 1.2 / _DPI)
    width, aside = cell * len(columns) + 2.5, 0 if numbered else 4.5
    figure = figures.figure(max(width, 6) + aside, cell * len(names) + 2.5, dpi=_DPI)
    legend = "Number: images. Color: fraction of the true class." if numbered else "Color: fraction of the true class."
    figure.suptitle(f"Confusion matrix\n{_summary(evaluation)}. {legend}", size=9)
    if numbered:
        axes = figure.subplots()
        _write_numbers(axes, counts)
    else:
        axes, text = figure.subplots(1, 2, width_ratios=(max(width, 6), aside))
        text.axis("off")
        text.text(0, 1, _frequent_confusions(counts[:, : len(names)], names), size=8, va="top", linespacing=1.6)
    axes.imshow(_colors(counts, 0.05 if numbered else 0.3), aspect="auto", interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted", ylabel="true")
    if named:
        size, inches = (9, 2.2) if numbered else (5, 1.6)
        labels = {name: _fit(name, inches, size) for name in columns}
        angle = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if numbered else {"rotation": 90}
        axes.set_xticks(range(len(columns)), [labels[name] for name in columns], size=size, **angle)
        axes.set_yticks(range(len(names)), [labels[name] for name in names], size=size)
        axes.tick_params(length=0)
    figures.save(figure, path, overwrite)


def _present_classes(evaluation):
    """The confusion matrix, the names of its rows and those of its columns, as `confusion_matrix` draws them."""
    counts, names = evaluation.confusion, list(evaluation.labels)
    present = np.flatnonzero(counts.sum(axis=1))
    if 2 * len(present) >= len(names):
        return counts, names, names
    rest = counts[present].sum(axis=1) - counts[np.ix_(present, present)].sum(axis=1)
    counts, names = counts[np.ix_(present, present)], [names[i] for i in present]
    return (np.column_stack([counts, rest]), names, [*names, "other classes"]) if rest.any() else (counts, names, names)


def _write_numbers(axes, counts):
    """The counts in their cells, recall at the end of the rows, precision on top of the columns."""
    size = min(10, 30 / len(str(counts.max())))
    for i, j in zip(*np.nonzero(counts + np.eye(*counts.shape, dtype=int))):
        dark = counts[i, j] > (0.6 if i == j else 0.9) * counts[i].sum()
        axes.text(j, i, str(counts[i, j]), size=size, color="white" if dark else "black", ha="center", va="center")
    for i, (support, answered) in enumerate(zip(counts.sum(axis=1), counts.sum(axis=0))):
        recall, precision = (tables.percent(counts[i, i] / n if n else None, 0) for n in (support, answered))
        axes.text(counts.shape[1] - 0.4, i, recall, size=8, color=_GRAY, va="center")
        axes.text(i, -0.6, precision, size=8, color=_GRAY, ha="center")
    axes.text(counts.shape[1] - 0.4, -0.6, "recall", size=8, color=_GRAY, style="italic")
    axes.text(-0.6, -0.6, "precision", size=8, color=_GRAY, ha="right", style="italic")


def _frequent_confusions(counts, names):
    wrong = counts * (1 - np.eye(len(names), dtype=np.int64))
    frequent = [np.unravel_index(i, wrong.shape) for i in np.argsort(-wrong, axis=None, kind="stable")[:20]]
    pairs = [(wrong[i, j], *(_fit(names[k], 1.9, 8) for k in (i, j))) for i, j in frequent if wrong[i, j]]
    lines = [f"{count:,}: {true} → {predicted}" for count, true, predicted in pairs]
    return "\n".join(["Most frequent confusions, true → predicted", *lines] if lines else ["No errors"])


def _summary(evaluation):
    return f"{len(evaluation):,} images, top-1 {tables.percent(evaluation.top1)}"


def _colors(counts, faintest):
    """float array (rows, columns, 3): the fraction of the row, right answers blue, errors orange from `faintest`."""
    import matplotlib

    fraction = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    blues, oranges = matplotlib.colormaps["Blues"], matplotlib.colormaps["Oranges"]
    right = np.eye(*counts.shape, dtype=bool)[..., None]
    errors = oranges(faintest + (0.7 - faintest) * np.sqrt(fraction))
    image = np.where(right, blues(0.15 + 0.75 * fraction), errors)[..., :3]
    image[counts == 0] = matplotlib.colors.to_rgb("#f6f7f9")
    return image


@_style()
def confident_errors(evaluation, examples, path, count=24, overwrite=False):
    """Draws a sheet of the images whose wrong answers have the highest scores: true class → answer, score, file.

    Args:
        evaluation: an `Evaluation`.
        examples: the `Examples` it was made on.
        path, overwrite: as in `learning_curves`, errors too.
        count: the most images to show.
    """
    e, rows = evaluation, evaluation.errors[:count]
    shown = f"{len(rows)} of {len(e.errors):,} errors; {_summary(e)}. True class → prediction and its score."
    title = f"Most confident errors\n{shown}" if len(rows) else f"No errors\n{_summary(e)}"

    def read(i):
        return decode_image(examples.read(e.index[i]), e.exif_rotation)

    def tiles():
        for i in rows:
            answer = f"→ {_fit(e.labels[e.predicted[i]], 1.4, 9)} {e.score[i]:.2f}"
            text = f"{_fit(e.labels[e.truth[i]], 1.9, 9)}\n{answer}"
            yield partial(read, i), text, e.names[i]

    _draw_sheet(tiles(), len(rows), path, title, max(min(len(rows), 6), 3), overwrite)


@_style()
def sheet(tiles, path, title, across=6, overwrite=False):
    """Draws a sheet of image files, row by row.

    Args:
        tiles: a list of (image file, the text above it).
        path, overwrite: as in `learning_curves`, errors too.
        title: the text above all.
        across: how many in a row.
    """
    tiles_of = (
        (partial(read_image, file, decoder="pillow"), "\n".join(_fit(t, 1.9, 9) for t in text.split("\n")), file)
        for file, text in tiles
    )
    _draw_sheet(tiles_of, len(tiles), path, title, across, overwrite)


def _draw_sheet(tiles, count, path, title, across, overwrite):
    """Draws (what reads the pixels, the text above, the file's name), `count` of them."""
    down = math.ceil(count / across)
    figure = figures.figure(2.2 * across, 0.7 + 2.5 * down, dpi=_DPI)
    figure.suptitle(title, size=9)
    for position, (read, text, name) in enumerate(tiles):
        axes = figure.add_subplot(down, across, position + 1, xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        try:
            image = read()
            step = max(image.shape) // 400 + 1
            axes.imshow(image[::step, ::step])
        except (ImageError, OSError):  # it was there a moment ago
            axes.text(0.5, 0.5, "cannot be read", color=_GRAY, ha="center", transform=axes.transAxes)
        axes.set_title(text, color=_ORANGE)
        axes.set_xlabel(_fit(name.replace("\\", "/").rpartition("/")[2], 1.9, 6.5), size=6.5, color=_GRAY)
    figures.save(figure, path, overwrite)


def _fit(text, inches, size):
    """A text on a line, or as much of its beginning as fits a width, with an ellipsis; names of files hold anything."""
    measured = figures.figure(1, 1, dpi=_DPI).text(0, 0, "", size=size)

    def width(part):
        measured.set_text(part)
        return measured.get_window_extent().width / _DPI

    text = str(text).encode("utf-8", "replace").decode()
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    if width(text) <= inches:
        return text
    end = bisect.bisect_right(range(len(text)), inches, key=lambda n: width(text[:n] + "…"))
    return text[: max(end - 1, 0)].rstrip() + "…"
