import numpy as np
import pytest
import tensorflow as tf

from inception_tf.errors import ExportError
from inception_tf.export.check import run_fresh


@pytest.fixture(scope="module")
def needs_python(tmp_path_factory):
    """A SavedModel that calls back into the Python process that made it."""
    path = tmp_path_factory.mktemp("python") / "export"
    module = tf.Module()
    module.signature = tf.function(
        lambda x: {"y": tf.numpy_function(lambda x: x + 1, [x], tf.float32)},
        input_signature=[tf.TensorSpec((None,), tf.float32, name="x")],
    )
    tf.saved_model.save(module, path, {"signature": module.signature})
    return path


@pytest.mark.parametrize(
    "signature, reason", [("signature", "pyfunc|callback"), ("other", "lacks the signature other")]
)
def test_what_does_not_run_is_told_in_a_line(needs_python, signature, reason):
    with pytest.raises(ExportError, match=f"(?i)does not run without Keras: .*({reason})") as error:
        run_fresh(needs_python, {signature: {"x": np.float32([1])}})
    assert len(str(error.value).splitlines()) == 1


def test_no_savedmodel(tmp_path):
    with pytest.raises(ExportError, match="does not run without Keras: .*does not exist"):
        run_fresh(tmp_path / "nothing", {})


def test_neither_keras_can_be_imported(tmp_path, monkeypatch):
    # A module of that name on the path must not be found either.
    for name in ("keras", "tf_keras"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    module = tf.Module()
    module.signature = tf.function(
        lambda x: {"y": x + 1}, input_signature=[tf.TensorSpec((None,), tf.float32, name="x")]
    )
    tf.saved_model.save(module, tmp_path / "export", {"signature": module.signature})
    outputs = run_fresh(tmp_path / "export", {"signature": {"x": np.float32([1])}})
    assert outputs["signature"]["y"] == [2]
    assert not (tmp_path / "imported").exists()
