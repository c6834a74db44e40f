"""Heat maps lie on the photograph where the network saw what they show."""

import keras
import numpy as np
import pytest

from inception_tf.analysis import heat_maps
from inception_tf.analysis.profile import profile
from inception_tf.errors import UsageError
from inception_tf.images.preprocessing import Preprocessing

KINDS = [
    Preprocessing("inception", 96),
    Preprocessing("inception", (80, 120), central_fraction=None),
    Preprocessing("vgg", 96, resize_side=112),
    Preprocessing("lenet", 150, channels=3),
]


@pytest.mark.parametrize("preprocessing", KINDS, ids=lambda p: f"{p.kind}-{p.size}")
@pytest.mark.parametrize("height, width", [(160, 211), (301, 230), (61, 85)])
def test_where_a_pixel_comes_to_lie(preprocessing, height, width):
    """An image whose value is the row, or the column, says of every pixel of the result where it came from."""
    rows, columns = preprocessing.positions(height, width)
    for axis, (position, side) in enumerate(((rows, height), (columns, width))):
        ramp = np.arange(side, dtype=np.float32) * np.float32(0.5)
        image = np.broadcast_to(ramp[:, None, None] if axis == 0 else ramp[None, :, None], (height, width, 3))
        result = preprocessing(image)[0, :, :, 0]
        scale, shift = {"inception": (127.5, 127.5), "vgg": (1, 123.68), "lenet": (128, 128)}[preprocessing.kind]
        values = np.take(result, result.shape[1 - axis] // 2, axis=1 - axis) * scale + shift
        source = values * 2  # where in the image each pixel of the result comes from
        seen = np.flatnonzero(np.isfinite(position))
        inside = seen[(position[seen] <= len(source) - 1)]
        found = np.interp(position[inside], np.arange(len(source)), source)
        assert len(inside) > 50 and np.abs(found - inside).max() < 0.6  # at the edges the resize repeats a pixel
        assert np.abs(found - inside)[5:-5].max() < 0.05
        assert np.array_equal(seen, np.arange(seen[0], seen[-1] + 1))
        cropped = source[(source > 0) & (source < side - 1)]
        assert seen[0] <= cropped.min() + 1 and seen[-1] >= cropped.max() - 1


@pytest.mark.parametrize("preprocessing", KINDS, ids=lambda p: f"{p.kind}-{p.size}")
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_bright_square_is_hot_where_it_is(preprocessing, padding):
    """A network that averages: the heat's middle is the square's, through crop, resize and strides."""
    layers = [keras.layers.AveragePooling2D(3, 2, padding), keras.layers.AveragePooling2D(5, 2, padding)]
    network = keras.Sequential([keras.Input((*preprocessing.size, 3)), *layers])
    position = list(profile(network).end_points.values())[-1]
    for y, x in ((70, 90), (95, 140), (60, 110)):
        image = np.zeros((160, 211, 3), "uint8")
        image[y - 12 : y + 13, x - 12 : x + 13] = 255
        dark, bright = (np.asarray(network(preprocessing(picture))) for picture in (np.zeros_like(image), image))
        maps = (bright - dark)[0, :, :, :1]
        heat = heat_maps.on_image(maps, position, *preprocessing.positions(160, 211))[..., 0]
        assert heat.shape == (160, 211) and heat.dtype == np.float32
        heat = np.nan_to_num(heat)
        rows, columns = np.indices(heat.shape)
        middle = (heat * rows).sum() / heat.sum(), (heat * columns).sum() / heat.sum()
        assert np.abs(np.subtract(middle, (y, x))).max() < 1.5
        assert heat[y, x] > 0.9 * heat.max() and heat[y - 40, x] < 0.05 * heat.max()


def test_values_at_the_middles_and_between():
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.MaxPooling2D(2, 2)])
    (position,) = profile(network).end_points.values()
    maps = np.arange(16, dtype="float32").reshape(4, 4, 1)
    heat = heat_maps.on_image(maps, position, np.array([0.5, 1.5, 2.5, np.nan]), np.array([-9, 0.5, 4.5, 99]))[..., 0]
    assert np.array_equal(heat[:3], [[0, 0, 2, 3], [2, 2, 4, 5], [4, 4, 6, 7]]) and np.isnan(heat[3]).all()


def test_a_feature_map_of_one_position():
    network = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.GlobalMaxPooling2D(keepdims=True)])
    (position,) = profile(network).end_points.values()
    heat = heat_maps.on_image(np.full((1, 1, 1), 7.0), position, np.array([0.0, np.nan]), np.arange(3.0))[..., 0]
    assert np.array_equal(heat, [[7, 7, 7], [np.nan] * 3], equal_nan=True)


def pixels(picture):
    """What a figure shows, height×width×3."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(picture)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def test_a_pixel_of_the_photograph_is_a_pixel_of_the_picture():
    image = np.random.default_rng(0).integers(0, 256, (250, 310, 3), dtype=np.uint8)
    panels = [("a", np.zeros((250, 310), "float32")), ("b", np.ones((250, 310)))]
    shown = pixels(heat_maps.draw([("photograph", image, panels), ("again", image[:120, :60], [])]))
    assert shown.shape[1] > 3 * 310 and shown.shape[0] > 370
    best = min(
        np.abs(shown[y : y + 250, x : x + 310].astype(int) - image).mean() for y in range(30, 60) for x in range(5, 20)
    )
    assert best < 1


def test_too_many_photographs():
    image = np.zeros((1600, 10, 3), "uint8")
    with pytest.raises(UsageError, match="50 photographs are too many"):
        heat_maps.draw([("", image, [])] * 50)
