from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from inception_tf.errors import UsageError
from inception_tf.images.augmentation import Augmentation
from inception_tf.images.preprocessing import Preprocessing

SIZE = (61, 97)  # above the images': where a box is a multiple of it, methods agree
METHODS = ("bilinear", "nearest", "bicubic", "area")
# The four orders of distort_color, by what comes after what in Slim's inception_preprocessing.py.
ORDERS = ("b s h c", "s b c h", "c h b s", "h s c b")
ADJUST = {name[0]: f"adjust_{name}" for name in ("brightness", "saturation", "hue", "contrast")}


def image_of(height, width, channels=3):
    return np.random.default_rng(height).integers(0, 256, (height, width, channels), dtype=np.uint8)


def close(one, other, tolerance=1e-5):
    return np.abs(one - other).max() <= tolerance


@pytest.fixture
def drawn(monkeypatch):
    """A list of what the augmentation has drawn: ("box", (top, left, height, width)), ("hue", 0.1), …, in its order."""
    calls = []
    sample = tf.image.stateless_sample_distorted_bounding_box

    def spy_sample(*args, **options):
        slim = {"min_object_covered": 0.1, "aspect_ratio_range": (0.75, 1.33), "area_range": (0.05, 1.0)}
        assert (slim | {"max_attempts": 100}).items() <= options.items() and np.array_equal(args[1], [[[0, 0, 1, 1]]])
        begin, size, boxes = sample(*args, **options)
        calls.append(("box", (*begin.numpy()[:2], *size.numpy()[:2])))
        return begin, size, boxes

    def spy(letter, adjust):
        def spied(image, factor):
            calls.append((letter, float(factor)))
            return adjust(image, factor)

        return spied

    monkeypatch.setattr(tf.image, "stateless_sample_distorted_bounding_box", spy_sample)
    for letter, name in ADJUST.items():
        monkeypatch.setattr(tf.image, name, spy(letter, getattr(tf.image, name)))
    return calls


def slim_inception(image, box, method, colors):
    """What inception_preprocessing.preprocess_for_train computes of these draws, from TensorFlow 1's ops."""
    image = tf.image.convert_image_dtype(image, tf.float32)
    image = tf.image.crop_to_bounding_box(image, *box)
    image = tf.compat.v1.image.resize_images(image, SIZE, METHODS.index(method))
    for letter, factor in colors:
        image = getattr(tf.image, ADJUST[letter])(image, factor)
    return ((tf.clip_by_value(image, 0, 1) - 0.5) * 2).numpy()


@pytest.mark.parametrize("mode, count", [("fast", 200), ("full", 160)])
def test_inception_is_what_slim_computes_of_draws_as_slim_makes_them(mode, count, drawn):
    image = image_of(60, 90)
    augmentation = Augmentation(Preprocessing("inception", SIZE), mode)
    factors, boxes, flips, methods, orders = {letter: [] for letter in ADJUST}, [], [], Counter(), Counter()
    for i in range(count):
        drawn.clear()
        result = augmentation.graph(image, (5, i)).numpy()
        (_, box), *colors = drawn
        fits = []
        for method in METHODS if mode == "full" else METHODS[:1]:
            expected = slim_inception(image, box, method, colors)
            fits += [(method, flip) for flip in (False, True) if close(expected[:, ::-1] if flip else expected, result)]
        assert len(fits) == 1, (i, fits)
        boxes.append(box)
        methods[fits[0][0]] += 1
        flips.append(fits[0][1])
        orders[" ".join(letter for letter, _ in colors)] += 1
        for letter, factor in colors:
            factors[letter].append(factor)

    height, width = np.array(boxes, float)[:, 2:].T
    area, aspect = height * width / (60 * 90), width / height
    # 0.05 to 1, but 0.1 of the image is asked for; 60 × 80 at most.
    assert 0.1 <= area.min() < 0.13 and 0.75 < area.max() < 0.89
    assert 0.72 < aspect.min() < 0.8 and 1.27 < aspect.max() < 1.38  # a pixel beyond 0.75 and 1.33, at most
    assert 0.42 < np.mean(flips) < 0.58
    limits = {"b": (-32 / 255, 32 / 255), "s": (0.5, 1.5), "h": (-0.2, 0.2), "c": (0.5, 1.5)}
    for letter in "bshc" if mode == "full" else "bs":
        low, high = limits[letter]
        quarters = np.histogram(factors[letter], 4, (low, high))[0]
        assert quarters.sum() == count and quarters.min() > 0.16 * count, letter
    if mode == "fast":
        assert orders == {"b s": count}
        assert abs(np.corrcoef(factors["b"], factors["s"])[0, 1]) < 0.2
    else:
        assert set(orders) == set(ORDERS) and min(orders.values()) > 0.16 * count
        assert set(methods) == set(METHODS) and min(methods.values()) > 0.16 * count


def test_the_smallest_area(monkeypatch):
    sizes, sample = [], tf.image.stateless_sample_distorted_bounding_box

    def spy(*args, **options):
        drawn = sample(*args, **options)
        sizes.append(drawn[1].numpy()[:2].prod())
        return drawn

    monkeypatch.setattr(tf.image, "stateless_sample_distorted_bounding_box", spy)
    image = np.zeros((120, 90, 3), np.uint8)
    for i in range(40):
        Augmentation(Preprocessing(size=SIZE), smallest_area=0.6).graph(image, (7, i))
    assert 0.59 * 120 * 90 < min(sizes) < 0.75 * 120 * 90


