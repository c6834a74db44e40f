"""FID and the other measures beside SciPy, scikit-learn and PyTorch-free forms of their papers' definitions."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from random_weights import randomized

import inception_tf as itf
from inception_tf.cli.main import main
from inception_tf.errors import CheckpointError, ImageError, UsageError
from inception_tf.evaluation import features, generative
from inception_tf.evaluation.feature_statistics import FeatureStatistics
from inception_tf.evaluation.features import FeatureExtractor
from inception_tf.evaluation.fid import compare, open_side, precision_change
from inception_tf.images.decoding import read_image
from inception_tf.images.resize_2015 import resize_2015


def gaussian(count, dimensions=12, seed=0, shift=0.0):
    random = np.random.default_rng(seed)
    return random.normal(shift, 1, (count, dimensions)) @ random.normal(0, 1, (dimensions, dimensions))


@pytest.mark.parametrize("count", [200, 8])
def test_frechet_distance_is_scipys(count):
    """Of fewer samples than dimensions too, where the covariance is singular."""
    scipy = pytest.importorskip("scipy.linalg")
    a, b = gaussian(count), gaussian(count, seed=1, shift=0.3)
    (mu1, sigma1), (mu2, sigma2) = ((f.mean(0), np.cov(f, rowvar=False)) for f in (a, b))
    root = np.trace(scipy.sqrtm(sigma1 @ sigma2).real) if count > 12 else _root_trace(scipy, sigma1, sigma2)
    expected = ((mu1 - mu2) ** 2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * root
    found = generative.frechet_distance(mu1, sigma1, mu2, sigma2)
    assert found == pytest.approx(expected, rel=1e-6)
    assert found == pytest.approx(generative.frechet_distance(mu2, sigma2, mu1, sigma1), rel=1e-9)
    assert generative.frechet_distance(mu1, sigma1, mu1, sigma1) == pytest.approx(0, abs=1e-6)


def _root_trace(scipy, a, b):
    return np.sqrt(scipy.eigvals(a @ b).astype("complex128")).real.sum()


def test_frechet_distance_of_known_gaussians():
    one, four = np.eye(3), 4 * np.eye(3)
    assert generative.frechet_distance(np.zeros(3), one, np.full(3, 2.0), four) == pytest.approx(12 + 3)
    with pytest.raises(UsageError, match="NaN"):
        generative.frechet_distance(np.zeros(3), one * np.nan, np.zeros(3), one)
    with pytest.raises(UsageError, match=r"\(2,\)"):
        generative.frechet_distance(np.zeros(2), one, np.zeros(3), one)


def test_statistics_of_parts_are_those_of_the_whole(tmp_path):
    features = gaussian(501) + 1e4  # a mean far from zero, where sums of squares would cancel
    parts = np.split(features, [1, 7, 200, 200, 499])
    gathered = FeatureStatistics("clean", "w")
    for part in parts[:3]:
        gathered.update(part)
    other = FeatureStatistics("clean", "w")
    for part in parts[:2:-1]:
        other.update(part)
    gathered.merge(other)
    assert gathered.count == 501
    np.testing.assert_allclose(gathered.mu, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(gathered.sigma, np.cov(features, rowvar=False), rtol=1e-9)
    gathered.save(tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as file:
        assert {"mu", "sigma", "mode", "count"} <= set(file.files)
    saved = bytearray((tmp_path / "s.npz").read_bytes())
    saved[len(saved) // 2] ^= 255
    (tmp_path / "damaged.npz").write_bytes(saved)
    with pytest.raises(UsageError, match="or is damaged"):
        FeatureStatistics.load(tmp_path / "damaged.npz")
    read = FeatureStatistics.load(tmp_path / "s.npz")
    assert (read.mode, read.count, read.weights) == ("clean", 501, "w")
    np.testing.assert_allclose(read.merge(other).sigma, gathered.merge(other).sigma, rtol=1e-12)


def test_kernel_distance_is_unbiased_and_its_definition():
    a, b = gaussian(40), gaussian(50, seed=1, shift=0.3)
    mean, deviation, size = generative.kernel_distance(a, b, subsets=3, subset_size=1000)
    assert size == 40
    random, found = np.random.RandomState(2020), []
    for _ in range(3):
        x, y = (f[random.choice(len(f), 40, replace=False)] for f in (a, b))

        def k(u, v):
            return (np.dot(u, v) / 12 + 1) ** 3

        pairs = [(i, j) for i in range(40) for j in range(40)]
        within = [k(f[i], f[j]) for f in (x, y) for i, j in pairs if i != j]
        found.append(sum(within) / (40 * 39) - 2 * np.mean([k(x[i], y[j]) for i, j in pairs]))
    assert (mean, deviation) == pytest.approx((np.mean(found), np.std(found)), rel=1e-9)
    halves = [generative.kernel_distance(*np.split(gaussian(200, seed=s), 2), subsets=1)[0] for s in range(2, 40)]
    assert min(halves) < 0 < max(halves)  # a biased one of equal distributions is always above 0


def test_inception_score():
    sure = np.eye(10)[np.arange(200) % 10] * 60
    assert generative.inception_score(sure, splits=1)[0] == pytest.approx(10)
    assert generative.inception_score(np.zeros((50, 10)))[0] == pytest.approx(1)
    mean, deviation = generative.inception_score(gaussian(100), splits=4)
    p = np.exp(gaussian(100))
    p = (p / p.sum(1, keepdims=True))[np.random.RandomState(2020).permutation(100)].reshape(4, 25, -1)
    scores = [np.exp(np.mean(np.sum(q * np.log(q / q.mean(0)), 1))) for q in p]
    assert (mean, deviation) == pytest.approx((np.mean(scores), np.std(scores)))
    with pytest.raises(UsageError, match="5, 10 splits"):
        generative.inception_score(np.zeros((5, 10)))


def test_precision_recall_density_coverage_by_neighbors():
    neighbors, metrics = pytest.importorskip("sklearn.neighbors"), pytest.importorskip("sklearn.metrics")
    generated, real = gaussian(60, shift=0.4), gaussian(70, seed=1)[:, ::-1] * 0.9

    def radii(features, k):
        return neighbors.NearestNeighbors(n_neighbors=k + 1).fit(features).kneighbors(features)[0][:, k]

    distances = metrics.pairwise_distances(real, generated)
    near_real, near_generated = distances <= radii(real, 3)[:, None], distances <= radii(generated, 3)
    expected = near_real.any(0).mean(), near_generated.any(1).mean()
    assert generative.precision_recall(generated, real) == pytest.approx(expected)
    inside = distances < radii(real, 5)[:, None]
    expected = inside.sum(0).mean() / 5, (distances.min(1) < radii(real, 5)).mean()
    assert generative.density_coverage(generated, real) == pytest.approx(expected)
    assert generative.precision_recall(real, real) == (1, 1)
    with pytest.raises(UsageError, match="more than 3 images. Received: 3"):
        generative.precision_recall(real[:3], real)


def test_resizes_are_the_tools(shared):
    """Of TensorFlow 1's operation and of Pillow itself; PyTorch's is in test_fid_peers.py. Shapes up and down."""
    import tensorflow as tf
    from PIL import Image

    for image in (read_image(shared / "data/images/grace_hopper.jpg"), np.uint8(np.arange(60).reshape(4, 5, 3) * 4)):
        theirs = tf.raw_ops.ResizeBilinear(images=image[None], size=(299, 299)).numpy()[0]
        assert np.abs(resize_2015(image) - (theirs - 128) / 128).max() < 1e-6
        channels = [Image.fromarray(image[:, :, c].astype("float32"), mode="F") for c in range(3)]
        theirs = np.stack([np.asarray(c.resize((299, 299), Image.BICUBIC)) for c in channels], -1).clip(0, 255)
        assert np.abs(resize_2015(image, "clean") - (theirs / 128 - 1)).max() < 1e-6
    flat = np.full((9, 7, 3), 255, "uint8")
    assert np.all(resize_2015(flat, "pytorch") == 1) and np.all(resize_2015(flat) == np.float32(127 / 128))
    half = resize_2015(np.uint8([[[0] * 3, [255] * 3]]), "pytorch", 4)[0, :, 0]  # (i + 0.5) / 2 - 0.5, from 0 on
    np.testing.assert_allclose(half, [-1, -0.5, 0.5, 1])
    with pytest.raises(UsageError, match="tensorflow, pytorch, clean"):
        resize_2015(flat, "bilinear")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The path of a small network of random weights, for images of 75×75."""
    path = tmp_path_factory.mktemp("fid") / "small.keras"
    randomized(itf.create_model("inception_2015", input_shape=(75, 75, 3), depth_multiplier=0.1, classes=20)).save(path)
    keras.backend.clear_session()
    return path


