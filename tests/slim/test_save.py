import keras
import numpy as np
import pytest
from slim_files import build_slim, read_tensors, tf1_session, write_tensors

import inception_tf as itf
from inception_tf.errors import InceptionTFError, UsageError
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.load import load_slim
from inception_tf.slim.save import save_slim

SMALL = {"depth_multiplier": 0.1, "classes": 5, "aux_logits": True}


@pytest.fixture(scope="module")
def model(trained):
    return itf.create_model("inception_v3", weights=trained.path, ema="ignore")


def test_tf_slim_restores_it(model, trained, tmp_path):
    """The Saver of TensorFlow 1 restores both formats into TF-Slim's graph, every variable bit for bit."""
    import tensorflow.compat.v1 as tf

    paths = {format: save_slim(model, tmp_path / format / "model.ckpt", format) for format in ("v1", "v2")}
    names = {format: sorted(open_checkpoint(path)) for format, path in paths.items()}
    with tf1_session() as session:
        variables = build_slim(aux_logits=True)
        assert names["v1"] == names["v2"] == sorted(variable.op.name for variable in variables)
        saver = tf.train.Saver(variables)
        for format in names:
            session.run([variable.initializer for variable in variables])
            saver.restore(session, str(tmp_path / format / "model.ckpt"))
            for variable, value in zip(variables, session.run(variables)):
                np.testing.assert_array_equal(value, trained.weights[variable.op.name])


@pytest.mark.parametrize("format", ["v1", "v2"])
def test_round_trip(model, trained, tmp_path, format):
    path = tmp_path / "run[1] *?" / "ünï x.ckpt-3"
    save_slim(model, path, format)
    endings = {"v1": [""], "v2": [".data-00000-of-00001", ".index"]}[format]
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name + ending for ending in endings]
    assert open_checkpoint(path).container == format.upper()
    assert set(open_checkpoint(path)) == set(trained.weights)
    again = itf.create_model("inception_v3", weights=path)
    for a, b in zip(model.weights, again.weights, strict=True):
        assert a.path == b.path and a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize("scope", ["", "net", "a/InceptionV3"])
def test_another_scope(model, trained, tmp_path, scope):
    names = set(open_checkpoint(save_slim(model, tmp_path / "model.ckpt", scope=scope)))
    assert all(name.startswith(scope) for name in names) and any(n.endswith("Conv2d_1a_3x3/weights") for n in names)
    again = itf.create_model("inception_v3", weights=tmp_path / "model.ckpt")
    assert again.card.scope == scope
    # A model keeps the scope it was loaded from.
    save_slim(again, tmp_path / "again.ckpt")
    assert set(read_tensors(tmp_path / "again.ckpt")) == names


def test_an_existing_checkpoint_is_kept(model, tmp_path):
    path = tmp_path / "model.ckpt"
    for first in ("v1", "v2"):
        save_slim(model, path, first, overwrite=True)
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        for second in ("v1", "v2"):
            with pytest.raises(UsageError, match="exists. Choose another name, or pass --force"):
                save_slim(model, path, second)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("first, second", [("v2", "v1"), ("v1", "v2")])
def test_overwriting_leaves_nothing_of_the_other_format_to_read(model, tmp_path, first, second):
    path = tmp_path / "model.ckpt"
    write_tensors(path, {"InceptionV3/Conv2d_1a_3x3/weights": np.zeros((3, 3, 3, 16), "float32")}, first)
    save_slim(model, path, second, overwrite=True)
    assert len(open_checkpoint(path)) == len(model.weights)


def test_half_precision_is_written_as_slims_float32(trained, tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    try:
        half = itf.InceptionV3(**SMALL)
    finally:
        keras.config.set_dtype_policy("float32")
    load_slim(half, trained.path)
    save_slim(half, tmp_path / "model.ckpt")
    for name, value in read_tensors(tmp_path / "model.ckpt").items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, trained.shadows[name], rtol=1e-2, atol=1e-3)


def test_a_model_that_is_not_ours(tmp_path):
    inputs = keras.Input((3,))
    dense = keras.Model(inputs, keras.layers.Dense(2, name="fc")(inputs), name="mine")
    with pytest.raises(UsageError, match="mine is no model of this library: give the variable scope"):
        save_slim(dense, tmp_path / "model.ckpt")
    assert set(open_checkpoint(save_slim(dense, tmp_path / "model.ckpt", scope="net"))) == {
        "net/fc/biases",
        "net/fc/weights",
    }


def test_arguments_out_of_range(model, tmp_path):
    with pytest.raises(UsageError, match='format must be "v2" or "v1". Received: format=.v3.'):
        save_slim(model, tmp_path / "model.ckpt", "v3")
    (tmp_path / "file").write_text("")
    for format in ("v1", "v2"):
        with pytest.raises(InceptionTFError, match="Cannot write .*model.ckpt"):
            save_slim(model, tmp_path / "file" / "model.ckpt", format)


@pytest.mark.parametrize("format", ["v1", "v2"])
def test_a_full_disk(model, tmp_path, full_disk, format):
    with pytest.raises(InceptionTFError, match="Cannot write"):
        save_slim(model, tmp_path / "model.ckpt", format)
    assert list(tmp_path.iterdir()) == []
