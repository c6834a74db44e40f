"""The figures: what they show, and that no text runs into another or out of the figure."""

import itertools

import numpy as np
import pytest
from PIL import Image

from inception_tf import figures
from inception_tf.evaluation import plots
from inception_tf.evaluation.evaluate import Evaluation
from inception_tf.images.labels import imagenet_labels
from inception_tf.images.sources import open_examples

matplotlib = pytest.importorskip("matplotlib")

LONG = [
    "Bellis perennis, the common daisy or lawn daisy or English daisy",
    "costs $5 or $6, x_1",
    "rose\nred",
    "雏菊",
    "t",
]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn."""
    kept, save = [], figures.save

    def keep(figure, *arguments):
        kept.append(figure)
        save(figure, *arguments)

    monkeypatch.setattr(figures, "save", keep)
    return kept


def evaluation(labels, truth, predicted, score=None, names=None):
    truth, predicted = np.array(truth), np.array(predicted)
    score = np.full(len(truth), 0.5, np.float32) if score is None else np.array(score, np.float32)
    names = names or [f"folder/{i}.png" for i in range(len(truth))]
    rank = np.where(truth == predicted, 1, 2)
    return Evaluation(labels, np.arange(len(truth)), names, truth, predicted, score, score / 2, rank, {}, 10.0)


def noisy(labels, count=2000):
    random = np.random.default_rng(3)
    truth = random.integers(0, len(labels), count)
    wrong = random.random(count) < 0.3
    return evaluation(labels, truth, np.where(wrong, random.integers(0, len(labels), count), truth))


def drawn_texts(figure):
    """The texts of a figure, without ticks beyond the limits of their axis."""
    from matplotlib.text import Text

    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        found += [child for child in axes.get_children() if isinstance(child, Text)]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            # Those in sight, which have no public name.
            found += [axis.label, *(tick.label1 for tick in axis._update_ticks() if low <= tick.get_loc() <= high)]
    return [text for text in found if text.get_text()]


def check_layout(figure):
    """No horizontal text of a figure overlaps another, and none leaves it."""
    boxes = [(text.get_text(), text.get_window_extent(), text.get_rotation()) for text in drawn_texts(figure)]
    assert len(boxes) >= 2
    width, height = figure.bbox.size
    for name, box, _ in boxes:
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, f"{name!r} leaves the figure"
    level = [(name, box.shrunk(0.98, 0.9).extents) for name, box, turned in boxes if not turned]
    for (one, (left, bottom, right, top)), (two, other) in itertools.combinations(level, 2):
        apart = right < other[0] or other[2] < left or top < other[1] or other[3] < bottom
        assert apart, f"{one!r} hits {two!r}"


def texts(figure):
    return [text.get_text() for text in drawn_texts(figure)]


def matrix_of(figure):
    """The pixels of a confusion matrix."""
    (image,) = (image for axes in figure.axes for image in axes.images)
    return np.asarray(image.get_array())


@pytest.mark.parametrize("labels", [LONG, imagenet_labels()[:30], imagenet_labels()[:90], imagenet_labels()])
def test_confusion_matrix(labels, tmp_path, drawn):
    many = noisy(labels)
    plots.confusion_matrix(many, tmp_path / "confusion.png")
    check_layout(drawn[0])
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.format == "PNG" and max(picture.size) < 2600
    # No class is narrower than a pixel.
    assert min(drawn[0].axes[0].bbox.size) >= len(labels)
    shown = texts(drawn[0])
    if len(labels) <= 30:
        assert {str(n) for n in many.confusion.flatten() if n} <= set(shown)
        assert f"{100 * many.classes[0].recall:.0f} %" in shown
    else:
        wrong = many.confusion - np.diag(np.diag(many.confusion))
        true, answered = np.unravel_index(wrong.argmax(), wrong.shape)
        (lines,) = (text.splitlines() for text in shown if text.startswith("Most frequent confusions"))
        assert lines[1].startswith(f"{wrong.max()}: {labels[true][:5]}") and f" → {labels[answered][:5]}" in lines[1]
    # The cells: right answers blue, errors orange, none gray.
    image = matrix_of(drawn[0])
    red, _, blue = np.moveaxis(image, -1, 0)
    right = np.eye(len(labels), dtype=bool)
    assert (blue > red)[right & (many.confusion > 0)].all() and (red > blue)[~right & (many.confusion > 0)].all()
    assert np.ptp(image[many.confusion == 0], axis=-1).max(initial=0) < 0.02


def test_classes_without_images_are_left_out(tmp_path, drawn):
    some = evaluation(imagenet_labels(), [1, 1, 2, 2, 7, 7], [1, 900, 2, 1, 7, 7])
    plots.confusion_matrix(some, tmp_path / "confusion.png")
    check_layout(drawn[0])
    shown = texts(drawn[0])
    assert "tench, Tinca tinca" in shown and "other classes" in shown and "background" not in shown
    assert matrix_of(drawn[0]).shape[:2] == (3, 4)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Thirty images in two folders; the i-th is all of the color (5·i, 0, 255 - 5·i), and of another shape."""
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(30):
        name = f"photo_{i:02}_with_a_name_that_is_longer_than_its_thumbnail_is_wide.png"
        path = folder / ("a" if i < 15 else "b") / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20 + 9 * i, 200), (5 * i, 0, 255 - 5 * i)).save(path)
    return folder


