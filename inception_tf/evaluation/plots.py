"""Pictures of a training run and of an evaluation."""

import bisect
import math
import warnings

import numpy as np

from inception_tf import figures
from inception_tf.errors import ImageError
from inception_tf.images.decoding import decode_image

_INK, _GREY, _FAINT = "#1d2330", "#6b7280", "#e5e7eb"
_BLUE, _ORANGE = "#2f6db3", "#d1571f"
_DPI = 150
_MARGIN = 0.35  # inches, as all lengths here

# More classes than these make a matrix without numbers, and one without names.
_NUMBERED, _NAMED = 30, 100


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
    left, top, width, height, gap = 0.75, 1.0, 4.9, 3.3, 0.95
    sheet = _Sheet(left + 2 * width + gap + _MARGIN, top + height + 1.1)
    last = max((row["step"] for row in rows), default=1)
    legend = {}
    for title, key, best in (("Loss", "loss", min), ("Accuracy", "accuracy", max)):
        axes = sheet.axes(left, top, width, height)
        _frame(axes)
        axes.set_xlim(0, 1.02 * last)
        axes.set_xlabel("step", color=_GREY)
        sheet.text(left, 0.45, title, 13, weight="bold")
        train, val = _series(rows, key), _series(rows, f"val_{key}")
        legend |= _curves(axes, train, val)
        if not len(train[1]) + len(val[1]):
            axes.text(0.5, 0.5, "no values", color=_GREY, ha="center", transform=axes.transAxes)
        elif key == "accuracy":
            low = math.floor(10 * min([*train[1], *val[1]]) - 1e-9) / 10
            axes.set_ylim(max(low, 0), 1 + 0.02 * (1 - low))
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %" if value < 1.001 else "")
        else:
            # Single steps may leap: they are not to flatten the rest.
            axes.set_ylim(0, 1.08 * max([np.percentile(train[1] or [0], 99), *val[1]]) or 1)
        if val[1]:
            value, step = best(val[1]), val[0][val[1].index(best(val[1]))]
            value = f"{100 * value:.1f} %" if key == "accuracy" else f"{value:.4f}"
            sheet.text(left + width, 0.45, f"best on validation: {value}, step {step:,}", 9, _GREY, ha="right")
        _mark_phases(sheet, axes, rows, left, width)
        left += width + gap
    style = {"ncols": 2, "frameon": False, "fontsize": 9, "labelcolor": _INK}
    sheet.figure.legend(legend.values(), legend.keys(), loc="lower center", **style)
    sheet.save(path, overwrite)


def _series(rows, key):
    """Steps and values of a key, as far as they are finite numbers."""
    found = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))]
    found = [(step, value) for step, value in found if math.isfinite(value)]
    return [step for step, _ in found], [value for _, value in found]


