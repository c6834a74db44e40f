"""OpenVINO reads the SavedModel itself and agrees."""

import numpy as np
import pytest
import tensorflow as tf

pytestmark = pytest.mark.slow  # an export of its own


def test_openvino_reads_the_savedmodel(exported):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    images = np.random.default_rng(7).uniform(-1, 1, (3, 107, 107, 3)).astype("float32")
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    compiled = core.compile_model(core.read_model(exported), "CPU")
    outputs = compiled([images])
    found = {output.get_any_name(): outputs[output] for output in compiled.outputs}
    expected = tf.saved_model.load(str(exported)).signatures["serving_default"](images=tf.constant(images))
    assert {key for key in expected if key in found} == set(expected), list(found)
    for key, value in expected.items():
        value = value.numpy()
        assert np.abs(found[key] - value).max() <= 1e-4 * np.abs(value).max(), key