@pytest.fixture(scope="module")
def extractor(model):
    return FeatureExtractor(model, batch=8)


@pytest.fixture
def folders(shared, tmp_path, monkeypatch):
    """Two folders of eight photographs, and none kept of what was computed before."""
    monkeypatch.setenv("INCEPTION_TF_HOME", str(tmp_path / "home"))
    found = []
    for name in ("roses", "tulips"):
        (tmp_path / name).mkdir()
        for file in sorted((shared / "data/flower_photos" / name).glob("*.jpg"))[:8]:
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        found.append(tmp_path / name)
    return found


def test_features_are_the_networks(model, extractor, folders):
    images = [read_image(file, decoder="pillow") for file in sorted(folders[0].iterdir())]
    network = itf.load_model(model)
    prepared = np.stack([resize_2015(image, side=75) for image in images])
    expected, logits = keras.Model(network.inputs, [network.features, network.logits]).predict_on_batch(prepared)
    expected = expected[:, 0, 0]
    found = extractor.extract(folders[0])
    assert np.abs(found.values - expected).max() < 1e-5 * np.abs(expected).max() and found.mode == "tensorflow"
    bias = network.classifier.weights[1].numpy()
    np.testing.assert_allclose(found.values @ extractor.kernel + bias, logits, atol=1e-4 * np.abs(logits).max())