@pytest.mark.parametrize("labels", [["a", "b"], LONG])
def test_confident_errors(photographs, tmp_path, drawn, labels):
    examples = open_examples(photographs)
    score = np.linspace(0.5, 0.98, 30)
    score[[3, 20]] = 0.999, 0.997  # 3 is wrong with the highest score, 20 is right
    predicted = np.array([1] * 15 + [0] * 14 + [1])
    predicted[20] = 1
    wrong = evaluation(labels, [0] * 15 + [1] * 15, predicted, score, examples.names)
    plots.confident_errors(wrong, examples, tmp_path / "errors.png")
    check_layout(drawn[0])
    expected = [3, 28, 27, 26, 25, 24, 23, 22, 21, 19]
    axes = drawn[0].axes
    assert len(axes) == 24
    for panel, i in zip(axes, expected):
        (image,) = panel.images
        assert np.abs(image.get_array().reshape(-1, 3).mean(axis=0) - (5 * i, 0, 255 - 5 * i)).max() < 1
        width, height = panel.bbox.size
        assert width / height == pytest.approx((20 + 9 * i) / 200, rel=0.02)
    shown = " ".join(texts(drawn[0]))
    assert "24 of 28 errors" in shown and "1.00" in shown and "photo_03" in shown and "photo_20" not in shown
    if labels == ["a", "b"]:
        assert "a\n→ b 1.00" in shown


@pytest.mark.parametrize("predicted, count", [([0, 1], 0), ([1, 1], 1)])
def test_few_errors(photographs, tmp_path, drawn, predicted, count):
    path = tmp_path / "errors.png"
    plots.confident_errors(evaluation(["a", "b"], [0, 1], predicted), open_examples(photographs), path)
    assert len(drawn[0].axes) == count and path.is_file()
    assert ("No errors" in texts(drawn[0])[0]) == (count == 0)


def test_an_image_that_has_gone(tmp_path, drawn):
    class Gone:
        def read(self, index):
            raise OSError("no such file")

    plots.confident_errors(evaluation(["a", "b"], [0, 1], [1, 1]), Gone(), tmp_path / "one.png")
    assert drawn[0].axes[0].texts[0].get_text() == "cannot be read"


def epochs(count):
    rows = []
    for i in range(1, count + 1):
        rows.append({"step": 25 * i, "epoch": i, "phase": "heads" if i <= count // 2 else "all", "loss": 2 / i})
        rows[-1] |= {"accuracy": 1 - 0.5 / i, "val_loss": 2 / i + abs(i - 8) / 10, "val_accuracy": 0.9 - 0.5 / i}
    return rows


def test_learning_curves(tmp_path, drawn):
    plots.learning_curves(epochs(12), tmp_path / "curves.png")
    check_layout(drawn[0])
    loss, accuracy = drawn[0].axes
    training, validation, phase = loss.lines
    assert np.array_equal(training.get_xydata(), [(25 * i, 2 / i) for i in range(1, 13)])
    assert validation.get_ydata()[7] == 0.25 and list(phase.get_xdata()) == [150, 150]
    assert accuracy.lines[1].get_ydata()[-1] == 0.9 - 0.5 / 12
    shown = texts(drawn[0])
    assert "best on validation: 0.2500, step 200" in shown and "best on validation: 85.8 %, step 300" in shown
    assert shown.count("heads") == shown.count("all") == 2


@pytest.mark.parametrize(
    "rows",
    [
        [],
        epochs(1),
        [{"step": step, "phase": "heads", "loss": 3.0, "accuracy": 0.1} for step in range(400)],
        [
            {"step": 1, "phase": "a" * 200, "loss": float("nan")},
            {"step": 2, "phase": "b", "loss": 0.0, "accuracy": None},
        ],
    ],
    ids=["none", "one", "many", "broken"],
)
def test_learning_curves_of_little(rows, tmp_path, drawn):
    plots.learning_curves(rows, tmp_path / "curves.png")
    check_layout(drawn[0])


def test_pyplot_and_its_settings_are_left_alone(tmp_path):
    from matplotlib import pyplot

    pyplot.switch_backend("svg")
    before = matplotlib.rcParams.copy()
    with pyplot.style.context({"figure.facecolor": "black", "text.color": "white", "axes.facecolor": "black"}):
        plots.learning_curves(epochs(4), tmp_path / "dark.png")
    plots.learning_curves(epochs(4), tmp_path / "light.png")
    assert matplotlib.rcParams == before and not pyplot.get_fignums()
    assert (tmp_path / "dark.png").read_bytes() == (tmp_path / "light.png").read_bytes()
