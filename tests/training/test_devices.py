"""Several devices, on TensorFlow and on JAX: the same training as on one, interrupted or not."""

import functools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from histories import assert_same_history

import inception_tf as itf
from inception_tf.errors import UsageError
from inception_tf.training.devices import Mirrored, OneDevice, find_devices
from inception_tf.training.recipe import Recipe


def test_one_device():
    assert type(find_devices()) is OneDevice
    assert type(find_devices(1)) is OneDevice


@pytest.mark.parametrize("wanted", [0, -1, 99])
def test_devices_that_are_not_there(wanted):
    with pytest.raises(UsageError, match=rf"There are \d+ devices. Received: devices={wanted}"):
        find_devices(wanted)


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"clip": 1.0}])
def test_what_mirrored_devices_do_not_do_alike(options):
    with pytest.raises(UsageError, match="KERAS_BACKEND=jax"):
        Mirrored.check(None, Recipe(**options))


# On a backend with two CPU devices: runs on one and on both, the latter interrupted and resumed; batch norm's
# statistics of a small network. Prints the histories.
PROGRAM = """
import dataclasses, json, sys
from pathlib import Path
weights, data, out = map(Path, sys.argv[1:])
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from inception_tf.inference import batch_norm
from inception_tf.training.finetune import finetune
from inception_tf.training.recipe import Phase, Recipe

PHASES = [Phase("heads", 1, ("heads",), 1e-2), Phase("all", 2, ("*",), 1e-2)]
RECIPE = Recipe(phases=PHASES, batch_size=8, dropout=0.0, augment="none", batch_norm="frozen", ema=0.9)
found = {}

def run(name, recipe, **arguments):
    result = finetune(weights, data, recipe=recipe, out=out / name, report=False, log=lambda line: None, **arguments)
    found[name] = result.history
    return result

class Broken(Exception):
    pass

class BreakAt5(keras.callbacks.Callback):
    steps = 0
    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps == 5:
            raise Broken

def run_broken_off(name, recipe, **arguments):
    try:
        run(name, recipe, save_steps=2, callbacks=[BreakAt5()], **arguments)
    except Broken:
        return run(name, recipe, save_steps=2, **arguments)

one = run("one", RECIPE)
two = run_broken_off("two", RECIPE, devices=2)
images = np.stack([np.full((28, 28, 1), level, np.float32) for level in (-1, 0, 1)])
found["answers"] = two.model.predict(images, verbose=0).tolist(), one.model.predict(images, verbose=0).tolist()
sgd = dataclasses.replace(RECIPE, phases=PHASES[1:], optimizer="sgd", ema=None, augment="fast")
if keras.backend.backend() == "jax":
    sgd = dataclasses.replace(sgd, accumulate=2, clip=0.5)
    run("one resumed", RECIPE)
run("one sgd", sgd)
run("two sgd", sgd, devices=2)

layers, inputs = keras.layers, keras.Input((8, 8, 3))
x = layers.BatchNormalization(name="first")(layers.Conv2D(4, 3, name="conv1")(inputs))
x = layers.BatchNormalization(name="second")(layers.Conv2D(5, 3, activation="relu", name="conv2")(x))
model = keras.Model(inputs, x)
draw = np.random.default_rng(0)
for variable in model.trainable_variables:
    variable.assign(draw.normal(size=variable.shape))
batches = [draw.normal(size=(n, 8, 8, 3)).astype(np.float32) for n in (4, 4, 3)]
found["images"] = batch_norm.recalibrate(model, batches)
found["statistics"] = [np.asarray(v).tolist() for v in model.non_trainable_variables if "moving" in v.path]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def results(pictures, tmp_path_factory):
    """A function from a backend to what PROGRAM prints on it, cached."""
    folder = tmp_path_factory.mktemp("devices")
    weights = folder / "lenet.keras"
    # Seeded: from some weights a step comes so near a kink of ReLU or pooling that rounding decides where it goes.
    keras.utils.set_random_seed(0)
    itf.create_model("lenet", classes=3).save(weights)

    @functools.cache
    def run(backend):
        environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
        environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        words = [sys.executable, "-c", PROGRAM, weights, pictures, folder / backend]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_train_as_one(results, backend):
    """The run on two was broken off at step 5 of 9. `best.keras` was loaded to answer."""
    found = results(backend)
    assert_same_history(found["two"], found["one"], 1e-4)
    assert_same_history(found["two sgd"], found["one sgd"], 1e-4)
    np.testing.assert_allclose(*found["answers"], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_the_backends_train_and_recalibrate_alike(results):
    """Features cached, moving averages, and images that the same seed distorts."""
    ours, theirs = results("jax"), results("tensorflow")
    assert_same_history(ours["one"], theirs["one"], 1e-3)
    assert ours["one sgd"][0]["learning_rate"] == theirs["one sgd"][0]["learning_rate"]
    assert ours["images"] == theirs["images"] == 11
    for one, other in zip(ours["statistics"], theirs["statistics"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