def test_features_are_computed_once(extractor, folders, monkeypatch):
    first = extractor.extract(folders[0])
    monkeypatch.setattr(extractor, "_run", None)
    again = extractor.extract(folders[0])
    assert np.array_equal(first.values, again.values) and first.names == again.names
    next(folders[0].iterdir()).touch()
    with pytest.raises(TypeError):
        extractor.extract(folders[0])


def test_sides_of_all_kinds(extractor, folders, tmp_path):
    """The same images as a pattern, a manifest, an array, TFRecords and Parquet give the same features."""
    import tensorflow as tf

    files = sorted(folders[0].iterdir())
    expected = extractor.extract(folders[0], cache=False).values
    (tmp_path / "list.txt").write_text("".join(f"roses/{file.name}\n" for file in files))
    with tf.io.TFRecordWriter(str(tmp_path / "roses.tfrecord")) as writer:
        for file in files:
            value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file.read_bytes()]))
            writer.write(
                tf.train.Example(features=tf.train.Features(feature={"image/encoded": value})).SerializeToString()
            )
    sources = [str(folders[0] / "*.jpg"), tmp_path / "list.txt", tmp_path / "roses.tfrecord"]
    try:
        import pyarrow
        from pyarrow import parquet

        column = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        (tmp_path / "shards").mkdir()
        parquet.write_table(pyarrow.table({"image": column}), tmp_path / "shards/roses.parquet")
        column = [file.read_bytes() for file in files] + [None]
        parquet.write_table(pyarrow.table({"number": range(9), "content": column}), tmp_path / "content.parquet")
        (tmp_path / "list.csv").write_text("label,path\n" + "".join(f"1,roses/{file.name}\n" for file in files))
        sources += [tmp_path / name for name in ("shards", "content.parquet", "list.csv")]
        with pytest.raises(UsageError, match=r"1 of 9 images.*content\.parquet:8: Its row has no image"):
            extractor.extract(tmp_path / "content.parquet")
    except ImportError:
        pass
    for source in sources:
        assert np.array_equal(extractor.extract(source, skip=True).values, expected), source
    images = np.stack([resize_array(read_image(file, decoder="pillow")) for file in files])
    np.save(tmp_path / "images.npy", images)
    np.savez(tmp_path / "images.npz", images)
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays/a.npy", images[:3])
    np.save(tmp_path / "arrays/b.npy", images[3:].transpose(0, 3, 1, 2))
    for name in ("images.npy", "images.npz", "arrays"):
        assert np.array_equal(extractor.extract(tmp_path / name).values, extractor(images))
    with pytest.raises(UsageError, match=r"\(80, 90, 3\)"):  # one image is no 80 gray ones
        extractor(images[0])


def test_a_tfrecord_that_breaks_off(extractor, folders, tmp_path):
    import tensorflow as tf

    path = tmp_path / "roses.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for file in sorted(folders[0].iterdir()):
            value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file.read_bytes()]))
            features = tf.train.Features(feature={"image/encoded": value})
            writer.write(tf.train.Example(features=features).SerializeToString())
        writer.write(b"\xff")
    with pytest.raises(UsageError, match=r"1 of 9 .*roses\.tfrecord:8: is no tf\.train\.Example"):
        extractor.extract(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UsageError, match=r"cannot be read.*roses\.tfrecord:\d: breaks off after record \d: truncated"):
        extractor.extract(path)
    found = extractor.extract(path, skip=True)
    assert list(found.skipped) == [f"{path}:{len(found.values)}"] and 0 < len(found.values) < 8
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UsageError, match=r"No images in .*roses\.tfrecord:0: not a TFRecord file"):
        extractor.extract(path)