def _curves(axes, train, val):
    """Draws them; a dict from their names to the lines."""
    (steps, values), legend = train, {}
    if len(values) >= 100:
        axes.plot(steps, values, color=_BLUE, alpha=0.25, linewidth=0.8)
        window = len(values) // 50
        values = np.convolve(values, np.ones(window) / window, "valid")
        steps = steps[window // 2 :][: len(values)]
        (legend[f"training, mean of {window}"],) = axes.plot(steps, values, color=_BLUE, linewidth=1.8)
    elif values:
        (legend["training"],) = axes.plot(steps, values, color=_BLUE, linewidth=1.8, marker="o", markersize=3)
    if val[1]:
        (legend["validation"],) = axes.plot(*val, color=_ORANGE, linewidth=1.8, marker="o", markersize=4)
    return legend


def _mark_phases(sheet, axes, rows, left, width):
    # A row is written at the end of its steps, so a phase begins at the row before its first.
    starts = [
        (before.get("step", 0), row["phase"])
        for before, row in zip([{}, *rows], rows)
        if row.get("phase") not in (None, before.get("phase"))
    ]
    _, last = axes.get_xlim()
    for i, (start, phase) in enumerate(starts):
        end = starts[i + 1][0] if i + 1 < len(starts) else last
        text = sheet.fit(phase, width * (end - start) / last - 0.1, 9)
        if text != "…":
            sheet.text(left + width * start / last + 0.05, 0.92, text, 9, _GREY)
        if i:
            axes.axvline(start, color=_GREY, linewidth=0.8, linestyle=(0, (4, 3)))


def _frame(axes):
    axes.grid(color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_GREY, labelsize=9, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GREY)


def confusion_matrix(evaluation, path, overwrite=False):
    """Draws which class was called which: with numbers for up to 30 classes, else as a heat map beside a list of the
    most frequent confusions.

    Classes that have no images are left out, where most have none; answers that name them are one column.

    Args:
        evaluation: an `Evaluation`.
        path, overwrite: as in `learning_curves`, errors too.
    """
    counts, columns, names = evaluation.confusion, list(evaluation.labels), list(evaluation.labels)
    seen = np.flatnonzero(counts.sum(axis=1))
    if 2 * len(seen) < len(names):
        rest = counts[seen].sum(axis=1) - counts[np.ix_(seen, seen)].sum(axis=1)
        names = [names[i] for i in seen]
        counts, columns = counts[np.ix_(seen, seen)], names
        if rest.any():
            counts, columns = np.column_stack([counts, rest]), [*names, "other classes"]
    draw = _numbered_matrix if len(names) <= _NUMBERED else _heat_map
    draw(evaluation, counts, names, columns).save(path, overwrite)


def _subtitle(evaluation):
    return f"{len(evaluation):,} images, top-1 {100 * evaluation.top1:.1f} %"


def _colours(counts, faintest):
    """float array (rows, columns, 3): the share of the row, right answers blue, wrong ones orange from `faintest`."""
    import matplotlib

    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    blues, oranges = matplotlib.colormaps["Blues"], matplotlib.colormaps["Oranges"]
    right = np.eye(*counts.shape, dtype=bool)[..., None]
    image = np.where(
        right, blues(0.15 + 0.75 * share)[..., :3], oranges(faintest + (0.7 - faintest) * np.sqrt(share))[..., :3]
    )
    image[counts == 0] = matplotlib.colors.to_rgb("#f6f7f9")
    return image


def _numbered_matrix(evaluation, counts, names, columns):
    cell = float(np.clip(5 / len(columns), 0.42, 0.95))
    width, height = cell * len(columns), cell * len(names)
    measure = _Sheet(1, 1)
    names, columns = ([measure.fit(name, 2.2, 9) for name in some] for some in (names, columns))
    across = max(measure.width_of(name, 9) for name in names)
    down = max(measure.width_of(name, 9) for name in columns)
    level = down <= cell - 0.06
    below = 0.25 if level else 0.25 + 0.71 * down

    title, subtitle = "Confusion matrix", f"{_subtitle(evaluation)}. Number: images. Colour: share of the true class."
    left = max(_MARGIN + 0.3 + across + 0.1, 0 if level else _MARGIN + 0.71 * down - cell / 2)
    right = 0.75
    total = max(left + width + right, 2 * _MARGIN + measure.width_of(subtitle, 9))
    top = 1.3
    sheet = _Sheet(total, top + height + below + 0.6)
    sheet.text(_MARGIN, 0.45, title, 13, weight="bold")
    sheet.text(_MARGIN, 0.72, subtitle, 9, _GREY)

    image = _colours(counts, 0.05)
    axes = sheet.axes(left, top, width, height)
    axes.set_axis_off()
    axes.imshow(image, aspect="auto", extent=(0, len(columns), len(names), 0))
    for i in range(len(names) + 1):
        axes.axhline(i, color="white", linewidth=1.2)
    for j in range(len(columns) + 1):
        axes.axvline(j, color="white", linewidth=1.2)
    size = min(11, cell * 72 * 0.85 / (0.62 * len(str(counts.max()))))
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            if count or i == j:
                dark = image[i, j] @ (0.299, 0.587, 0.114) < 0.55
                x, y = left + cell * (j + 0.5), top + cell * (i + 0.5)
                sheet.text(x, y, str(count), size, "white" if dark else _INK, ha="center", va="center")

    support, answered = counts.sum(axis=1), counts.sum(axis=0)
    for i, name in enumerate(names):
        y = top + cell * (i + 0.5)
        sheet.text(left - 0.1, y, name, 9, ha="right", va="center")
        recall = f"{100 * counts[i, i] / support[i]:.0f} %" if support[i] else "–"
        sheet.text(left + width + 0.1, y, recall, 8, _GREY, va="center")
    for j, name in enumerate(columns):
        x = left + cell * (j + 0.5)
        if level:
            sheet.text(x, top + height + 0.1, name, 9, ha="center", va="top")
        else:
            turned = {"ha": "right", "va": "center", "rotation": 45, "rotation_mode": "anchor"}
            sheet.text(x, top + height + 0.13, name, 9, **turned)
        if j < len(names):
            # Of all answers, those to the classes left out have no images.
            precision = f"{100 * counts[j, j] / answered[j]:.0f} %" if answered[j] else "–"
            sheet.text(x, top - 0.1, precision, 8, _GREY, ha="center")
    sheet.text(left + width + 0.1, top - 0.1, "recall", 8, _GREY, style="italic")
    sheet.text(left - 0.1, top - 0.1, "precision", 8, _GREY, ha="right", style="italic")
    sheet.text(_MARGIN + 0.1, top + height / 2, "true", 9, _GREY, ha="center", va="center", rotation=90)
    sheet.text(left + width / 2, top + height + below + 0.3, "predicted", 9, _GREY, ha="center")
    return sheet


def _heat_map(evaluation, counts, names, columns):
    pixels = 12 if len(names) <= _NAMED else max(1, round(1100 / len(names)))  # whole ones, or lines would vanish
    cell = pixels / _DPI
    width, height = cell * len(columns), cell * len(names)
    size = cell * 72 * 0.9
    measure = _Sheet(1, 1)
    labelled = len(names) <= _NAMED
    if labelled:
        names_shown, columns_shown = ([measure.fit(name, 1.6, size) for name in some] for some in (names, columns))
        across = max(measure.width_of(name, size) for name in names_shown)
        below = 0.2 + max(measure.width_of(name, size) for name in columns_shown)
    else:
        across, below = measure.width_of("0000", 8), 0.3
    left, top, side = _MARGIN + 0.3 + across + 0.1, 1.2, 4.3
    aside = left + width + 0.5
    sheet = _Sheet(aside + side + _MARGIN, top + max(height, 5.2) + below + 0.55)
    sheet.text(_MARGIN, 0.45, "Confusion matrix", 13, weight="bold")
    sheet.text(
        _MARGIN, 0.72, f"{_subtitle(evaluation)}, {len(names):,} classes. Colour: share of the true class.", 9, _GREY
    )

    axes = sheet.axes(left, top, width, height)
    axes.imshow(_colours(counts, 0.3), aspect="auto", interpolation="nearest", extent=(0, len(columns), len(names), 0))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(_FAINT)
    if labelled:
        for i, name in enumerate(names_shown):
            sheet.text(left - 0.08, top + cell * (i + 0.5), name, size, ha="right", va="center")
        for j, name in enumerate(columns_shown):
            x = left + cell * (j + 0.5)
            sheet.text(x, top + height + 0.08, name, size, ha="center", va="top", rotation=90)
    else:
        step = 10 ** math.floor(math.log10(len(names) / 2))
        for i in range(0, len(names), step):
            sheet.text(left - 0.08, top + cell * (i + 0.5), str(i), 8, _GREY, ha="right", va="center")
            sheet.text(left + cell * (i + 0.5), top + height + 0.08, str(i), 8, _GREY, ha="center", va="top")
    sheet.text(_MARGIN + 0.1, top + height / 2, "true", 9, _GREY, ha="center", va="center", rotation=90)
    sheet.text(left + width / 2, top + height + below + 0.25, "predicted", 9, _GREY, ha="center")

    wrong = counts[:, : len(names)] * (1 - np.eye(len(names), dtype=np.int64))
    frequent = [np.unravel_index(i, wrong.shape) for i in np.argsort(-wrong, axis=None, kind="stable")[:20]]
    frequent = [(i, j) for i, j in frequent if wrong[i, j]]
    sheet.text(
        aside, top + 0.1, "Most frequent confusions, true → predicted" if frequent else "No mistakes", 10, weight="bold"
    )
    for line, (i, j) in enumerate(frequent):
        y = top + 0.42 + 0.235 * line
        sheet.text(aside + 0.4, y, f"{wrong[i, j]:,}", 9, _ORANGE, ha="right")
        sheet.text(aside + 0.5, y, _pair(sheet, names[i], names[j], side - 0.5, 9), 9)
    return sheet


def _pair(sheet, true, answered, width, size):
    """ "true → answered" within a width; the longer name gives way first."""
    room = width - sheet.width_of(" → ", size)
    long = [sheet.width_of(name, size) for name in (true, answered)]
    share = [max(room / 2, room - other) for other in reversed(long)]
    return " → ".join(sheet.fit(name, limit, size) for name, limit in zip((true, answered), share))


def worst_mistakes(evaluation, examples, path, count=24, overwrite=False):
    """Draws a sheet of the images with the wrong answers the model was surest of: true class → answer, score, file.

    Args:
        evaluation: an `Evaluation`.
        examples: the `Examples` it was made on.
        path, overwrite: as in `learning_curves`, errors too.
        count: the most images to show.
    """
    e, rows = evaluation, evaluation.mistakes[:count]
    across = 6 if len(rows) > 8 else max(min(len(rows), 4), 3)
    width, height, gap, top, size = 1.95, 1.6, 0.22, 1.0, 9
    total = 2 * _MARGIN + across * (width + gap) - gap
    if not len(e.mistakes):
        sheet = _Sheet(total, 1.3)
        sheet.text(_MARGIN, 0.45, "No mistakes", 13, weight="bold")
        sheet.text(_MARGIN, 0.8, f"All {len(e):,} images are classified as their labels say.", 9, _GREY)
        return sheet.save(path, overwrite)

    measure = _Sheet(1, 1)
    captions = [(e.labels[e.truth[i]], e.labels[e.predicted[i]], f" {e.score[i]:.2f}") for i in rows]
    one_line = all(measure.width_of(f"{true} → {answer}{score}", size) <= width for true, answer, score in captions)
    below = 0.62 if one_line else 0.81
    sheet = _Sheet(total, top + math.ceil(len(rows) / across) * (height + below) + 0.1)
    title = "The surest mistakes" if len(rows) < len(e.mistakes) else "The mistakes, the surest first"
    sheet.text(_MARGIN, 0.45, title, 13, weight="bold")
    shown = f"{len(rows)} of {len(e.mistakes):,} mistakes; {_subtitle(e)}. True class → prediction and its score."
    sheet.text(_MARGIN, 0.72, shown, 9, _GREY)
    for place, (i, (true, answer, score)) in enumerate(zip(rows, captions)):
        x = _MARGIN + place % across * (width + gap)
        y = top + place // across * (height + below)
        _thumbnail(sheet.axes(x, y, width, height), examples, e.index[i], e.exif_rotation, width / height)
        y += height + 0.18
        if one_line:
            sheet.text(x, y, f"{true} → ", size)
            sheet.text(x + sheet.width_of(f"{true} → ", size), y, answer + score, size, _ORANGE)
        else:
            sheet.text(x, y, sheet.fit(true, width, size), size)
            room = width - sheet.width_of(f"→ {score}", size)
            y += 0.19
            sheet.text(x, y, f"→ {sheet.fit(answer, room, size)}{score}", size, _ORANGE)
        name = e.names[i].replace("\\", "/").rpartition("/")[2]
        sheet.text(x, y + 0.17, sheet.fit(name, width, 6.5), 6.5, _GREY)
    return sheet.save(path, overwrite)


def _thumbnail(axes, examples, index, exif_rotation, aspect):
    from PIL import Image

    axes.set_facecolor(_FAINT)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    try:
        image = Image.fromarray(decode_image(examples.read(index), exif_rotation))
        image.thumbnail((400, 400))
        width, height = (side / max(image.width / aspect, image.height) for side in image.size)
        extent = ((aspect - width) / 2, (aspect + width) / 2, (1 - height) / 2, (1 + height) / 2)
        axes.imshow(image, extent=extent, aspect="auto", interpolation="antialiased")
    except (ImageError, OSError):  # it was there a moment ago
        axes.text(aspect / 2, 0.5, "cannot be read", color=_GREY, ha="center")
    axes.set(xlim=(0, aspect), ylim=(0, 1))


def _clean(text):
    """Text that can be drawn, on a line: names of files may hold anything."""
    text = str(text).encode("utf-8", "replace").decode()
    return "".join(letter if letter.isprintable() else " " for letter in text)


class _Sheet:
    """A picture measured in inches from its top left corner."""

    def __init__(self, width, height):
        self.width, self.height = width, height
        self.figure = figures.figure(width, height, None, _DPI)

        from matplotlib import font_manager
        from matplotlib.backends.backend_agg import RendererAgg

        # matplotlib's own font has no Chinese, Japanese and Korean.
        there = {font.name for font in font_manager.fontManager.ttflist}
        asian = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Hiragino Sans", "Microsoft YaHei")
        self._fonts = ["DejaVu Sans", *(name for name in asian if name in there)]
        self._properties = font_manager.FontProperties
        self._renderer = RendererAgg(1, 1, _DPI)

    def axes(self, left, top, width, height):
        w, h = self.width, self.height
        return self.figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h), facecolor="white")

    def text(self, x, y, text, size, color=_INK, **style):
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            _clean(text),
            fontsize=size,
            color=color,
            family=self._fonts,
            parse_math=False,
            usetex=False,
            **style,
        )

    def width_of(self, text, size):
        font = self._properties(family=self._fonts, size=size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._renderer.get_text_width_height_descent(_clean(text), font, False)[0] / _DPI

    def fit(self, text, width, size):
        """The text, or as much of its beginning as fits, with an ellipsis."""
        text = _clean(text)
        if self.width_of(text, size) <= width:
            return text
        end = bisect.bisect_right(range(len(text)), width, key=lambda n: self.width_of(text[:n] + "…", size))
        return text[: max(end - 1, 0)].rstrip() + "…"

    def save(self, path, overwrite):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of letters that no font here has
            figures.save(self.figure, path, overwrite)
