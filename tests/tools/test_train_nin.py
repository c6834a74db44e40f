"""tools/train_nin.py on a handful of stripes in place of Fashion-MNIST."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import train_nin as tool

from inception_tf.images.preprocessing import Preprocessing

SMALL = ["--size=28", "--width=0.1", "--epochs=1", "--examples=64"]


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """10 classes of 28×28 images, told apart by the distance of their stripes, sorted by class as the real data is."""
    rng, arrays = np.random.default_rng(0), {}
    for part, each in (("train", 32), ("test", 5)):
        labels = np.repeat(np.arange(10, dtype="uint8"), each)
        images = rng.integers(0, 60, (len(labels), 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels):
            (image if label % 2 else image.T)[:: 2 + label // 2] += 180
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    path = tmp_path_factory.mktemp("data") / "stripes.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def trained(stripes, tmp_path_factory):
    """The directory of a run of two networks."""
    out = tmp_path_factory.mktemp("trained") / "nin"
    arguments = ["--networks", "nin", "fc", "--size=28", "--width=0.1", "--epochs=2", "--batch=8", "--rate=0.05"]
    tool.main([*arguments, "--data", str(stripes), "--out", str(out)])
    return out


def test_results(trained):
    facts = json.loads((trained / "results.json").read_text())
    assert (facts["size"], facts["width"], facts["rate"], facts["seed"]) == (28, 0.1, 0.05, 0)
    nin, fc = facts["networks"]
    assert [len(result["epochs"]) for result in (nin, fc)] == [2, 2]
    assert fc["parameters"] - nin["parameters"] == 10 * 10 + 10  # a last map of one place, at 28×28
    assert nin["epochs"][1]["loss"] < nin["epochs"][0]["loss"]
    assert sorted(path.name for path in trained.iterdir()) == ["curves.png", "fc.keras", "nin.keras", "results.json"]
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_saved_network_is_the_trained_one(trained, stripes):
    """It classifies image files as it did the test images: the same preprocessing, and the classes' names."""
    from inception_tf.inference.engines import open_engine

    engine = open_engine(trained / "nin.keras")
    images, labels = tool.load(stripes)["test"]
    scores = engine(engine.preprocessing(list(images)))
    accuracy = json.loads((trained / "results.json").read_text())["networks"][0]["epochs"][-1]["val_accuracy"]
    assert (scores.argmax(1) == labels).mean() == pytest.approx(accuracy)
    assert engine.labels[0] == "T-shirt/top" and engine.labels[9] == "Ankle boot"


def test_sorted_data_is_shuffled(stripes):
    images, labels = tool.load(stripes)["train"]
    preprocessing = Preprocessing("inception", 28, central_fraction=None, channels=1)
    data = tool.batches(images, labels, preprocessing, 32, shuffled=3)
    first, second = ([labels.numpy() for _, labels in data] for _ in range(2))
    assert all(len(set(batch)) > 4 for batch in first)
    assert not np.array_equal(first, second)
    assert np.array_equal(np.sort(np.concatenate(first)), labels)
    again = [labels.numpy() for _, labels in tool.batches(images, labels, preprocessing, 32, shuffled=3)]
    assert np.array_equal(first, again)


@pytest.mark.slow
def test_a_seed_gives_the_same_run(stripes, tmp_path):
    runs = []
    for out in ("a", "b"):
        tool.main(["--networks", "plain", *SMALL, f"--data={stripes}", f"--out={tmp_path / out}"])
        (epoch,) = json.loads((tmp_path / out / "results.json").read_text())["networks"][0]["epochs"]
        runs.append((epoch["loss"], epoch["val_loss"]))
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)


def test_a_rate_that_diverges_is_cut(monkeypatch):
    rates = []

    def train(*arguments):
        rates.append(arguments[-1])
        return {"rate": rates[-1]} if len(rates) == 2 else None

    monkeypatch.setattr(tool, "train", train)
    assert tool.train_until_stable("fc", None, SimpleNamespace(rate=0.3), None) == {"rate": pytest.approx(0.1)}


@pytest.mark.slow
def test_one_that_diverges_at_every_rate(stripes, tmp_path):
    with pytest.raises(SystemExit, match="fc diverged at .* too"):
        tool.main(["--networks", "fc", *SMALL, "--rate=1e35", f"--data={stripes}", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_bad_input(stripes, trained, tmp_path):
    out = tmp_path / "out"
    for arguments, said in [
        (["--size", "8"], "at least 11×11"),
        (["--data", str(tmp_path / "none.npz")], "is no NPZ file"),
        (["--data", __file__], "is no NPZ file"),
        (["--out", str(trained)], "exists"),
    ]:
        with pytest.raises(SystemExit) as exit_:
            tool.main(["--data", str(stripes), "--out", str(out), *arguments])
        assert said in str(exit_.value)
    assert not out.exists()