def resize_array(image):
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((90, 80)))


def test_the_command(model, extractor, folders, tmp_path, capsys, monkeypatch):
    a, b = map(str, folders)
    options = ["--model", str(model), "--batch", "8"]
    assert main(["fid", a, b, "--metrics", "all", "--splits", "2", "--json", *options]) == 0
    clean = copy.copy(extractor)
    clean.resize = "clean"
    opened = {"tensorflow": extractor, "clean": clean}
    monkeypatch.setattr(features, "FeatureExtractor", lambda model, resize, *_: opened[resize])
    found = json.loads(capsys.readouterr().out)
    assert found["mode"] == "tensorflow" and found["counts"] == [8, 8] and found["fid"] > 0
    assert found["kid"]["subset_size"] == 8 and found["kid"]["deviation"] < 1e-9 and "all 8" in found["notes"][0]
    assert found["inception_score"]["mean"] >= 1
    assert all(found[name] is not None for name in ("precision", "recall", "density", "coverage"))
    assert "2,048" in found["warnings"][0]
    stats = tmp_path / "roses.npz"
    assert main(["fid", a, "--save", str(stats), *options]) == 0
    assert main(["fid", str(stats), b, *options]) == 0
    out = capsys.readouterr().out
    assert f"{found['fid']:.6g}" in out and "tensorflow" in out
    assert main(["fid", str(stats), b, "--resize", "clean", *options]) == 2
    assert "tensorflow and clean" in capsys.readouterr().err
    assert main(["fid", str(stats), b, "--metrics", "kid", *options]) == 2
    assert (
        main(["fid", b, str(stats), "--metrics", "fid,is", "--splits", "2", *options]) == 0
    )  # is of the generated alone
    assert main(["fid", a, b, "--metrics", "pr", "--neighbors", "0", *options]) == 2
    assert main(["fid", a, "--save", str(tmp_path / "stats.txt"), *options]) == 2
    assert main(["fid", a, b, "--metrics", "fud", *options]) == 2 and main(["fid", a, *options]) == 2
    assert main(["fid", a, "--save", str(stats), *options]) == 2  # it exists


def test_bad_input(extractor, folders, tmp_path):
    from PIL import Image

    image = Image.open(next(folders[0].iterdir())).resize((64, 48))
    good = tmp_path / "good"
    good.mkdir()
    image.convert("L").save(good / "gray.png")
    image.convert("RGBA").save(good / "alpha.png")
    image.convert("CMYK").save(good / "cmyk.jpg")
    Image.fromarray(np.asarray(image.convert("L")).astype("uint16") * 257).save(good / "sixteen.png")
    image.save(good / "animated.gif", save_all=True, append_images=[image.rotate(90)])
    assert np.isfinite(extractor.extract(good).values).all() and len(extractor.extract(good).names) == 5
    (good / "cut.jpg").write_bytes(next(folders[0].iterdir()).read_bytes()[:2000])
    (good / "text.png").write_bytes(b"not an image")
    with pytest.raises(UsageError, match=r"2 of 7 images cannot be read.*cut\.jpg.*text\.png"):
        extractor.extract(good)
    assert len(extractor.extract(good, skip=True).skipped) == 2
    with pytest.MonkeyPatch.context() as patch:  # what could not be read is read again
        patch.setattr("inception_tf.images.image_sets.ImageSet.read", lambda self, index: np.zeros((9, 9, 3), "uint8"))
        assert len(extractor.extract(good).names) == 7
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="No images"):
        extractor.extract(tmp_path / "empty")
    one = extractor(np.zeros((1, 8, 8, 3), "uint8"))
    single, pair = (FeatureStatistics().update(np.repeat(one, n, 0)) for n in (1, 2))
    with pytest.raises(UsageError, match="two images at least. Received: 1"):
        compare(single, pair)
    with pytest.raises(UsageError, match="NaN or infinity in 1 rows"):
        FeatureStatistics().update([[np.nan, 1.0]])
    with pytest.raises(UsageError, match="dimensions. Received: 203 and 3"):
        compare(pair, FeatureStatistics().update(gaussian(9, 3)))
    for value, said in ((np.nan, "NaN"), (0.5, "0 to 255")):
        with pytest.raises(ImageError, match=said):
            extractor([np.full((9, 9, 3), value)] * 2)
    np.savez(tmp_path / "bad.npz", mu=np.zeros(3), sigma=np.zeros((4, 4)))
    with pytest.raises(UsageError, match=r"\(3,\) and \(4, 4\)"):
        open_side(tmp_path / "bad.npz")
    with pytest.raises(UsageError, match="inception_2015.*inception_v3"):
        FeatureExtractor(itf.create_model("inception_v3", depth_multiplier=0.1, input_shape=(75, 75, 3)))


