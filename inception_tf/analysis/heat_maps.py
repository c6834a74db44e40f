"""Maps of a network laid on the photograph: each value where its place sees the image, at the image's resolution."""

import math
from dataclasses import dataclass

import numpy as np

from inception_tf import figures
from inception_tf.errors import UsageError

LARGEST_PICTURE = 2**16  # pixels a side, matplotlib's limit


def on_image(maps, place, rows, columns):
    """Maps at the resolution of the image that they are of, bilinear between the middles of their receptive fields.

    Args:
        maps: float array h×w×k.
        place: the `models.profile.Map` of the end point that the maps have the places of.
        rows, columns: for every row and column of the image its place in the network's input, NaN where it has none;
            as `Preprocessing.positions` gives them.

    Returns:
        float32 array H×W×k, NaN where the network does not see the image.
    """
    down, across = (
        _weights(positions, maps.shape[axis], place.center[axis], place.stride[axis])
        for axis, positions in enumerate((rows, columns))
    )
    return np.einsum("Hh,hwk,Ww->HWk", down, maps, across, optimize=True).astype("float32")


def _weights(positions, count, center, stride):
    """From `count` values `stride` apart, the first at `center`, to those at `positions`: a matrix; ends are held."""
    index = (positions - center) / stride if stride and count > 1 else np.zeros_like(positions) + 0 * positions
    index = np.clip(index, 0, count - 1)
    return np.maximum(1 - np.abs(index[:, None] - np.arange(count)), 0)


@dataclass(frozen=True)
class Panel:
    """A heat map to draw: its `title`, and `values`, float H×W, NaN where there are none."""

    title: str
    values: np.ndarray


def draw(rows, smallest=240, largest=1600):
    """A figure with a row for every photograph: itself, and its heat maps over it, each with its own scale of colours.

    A pixel of the photograph is a pixel of the figure, but for photographs smaller or larger than the limits.

    Args:
        rows: a list of (title, image uint8 H×W×3, list of `Panel`).
        smallest, largest: the limits of a photograph's longer side, in pixels of the figure.

    Raises:
        UsageError: the figure would be larger than matplotlib draws.
    """
    dots, margin, head, scale_width = 100, 12, 46, 64
    sizes = []
    for _, image, _ in rows:
        height, width = image.shape[:2]
        zoom = min(max(1, math.ceil(smallest / max(height, width))), largest / max(height, width))
        sizes.append((round(height * zoom), round(width * zoom)))
    wide = max(
        margin + width + len(panels) * (width + scale_width + margin) + margin
        for (_, width), (_, _, panels) in zip(sizes, rows)
    )
    high = sum(height + head + margin for height, _ in sizes)
    if max(wide, high) >= LARGEST_PICTURE:
        raise UsageError(f"{len(rows)} photographs are too many for one picture: it would be {wide}×{high} pixels.")
    picture = figures.figure(wide / dots, high / dots)
    picture.set_layout_engine("none")
    top = 0
    for (title, image, panels), (height, width) in zip(rows, sizes):

        def axes(left, across, top=top, height=height):
            bottom = high - top - head - height
            return picture.add_axes((left / wide, bottom / high, across / wide, height / high))

        font = max(9, width / 55)
        photograph = axes(margin, width)
        photograph.imshow(image)
        photograph.set_title(title, fontsize=font)
        photograph.axis("off")
        left = 2 * margin + width
        for panel in panels:
            drawn = axes(left, width)
            seen = np.isfinite(panel.values)
            grey = image.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
            drawn.imshow(np.where(seen[..., None], grey, 0.5 * grey + 64).astype("uint8"))
            heat = drawn.imshow(np.ma.masked_invalid(panel.values), cmap="inferno", alpha=0.6)
            drawn.set_title(panel.title, fontsize=font)
            drawn.axis("off")
            picture.colorbar(heat, cax=axes(left + width + 4, 12)).ax.tick_params(labelsize=8)
            left += width + scale_width + margin
        top += height + head + margin
    return picture
