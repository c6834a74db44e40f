"""The pictures: what they show, and that no text runs into another or out of the sheet."""

import itertools

import numpy as np
import pytest
from PIL import Image

from inception_tf.errors import UsageError
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
def sheets(monkeypatch):
    """The sheets that were drawn, with their texts and axes."""
    drawn, save = [], plots._Sheet.save

    def keep(sheet, *arguments):
        drawn.append(sheet)
        save(sheet, *arguments)

    monkeypatch.setattr(plots._Sheet, "save", keep)
    return drawn


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


def check_layout(sheet):
    """No horizontal text of a sheet overlaps another, and none leaves it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = sheet.figure
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = list(figure.texts)
    for legend in figure.legends:
        legend.draw(renderer)
        texts += legend.get_texts()
    for axes in (axes for axes in figure.axes if axes.axison):
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = axis._update_ticks()  # those in sight, which have no public name
            texts += [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]
    boxes = [(text.get_text(), text.get_window_extent(renderer), text.get_rotation()) for text in texts]
    boxes = [box for box in boxes if box[0]]
    assert len(boxes) >= 2
    width, height = figure.bbox.size
    for name, box, _ in boxes:
        assert box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height, f"{name!r} leaves the sheet"
    for (one, box, turned), (two, other, also) in itertools.combinations(boxes, 2):
        assert turned or also or not box.shrunk(0.98, 0.9).overlaps(other.shrunk(0.98, 0.9)), f"{one!r} hits {two!r}"


def texts(sheet):
    return [text.get_text() for text in sheet.figure.texts]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("labels", [LONG, imagenet_labels()[:30], imagenet_labels()[:90], imagenet_labels()])
def test_confusion_matrix(labels, tmp_path, sheets):
    many = noisy(labels)
    plots.confusion_matrix(many, tmp_path / "confusion.png")
    check_layout(sheets[0])
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.format == "PNG" and max(picture.size) < 2600
        assert picture.size == pytest.approx((150 * sheets[0].width, 150 * sheets[0].height), abs=1)
    shown = texts(sheets[0])
    if len(labels) <= 30:
        assert {str(n) for n in many.confusion.flatten() if n} <= set(shown)
        recall = many.classes[0].recall
        assert f"{100 * recall:.0f} %" in shown
    else:
        wrong = many.confusion - np.diag(np.diag(many.confusion))
        true, answered = np.unravel_index(wrong.argmax(), wrong.shape)
        line = next(text for text in shown if " → " in text and "true" not in text)
        assert line.startswith(labels[true][:5]) and f" → {labels[answered][:5]}" in line
    # The cells: right answers blue, wrong ones orange, none grey.
    (image,) = (image for axes in sheets[0].figure.axes for image in axes.images)
    red, _, blue = np.moveaxis(image.get_array(), -1, 0)
    right = np.eye(len(labels), dtype=bool)
    assert (blue > red)[right & (many.confusion > 0)].all() and (red > blue)[~right & (many.confusion > 0)].all()
    assert np.ptp(np.asarray(image.get_array())[many.confusion == 0], axis=-1).max(initial=0) < 0.02


def test_classes_without_images_are_left_out(tmp_path, sheets):
    labels = imagenet_labels()
    some = evaluation(labels, [1, 1, 2, 2, 7, 7], [1, 900, 2, 1, 7, 7])
    plots.confusion_matrix(some, tmp_path / "confusion.png")
    check_layout(sheets[0])
    shown = texts(sheets[0])
    assert "tench, Tinca tinca" in shown and "other classes" in shown and "background" not in shown
    (image,) = (image for axes in sheets[0].figure.axes for image in axes.images)
    assert image.get_array().shape[:2] == (3, 4)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Thirty images in two folders; the i-th is all of the colour (5·i, 0, 255 - 5·i), and of another shape."""
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(30):
        path = (
            folder
            / ("a" if i < 15 else "b")
            / f"photo_{i:02}_with_a_name_that_is_longer_than_its_thumbnail_is_wide.png"
        )
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20 + 9 * i, 200), (5 * i, 0, 255 - 5 * i)).save(path)
    return folder


