"""Inception-v3 in Keras on the backend that KERAS_BACKEND names, ours and keras.applications', as candidates.

Images are random and on the device already. `precision`: "float32", proper, or "bfloat16".
"""

import math
import sys
import time

import keras
import numpy as np
from keras import ops

from inception_tf.models.initialization import drawn_on_host
from inception_tf.zoo import create_model

BACKEND = keras.backend.backend()
library = __import__(BACKEND)  # jax or tensorflow, which is what they are called here
RMSPROP = {"rho": 0.9, "momentum": 0.9, "epsilon": 1.0}


def probe(device):
    """Does nothing; tells of the device and of the versions, and fails where there is no such device."""
    call = lambda: None  # noqa: E731
    call.facts = {"device": _start(device), "versions": {BACKEND: library.__version__, "keras": keras.__version__}}
    return call


def matmul(device, precision, side, count):
    """Multiplies two random square matrices."""
    _start(device, precision)
    left, right = (ops.cast(keras.random.uniform((side, side)), precision) for _ in range(2))
    multiply = _compiled(ops.matmul)
    return _repeated(lambda: multiply(left, right), device, count)


def inference(device, precision, batch, size, classes, fused=False, count=1):
    """Logits of a batch of images, by XLA."""
    from inception_tf.inference.xla import jax_compiled, stateless
    from inception_tf.models.fused import fuse_for_inference

    _start(device, precision)
    start = time.perf_counter()
    model = _model(lambda: _ours(size, classes, classifier_activation=None), precision)
    model = fuse_for_inference(model) if fused else model
    facts = {"build": round(time.perf_counter() - start, 1)}
    images = ops.cast(_examples(batch, size, classes)[0], precision)
    if BACKEND == "jax" and not fused:
        weights, run = stateless(model)
        run = _compiled(run)
        return _repeated(lambda: run(weights, images), device, count, **facts)
    run = jax_compiled(model) if fused and BACKEND == "jax" else _compiled(lambda images: model(images, training=False))
    return _repeated(lambda: run(images), device, count, **facts)


def finetune(
    device, precision, part, batch, size, classes, rate, count=1, xla=False, aux_logits=False, on_features=False
):
    """What `finetune` runs on a batch.

    Args:
        part: "full" or "head".
        aux_logits: Slim's recipe, with the auxiliary head and L2.
        on_features: on what the backbone computed, without the backbone.
    """
    from inception_tf.training.features import heads_on
    from inception_tf.training.network import compile_for, set_trainable, with_losses
    from inception_tf.training.optimizers import optimizer
    from inception_tf.training.recipe import Phase, Recipe

    _start(device, precision)
    losses = {} if aux_logits else {"l2": 0, "aux_loss": 0}
    recipe = Recipe(batch_norm="frozen", batch_size=batch, xla=xla, optimizer_options=RMSPROP, **losses)
    phase = Phase(part, 1, ("*",) if part == "full" else ("heads",), rate)
    model = _model(lambda: _ours(size, classes, aux_logits=aux_logits), _policy(precision))
    set_trainable(model, recipe, phase, recipe.batch_norm)
    training = with_losses(model, recipe)
    images, labels = _examples(batch, size, classes)
    if on_features:
        backbone, training = heads_on(model, training)
        images = {name: ops.convert_to_tensor(found) for name, found in backbone.predict_on_batch(images).items()}
    compile_for(training, recipe, optimizer(recipe, phase, steps_per_epoch=1000))
    factors = dict.fromkeys(training.output, np.ones(batch, "float32"))
    return _training(training, device, count, images, dict.fromkeys(training.output, labels), factors)


def plain_keras(device, precision, part, batch, size, classes, rate, count=1, xla=False):
    """The network of keras.applications under a new head, as Keras's guide to fine-tuning has it."""
    _start(device, precision)
    options = {"include_top": False, "weights": None, "pooling": "avg", "input_shape": (size, size, 3)}
    backbone = _model(lambda: keras.applications.InceptionV3(**options), _policy(precision))
    backbone.trainable = part == "full"
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Dropout(0.2)(backbone(inputs, training=False))
    model = keras.Model(inputs, keras.layers.Dense(classes, dtype="float32")(x))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    update = keras.optimizers.RMSprop(rate, **RMSPROP)
    model.compile(update, loss, metrics=["accuracy"], jit_compile=xla or BACKEND == "jax")
    return _training(model, device, count, *_examples(batch, size, classes))


def _training(model, device, count, *batch):
    """Steps of a compiled Keras model on one batch, by the function that `fit` calls."""
    trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return _repeated(lambda: model.train_on_batch(*batch, return_dict=True)["loss"], device, count, trained=trained)


def _start(device, precision="float32"):
    """The device's name (None for a processor), after the precision of float32 products is set."""
    if BACKEND == "jax":
        library.config.update("jax_default_matmul_precision", {"float32": "highest"}.get(precision, "default"))
        if device == "gpu" and library.default_backend() != "gpu":
            sys.exit("JAX sees no GPU")
        return library.devices()[0].device_kind if device == "gpu" else None
    library.config.experimental.enable_tensor_float_32_execution(False)
    gpus = library.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        sys.exit("TensorFlow sees no GPU")
    return library.config.experimental.get_device_details(gpus[0]).get("device_name") if device == "gpu" else None


def _policy(precision):
    return "mixed_bfloat16" if precision == "bfloat16" else precision


def _ours(size, classes, **options):
    return create_model("inception_v3", classes=classes, input_shape=(size, size, 3), **options)


def _model(build, dtype):
    """The model that a function builds."""
    keras.config.set_dtype_policy(dtype)
    with drawn_on_host():
        return build()


def _examples(batch, size, classes):
    """Images in [-1, 1], float32 N×H×W×3, and labels, float32 N×classes."""
    images = np.random.default_rng(0).uniform(-1, 1, (batch, size, size, 3)).astype("float32")
    return ops.convert_to_tensor(images), ops.one_hot(np.arange(batch) % classes, classes)


def _compiled(function):
    return library.jit(function) if BACKEND == "jax" else library.function(function, jit_compile=True, autograph=False)


def _repeated(step, device, count, **facts):
    """A function that takes `count` steps, and returns when the device has done the last."""

    def call(count=count):
        for _ in range(count):
            result = step()
        if not np.isfinite(np.asarray(ops.cast(result[:1] if np.ndim(result) else result, "float32"))).all():
            sys.exit("what it computes is not finite")

    if device == "gpu":
        call(5)  # warm-up
    call.facts = facts
    return call