def test_a_network_that_answers_nan(extractor, folders):
    broken = copy.copy(extractor)
    broken._run = lambda images: np.full((len(images), 203), np.inf)
    with pytest.raises(CheckpointError, match="NaN"):
        broken.extract(folders[0])


def test_a_precision_tells_its_change_of_fid(extractor, folders):
    """Of the same images of each side, a side of statistics as it is; the narrow one is float32 rounded here."""
    narrow = copy.copy(extractor)
    narrow.precision, narrow._run = "float16", lambda images: extractor._run(images).astype("float16")
    found = precision_change(*folders, narrow, extractor, count=5)
    five = [extractor.extract(sorted(map(str, folder.iterdir()))[0:8]).values[[0, 1, 3, 5, 7]] for folder in folders]
    exact = compare(*(FeatureStatistics().update(values) for values in five)).fid
    rounded = compare(*(FeatureStatistics().update(values.astype("float16")) for values in five)).fid
    assert found["counts"] == (5, 5) and (found["float32"], found["fid"]) == pytest.approx((exact, rounded), rel=1e-9)
    assert 0 < abs(found["relative"]) < 0.01
    real = extractor.extract(folders[1]).statistics
    assert precision_change(folders[0], real, narrow, extractor)["counts"] == (8, 8)


def test_the_keras_metric(extractor, folders):
    """Streamed in parts, merged, and through the callback: the FID of all at once."""
    images = [np.stack([resize_array(read_image(f, decoder="pillow")) for f in sorted(d.iterdir())]) for d in folders]
    expected = compare(*(FeatureStatistics().update(extractor(batch)) for batch in images)).fid
    metric = itf.metrics.FID(images[1], extractor)
    assert np.isnan(metric.result())
    metric.update_state(keras.ops.convert_to_tensor(images[0][:3]))
    other = itf.metrics.FID(metric.real, extractor)
    other.update_state(images[0][3:].astype("float32"))
    metric.merge(other)
    assert metric.result() == pytest.approx(expected, rel=1e-9)

    with pytest.raises(UsageError, match="tensorflow and clean"):
        itf.metrics.FID(FeatureStatistics("clean").update(gaussian(4, 203)), extractor)

    done, logs = iter(np.split(images[0], 1)), {}
    callback = itf.metrics.FIDCallback(lambda count: next(done), metric, count=8, every=2)
    callback.on_epoch_end(0, logs)
    assert logs == {}
    callback.on_epoch_end(1, logs)
    assert logs["fid"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_in_model_fit(backend, model, extractor, folders):
    """The callback, and the metric on a model's outputs; in a process of its own, for the backend."""
    pytest.importorskip(backend)
    program = Path(__file__).with_name("run_fid_fit.py")
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(program), str(model), str(folders[0])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    expected = extractor.extract(folders[0], cache=False).statistics.mu
    np.testing.assert_allclose(found["real"], expected, atol=1e-5 * np.abs(expected).max())
    assert found["callback"] == pytest.approx(found["alone"], rel=1e-6)
    assert found["eager"] == pytest.approx(found["alone"], rel=1e-6)
    assert "FIDCallback" in found["compiled"]


@pytest.mark.slow
def test_an_export_and_narrow_precisions(model, extractor, tmp_path):
    """An export without the top gives the same features; bfloat16 and float16 other ones, close by."""
    whole = itf.load_model(model)
    options = {"input_shape": (75, 75, 3), "depth_multiplier": 0.1, "include_top": False, "pooling": "avg"}
    headless = itf.create_model("inception_2015", **options)
    values = {variable.path: variable for variable in whole.weights}
    for variable in headless.weights:
        variable.assign(values[variable.path])
    itf.to_onnx(headless, tmp_path / "features.onnx")
    images = np.random.default_rng(0).integers(0, 256, (4, 90, 80, 3), dtype="uint8")
    expected = extractor(images)
    exported = FeatureExtractor(tmp_path / "features.onnx")
    assert exported.kernel is None and np.abs(exported(images) - expected).max() < 1e-5 * expected.max()
    for precision in ("bfloat16", "float16"):
        narrow = FeatureExtractor(model, precision=precision, batch=8)(images)
        assert 1e-5 < np.abs(narrow - expected).max() / expected.max() < 0.05