@pytest.mark.parametrize("labels", [["a", "b"], LONG])
def test_worst_mistakes(photographs, tmp_path, sheets, labels):
    examples = open_examples(photographs)
    score = np.linspace(0.5, 0.98, 30)
    score[[3, 20]] = 0.999, 0.997  # 3 is wrong and the surest, 20 is right
    predicted = np.array([1] * 15 + [0] * 14 + [1])
    predicted[20] = 1
    wrong = evaluation(labels, [0] * 15 + [1] * 15, predicted, score, examples.names)
    plots.worst_mistakes(wrong, examples, tmp_path / "mistakes.png")
    check_layout(sheets[0])
    expected = [3, 28, 27, 26, 25, 24, 23, 22, 21, 19]
    axes = sheets[0].figure.axes
    assert len(axes) == 24
    for panel, i in zip(axes, expected):
        (image,) = panel.images
        assert np.abs(image.get_array().reshape(-1, 3).mean(axis=0) - (5 * i, 0, 255 - 5 * i)).max() < 1
        left, right, bottom, top = image.get_extent()
        assert (right - left) / (top - bottom) == pytest.approx((20 + 9 * i) / 200, abs=0.02)
    shown = " ".join(texts(sheets[0]))
    assert "24 of 28 mistakes" in shown and "1.00" in shown and "photo_03" in shown and "photo_20" not in shown
    if labels == ["a", "b"]:
        assert "a →  b 1.00" in shown


def test_no_mistakes_and_few(photographs, tmp_path, sheets):
    examples = open_examples(photographs)
    plots.worst_mistakes(evaluation(["a", "b"], [0, 1], [0, 1]), examples, tmp_path / "none.png")
    check_layout(sheets[0])
    assert "No mistakes" in texts(sheets[0]) and not sheets[0].figure.axes
    plots.worst_mistakes(evaluation(["a", "b"], [0, 1], [1, 1]), examples, tmp_path / "one.png")
    check_layout(sheets[1])
    assert len(sheets[1].figure.axes) == 1


def test_an_image_that_has_gone(photographs, tmp_path, sheets):
    class Gone:
        def read(self, index):
            raise OSError("no such file")

    plots.worst_mistakes(evaluation(["a", "b"], [0, 1], [1, 1]), Gone(), tmp_path / "one.png")
    assert sheets[0].figure.axes[0].texts[0].get_text() == "cannot be read"


def epochs(count):
    rows = []
    for i in range(1, count + 1):
        rows.append({"step": 25 * i, "epoch": i, "phase": "heads" if i <= count // 2 else "all", "loss": 2 / i})
        rows[-1] |= {"accuracy": 1 - 0.5 / i, "val_loss": 2 / i + abs(i - 8) / 10, "val_accuracy": 0.9 - 0.5 / i}
    return rows


def test_learning_curves(tmp_path, sheets):
    plots.learning_curves(epochs(12), tmp_path / "curves.png")
    check_layout(sheets[0])
    loss, accuracy = sheets[0].figure.axes
    training, validation, phase = loss.lines
    assert np.array_equal(training.get_xydata(), [(25 * i, 2 / i) for i in range(1, 13)])
    assert validation.get_ydata()[7] == 0.25 and phase.get_xdata() == [150, 150]
    assert accuracy.lines[1].get_ydata()[-1] == 0.9 - 0.5 / 12
    shown = texts(sheets[0])
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
def test_learning_curves_of_little(rows, tmp_path, sheets):
    plots.learning_curves(rows, tmp_path / "curves.png")
    check_layout(sheets[0])


def test_pyplot_and_its_settings_are_left_alone(tmp_path):
    from matplotlib import pyplot

    pyplot.switch_backend("svg")
    before = matplotlib.rcParams.copy()
    with pyplot.style.context({"figure.facecolor": "black", "text.color": "white", "axes.facecolor": "black"}):
        plots.learning_curves(epochs(4), tmp_path / "dark.png")
    plots.learning_curves(epochs(4), tmp_path / "light.png")
    assert matplotlib.rcParams == before and not pyplot.get_fignums()
    assert (tmp_path / "dark.png").read_bytes() == (tmp_path / "light.png").read_bytes()


def test_a_picture_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "curves.png"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        plots.learning_curves([], path)
    assert path.read_text() == "mine"
    plots.learning_curves([], path, overwrite=True)
    assert path.read_bytes().startswith(b"\x89PNG")
