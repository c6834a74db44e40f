import pickle
import sys

import numpy as np
import pytest
import tensorflow as tf

from inception_tf.errors import ExportError
from inception_tf.exports import check
from inception_tf.exports.fresh_process import main, run_fresh


def save(path, function):
    """Writes a SavedModel whose one signature gives as `y` what the function does of `x`."""
    module = tf.Module()
    spec = tf.TensorSpec((None,), tf.float32, name="x")
    module.signature = tf.function(lambda x: {"y": function(x)}, input_signature=[spec])
    tf.saved_model.save(module, path, {"signature": module.signature})
    return path


@pytest.fixture(scope="module")
def needs_python(tmp_path_factory):
    """A SavedModel that calls back into the Python process that made it."""
    path = tmp_path_factory.mktemp("python") / "export"
    return save(path, lambda x: tf.numpy_function(lambda x: x + 1, [x], tf.float32))


def test_what_does_not_run_is_reported_in_a_line(needs_python):
    with pytest.raises(ExportError, match="(?i)does not run without Keras: .*(pyfunc|callback)") as error:
        run_fresh(needs_python, {"signature": {"x": np.float32([1])}})
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("exists, reason", [(True, "it lacks the signature other"), (False, "does not exist")])
def test_what_the_fresh_process_says_last(needs_python, tmp_path, monkeypatch, exists, reason):
    (tmp_path / "inputs").write_bytes(pickle.dumps({"other": {"x": np.float32([1])}}))
    for name in ("keras", "tf_keras"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit, match=reason):
        main(str(needs_python if exists else tmp_path / "nothing"), tmp_path / "inputs", tmp_path / "outputs")


def test_neither_keras_can_be_imported(tmp_path, monkeypatch):
    # A module of that name on the path must not be found either.
    for name in ("keras", "tf_keras"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    outputs = run_fresh(save(tmp_path / "export", lambda x: x + 1), {"signature": {"x": np.float32([1])}})
    assert outputs["signature"]["y"] == [2]
    assert not (tmp_path / "imported").exists()


def test_maps_in_16_bits_are_held_by_their_means():
    names, wanted = ["a", "b"], np.random.default_rng(0).uniform(0.5, 1, (1, 2, 8, 8)).astype(np.float32)
    rounding = np.where(np.indices((8, 8)).sum(0) % 2, 0.2, -0.2).astype(np.float32)  # of which nothing is in the mean

    def difference(moved, tolerance):
        classes = np.array([[b"b", b"a"]])
        return check._difference_by_class(
            "maps", classes, wanted[:, ::-1] + moved, wanted, names, tolerance, "bfloat16"
        )

    assert 0.19 < difference(rounding, 8e-2) < 0.21
    with pytest.raises(ExportError, match="'b' a value that differs .* 2.0e-01 of its maximum .limit 0.08."):
        difference(rounding, 1e-2)
    with pytest.raises(ExportError, match="'b' a value"):
        difference(rounding / 1e3, 1e-5)
    with pytest.raises(ExportError, match="'b' a mean that differs .* 1.0e-01 .*limit 0.08.*export in float16"):
        difference(0.1, 8e-2)
