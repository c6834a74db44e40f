"""Search by feature vectors, beside scikit-learn's; planted duplicates and wrong labels are found."""

import numpy as np
import pytest

from inception_tf.errors import CheckpointError, UsageError
from inception_tf.evaluation import similar
from inception_tf.inference.embed import Vectors, load_vectors


@pytest.mark.parametrize("asked", [True, False])
def test_nearest_is_that_of_scikit_learn(asked, monkeypatch):
    neighbors = pytest.importorskip("sklearn.neighbors")
    monkeypatch.setattr(similar, "_BLOCK", 16)
    rng = np.random.default_rng(0)
    values, queries = rng.normal(size=(50, 8)).astype("float32"), rng.normal(size=(20, 8)).astype("float32")
    search = neighbors.NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(values)
    distances, wanted = search.kneighbors(queries if asked else None)
    indices, cosines = similar.nearest(values, queries if asked else None, 7)
    assert np.array_equal(indices, wanted) and np.allclose(cosines, 1 - distances, atol=1e-6)


def test_equal_neighbors_come_in_order():
    indices, cosines = similar.nearest(np.ones((9, 3), "float32"), np.ones((1, 3), "float32"), 4)
    assert indices.tolist() == [[0, 1, 2, 3]] and np.allclose(cosines, 1)
    with pytest.raises(UsageError, match="another model"):
        similar.nearest(np.ones((9, 3), "float32"), np.ones((1, 4), "float32"), 4)
    with pytest.raises(UsageError, match="no other"):
        similar.nearest(np.ones((1, 3), "float32"), None, 4)


def test_planted_duplicates(monkeypatch):
    monkeypatch.setattr(similar, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 64)).astype("float32")
    values[33] = 3 * values[2]  # in another block, and of another length
    values[5] = values[4] + 0.1 * values[9]
    (first, second), least = similar.duplicates(values, 0.999), 0.999
    assert first[:2] == (2, 33) and second[:2] == (4, 5) and first[2] > least > second[2] > 0.95
    assert [pair[:2] for pair in similar.duplicates(values, 1.0, 0)] == [(2, 33)]
    with pytest.raises(UsageError, match="1.5"):
        similar.duplicates(values, 1.5)


def test_planted_wrong_labels():
    rng = np.random.default_rng(0)
    centers, truth = rng.normal(size=(3, 16)), np.repeat([0, 1, 2], 30)
    values = (centers[truth] + 0.2 * rng.normal(size=(90, 16))).astype("float32")
    names, wrong = np.array(["a", "b", "c"]), {3: 1, 40: 2, 77: 0}
    labels = truth.copy()
    labels[list(wrong)] = list(wrong.values())
    found = similar.mislabeled(values, names[labels])
    assert {row: tuple(classes) for row, *classes, _ in found} == {
        row: (names[label], names[truth[row]]) for row, label in wrong.items()
    }
    assert all(0.5 < agreement <= 1 for *_, agreement in found)
    with pytest.raises(UsageError, match="two classes"):
        similar.mislabeled(values, ["a"] * 90)


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_vectors_come_back(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    vectors = Vectors(["a.png", "ü b.png"], np.random.default_rng(0).normal(size=(2, 5)).astype("float32"))
    vectors.save(tmp_path / f"v{suffix}")
    again = load_vectors(tmp_path / f"v{suffix}")
    assert again.paths == vectors.paths and again.values.tobytes() == vectors.values.tobytes()
    with pytest.raises(UsageError, match="exists"):
        vectors.save(tmp_path / f"v{suffix}")
    (tmp_path / f"bad{suffix}").write_bytes(b"what is this?")
    for name in (f"bad{suffix}", f"none{suffix}"):
        with pytest.raises(CheckpointError, match=name):
            load_vectors(tmp_path / name)
    with pytest.raises(UsageError, match="v.csv"):
        vectors.save(tmp_path / "v.csv")
