"""Heat maps on a photograph: each value where its receptive field lies, at the photograph's resolution."""

import math

import numpy as np

from inception_tf import figures
from inception_tf.errors import UsageError

LARGEST_PICTURE = 2**16  # pixels a side, matplotlib's limit


def on_image(maps, feature_map, rows, columns):
    """Maps at the resolution of the image that they are of, bilinear between the middles of their receptive fields.

    Args:
        maps: float array h×w×k.
        feature_map: the `FeatureMap` of the end point whose positions the maps have.
        rows, columns: for every row and column of the image its position in the network's input, NaN where it has none;
            as `Preprocessing.positions` gives them.

    Returns:
        float32 array H×W×k, NaN where the image is no part of the network's input.
    """
    down, across = (
        _weights(positions, maps.shape[axis], feature_map.center[axis], feature_map.stride[axis])
        for axis, positions in enumerate((rows, columns))
    )
    return np.einsum("Hh,hwk,Ww->HWk", down, maps, across, optimize=True).astype("float32")


def _weights(positions, count, center, stride):
    """From `count` values `stride` apart, the first at `center`, to those at `positions`: a matrix; ends are held."""
    index = (positions - center) / stride if stride and count > 1 else np.zeros_like(positions) + 0 * positions
    index = np.clip(index, 0, count - 1)
    return np.maximum(1 - np.abs(index[:, None] - np.arange(count)), 0)


def draw(rows, smallest=240, largest=1600):
    """A figure with a row for every photograph: itself, and its heat maps over it, each with its own color scale.

    A pixel of the photograph is a pixel of the figure, but for photographs smaller or larger than the limits.

    Args:
        rows: a list of (title, image uint8 H×W×3, heat maps), a heat map as (title, float H×W, NaN where it has none).
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
    figure = figures.figure(wide / dots, high / dots, layout="none")
    top = 0
    for (title, image, panels), (height, width) in zip(rows, sizes):
        bottom = (high - top - head - height) / high

        def axes(left, across, bottom=bottom, height=height):
            return figure.add_axes((left / wide, bottom, across / wide, height / high))

        gray = image.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
        left = margin
        for text, values in [(title, None), *panels]:
            shown = axes(left, width)
            shown.set_title(text, fontsize=max(9, width / 55))
            shown.axis("off")
            left += width + margin
            if values is None:
                shown.imshow(image)
                continue
            shown.imshow(np.where(np.isfinite(values)[..., None], gray, 0.5 * gray + 64).astype("uint8"))
            heat = shown.imshow(np.ma.masked_invalid(values), cmap="inferno", alpha=0.6)
            figure.colorbar(heat, cax=axes(left - margin + 4, 12)).ax.tick_params(labelsize=8)
            left += scale_width
        top += height + head + margin
    return figure