def test_vgg_is_a_window_of_the_resized_image():
    height, width = 90, 60
    grid = np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.zeros((height, width))], -1).astype(np.uint8)
    augmentation = Augmentation(Preprocessing("vgg", (40, 40), resize_side=50))
    sides, flips, positions = [], [], []
    for i in range(120):
        result = augmentation.graph(grid, (0, i)).numpy() + np.float32([123.68, 116.78, 103.94])
        flip = result[0, 0, 0] > result[0, -1, 0]
        unflipped = result[:, ::-1] if flip else result
        # Column c of an image resized to a width w shows the abscissa 60 c / w.
        (left, top), (right, bottom) = unflipped[0, 0, :2], unflipped[20, 20, :2]
        side, long_side = round(60 * 20 / (right - left)), round(90 * 20 / (bottom - top))
        assert long_side in (int(1.5 * side), int(1.5 * side + 0.5))
        resized = tf.compat.v1.image.resize_images(grid, [long_side, side]).numpy()
        top, left = round(top * side / 60), round(left * side / 60)
        assert close(resized[top : top + 40, left : left + 40], unflipped, 1e-3), i
        sides.append(side)
        flips.append(flip)
        positions.append((top / (long_side - 40), left / (side - 40)))
    assert min(sides) in range(50, 55) and max(sides) in range(96, 101)
    assert np.histogram(sides, 3, (50, 101))[0].min() > 25
    assert 0.4 < np.mean(flips) < 0.6
    assert np.min(positions) < 0.05 and np.max(positions) > 0.95 and np.max(positions) <= 1


@pytest.mark.parametrize(
    "preprocessing, mode",
    [(Preprocessing("lenet"), "fast"), (Preprocessing("lenet", channels=3), "full")]
    + [(Preprocessing(kind), "none") for kind in ("inception", "vgg", "lenet")],
)
def test_lenet_and_no_augmentation_are_the_evaluation_preprocessing(preprocessing, mode):
    image = image_of(300, 320)
    result = Augmentation(preprocessing, mode).graph(image, (1, 2))
    assert np.array_equal(result, preprocessing.graph(image))


@pytest.mark.parametrize(
    "kind, mode, channels",
    [("inception", "fast", 3), ("inception", "full", 1), ("vgg", "fast", 3), ("lenet", "fast", 1)],
)
def test_a_pipeline_repeats_itself_and_the_eager_result(kind, mode, channels):
    augmentation = Augmentation(Preprocessing(kind, (32, 28), channels=channels, resize_side=40), mode)
    images = [image_of(*shape) for shape in ((50, 70), (33, 200), (1, 1), (28, 32), (300, 20), (7, 3))]
    dataset = tf.data.Dataset.from_generator(
        lambda: enumerate(images),
        output_signature=(tf.TensorSpec((), tf.int32), tf.TensorSpec((None, None, 3), tf.uint8)),
    )
    dataset = dataset.map(lambda i, image: augmentation.graph(image, tf.stack([3, i])), num_parallel_calls=4)
    assert dataset.element_spec == tf.TensorSpec((32, 28, channels), tf.float32)
    first, second = (np.stack(list(dataset.as_numpy_iterator())) for _ in range(2))
    assert np.array_equal(first, second)
    low, high = (-124, 152) if kind == "vgg" else (-1, 1)
    assert np.isfinite(first).all() and first.min() >= low and first.max() <= high
    for i, image in enumerate(images):
        assert close(augmentation.graph(image, np.int64([3, i])), first[i], 1e-4)
    if kind != "lenet":
        assert not close(augmentation.graph(images[0], (3, 99)), first[0], 0.1)
        assert not close(augmentation.graph(images[0], (4, 0)), first[0], 0.1)


def test_the_draws_of_a_seed_stay_what_they_are(drawn):
    """A run that is resumed on another machine, or another day, must go on with the same images."""
    Augmentation(Preprocessing("inception", SIZE)).graph(image_of(100, 100), (1, 2))
    (_, box), (_, brightness), (_, saturation) = drawn
    assert box == (0, 34, 45, 55)
    assert (brightness, saturation) == pytest.approx((-0.02956426, 0.58524227), abs=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gray_image(channels):
    gray, augmentation = image_of(40, 50, 1), Augmentation(Preprocessing("inception", SIZE, channels=channels))
    rgb = augmentation.graph(np.repeat(gray, 3, 2), (0, 1))
    assert np.array_equal(augmentation.graph(gray, (0, 1)), rgb)


def test_the_network_of_2015_has_the_range_of_its_evaluation():
    kinds = ("inception", "inception_2015")
    own, of_2015 = (Augmentation(Preprocessing(kind, SIZE)).graph(image_of(60, 90), (1, 2)) for kind in kinds)
    assert close(of_2015, (127.5 * (own + 1) - 128) / 128)


def test_an_image_too_long_and_narrow_for_vgg_takes_no_memory():
    with pytest.raises(tf.errors.InvalidArgumentError, match="too long and narrow"):
        Augmentation(Preprocessing("vgg")).graph(np.zeros((1, 9000, 3), np.uint8), (0, 0))


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((4, 4, 3), np.float32), "uint8 .*float32"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\(H, W, 3\).*\(1, 4, 4, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
    ],
)
def test_wrong_use(image, message):
    with pytest.raises(UsageError, match=message):
        Augmentation(Preprocessing()).graph(image, (0, 0))
    with pytest.raises(UsageError, match="fast, full, none.*'slow'"):
        Augmentation(Preprocessing(), "slow")
