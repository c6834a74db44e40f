"""What dies on a Ray cluster of two raylets loses no image and answers none twice; what is merged is the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray_faults
from PIL import Image

import inception_tf as itf
from inception_tf.cli.main import main
from inception_tf.errors import UsageError
from inception_tf.evaluation.feature_statistics import FeatureStatistics
from inception_tf.evaluation.features import FeatureExtractor
from inception_tf.exports.onnx import to_onnx
from inception_tf.inference.ray import RayPool

PHOTOGRAPHS, BAD = 120, 6
BAD_KINDS = {"abort": 1, "truncated": 2, "empty": 1, "text": 1, "huge": 1}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(PHOTOGRAPHS):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(folder / f"{number:05d}.jpg")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "lenet.onnx"
    to_onnx(itf.create_model("lenet", classes=3), path, features=True)
    return path


@pytest.fixture(scope="module")
def raylets(tmp_path_factory):
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which workers do not have
    with ray_faults.Raylets(tmp_path_factory.mktemp("raylets")) as raylets:
        yield raylets


class Squares:
    """Work on lists of numbers; at 7 its process dies, at -1 it raises."""

    def open(self):
        pass

    def __call__(self, numbers):
        if 7 in numbers:
            os.abort()
        if -1 in numbers:
            raise UsageError("below zero")
        return [(number, number**2) for number in numbers]

    def failed(self, numbers, why):
        return [(number, why) for number in numbers]


@pytest.mark.parametrize("options", [{"workers": 0}, {"tries": 0}, {"cpus": 0}, {"gpus": -1}])
def test_options(options):
    with pytest.raises(UsageError, match="Received: workers="):
        RayPool(**options)


def test_no_cluster():
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:1"), RayPool("127.0.0.1:1"):
        pass


def test_a_file_is_no_folder(capsys):
    assert main(["classify", "lenet.onnx", ".", "--ray", "local"]) == 2 and "--out" in capsys.readouterr().err
    assert main(["embed", "lenet.onnx", ".", "--ray", "local", "--out", "a.npz"]) == 2
    assert "a.npz" in capsys.readouterr().err


@pytest.mark.slow
def test_pool(raylets):
    with RayPool(raylets.address, tries=2) as pool:
        pieces = [list(range(at, at + 32)) for at in range(0, 320, 32)]
        found = [row for rows in pool.map(Squares(), pieces) for row in rows]
        assert sorted(number for number, _ in found) == list(range(320))
        assert {number: value for number, value in found if value != number**2}.keys() == {7}
        assert "2 times" in dict(found)[7] and pool.lost == 4  # as 32, as 2, and alone
        assert list(pool.map(Squares(), [])) == []
        with pytest.raises(UsageError, match="below zero"):
            list(pool.map(Squares(), [[1], [-1]]))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ray_faults.FAULTS)
def test_faults(fault, raylets, photographs, model, tmp_path):
    kinds = ray_faults.write_images(tmp_path / "images", photographs, BAD)
    ray_faults.run_fault(fault, raylets, model, tmp_path / "images", tmp_path / "out", PHOTOGRAPHS, seconds=120)
    found = ray_faults.count_rows(tmp_path / "out", tmp_path / "images", kinds)
    assert found.pop("reasons") == BAD_KINDS
    assert found == {"rows": PHOTOGRAPHS + BAD, "twice": 0, "lost": 0, "wrong": 0}


@pytest.mark.slow
def test_the_command_answers_as_without_ray(raylets, photographs, model, tmp_path):
    """And its paths may be relative, and nothing of Ray's is in its JSON."""
    from pyarrow import dataset

    (tmp_path / "photographs").symlink_to(photographs[0].parent)
    command = [sys.executable, "-m", "inception_tf", "classify", model, "photographs", "--json", "--embed", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(Path(ray_faults.__file__).parents[2])}
    for out, options in {"plain": [], "ray": ["--ray", raylets.address, "--ray-workers", "2"]}.items():
        done = subprocess.run([*command, out, *options], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
        data = json.loads(done.stdout)
        assert (data["images"], data["failed"]) == (PHOTOGRAPHS, 0)
    assert data["ray"]["workers_lost"] == 0 and data["ray"]["cpu_seconds"] > 0
    plain, rayed = (
        dataset.dataset(tmp_path / out, format="parquet").to_table().sort_by("path") for out in ("plain", "ray")
    )
    assert plain.equals(rayed)


@pytest.mark.slow
def test_ray_data(raylets, photographs, model, tmp_path):
    """The class alone, in an engine that is not ours."""
    import pyarrow

    data = pytest.importorskip("ray.data")
    table = pyarrow.table({"path": [*map(str, photographs[:20]), str(tmp_path / "none.jpg")]})
    options = {"fn_constructor_args": [str(model)], "fn_constructor_kwargs": {"threads": 1, "embed": True}}
    with RayPool(raylets.address):
        found = data.from_arrow(table).map_batches(
            itf.TablePredictor, **options, batch_format="pyarrow", batch_size=8, concurrency=1, num_cpus=0.5
        )
        found = pyarrow.Table.from_pylist(found.take_all())
    alone = itf.TablePredictor(model, threads=1, embed=True)(table)
    assert found.sort_by("path").to_pylist() == alone.sort_by("path").to_pylist()


@pytest.mark.slow
def test_statistics_for_fid(raylets, photographs, tmp_path):
    """Of two jobs on Ray, merged as docs/scale-out.md has it, they are those of one process."""
    network = itf.create_model(
        "inception_2015", input_shape=(75, 75, 3), depth_multiplier=0.1, include_top=False, pooling="avg"
    )
    to_onnx(network, tmp_path / "features.onnx")
    for number, photograph in enumerate(photographs[:40]):
        (tmp_path / f"images/{number % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"images/{number % 2}" / photograph.name).symlink_to(photograph)
    (tmp_path / "images/0/bad.jpg").write_bytes(b"")
    alone = FeatureExtractor(tmp_path / "features.onnx", batch=4).extract(tmp_path / "images", skip=True, cache=False)
    options = ["--model", str(tmp_path / "features.onnx"), "--batch", "4", "--no-cache", "--skip-unreadable"]
    for number in "01":
        command = ["fid", str(tmp_path / "images" / number), "--save", str(tmp_path / f"{number}.npz"), *options]
        assert main([*command, "--ray", raylets.address]) == 0
    merged = FeatureStatistics.load(tmp_path / "0.npz").merge(FeatureStatistics.load(tmp_path / "1.npz"))
    assert merged.count == alone.statistics.count == 40
    for name in ("mu", "sigma"):
        np.testing.assert_allclose(getattr(merged, name), getattr(alone.statistics, name), rtol=0, atol=1e-9)
