"""Inception-v3 on a GPU: ours through XLA beside torch, and both beside what the chip can do; as Markdown.

    python tools/bench_gpu.py [--json FILE]

Ours is Keras on JAX, and Keras on TensorFlow with jit_compile=True where TensorFlow sees a GPU; as built, and fused
(`fuse_for_inference`). torch's is timm's or torchvision's network: eager, channels_last, and channels_last compiled
with mode="max-autotune" (on a processor: the default). What is not installed is left out, with a line that says so.

- Precisions: float32 proper, TF32, and bfloat16: weights too for inference; for training mixed, weights in float32.
- A training step is forward, softmax cross entropy, backward and SGD with momentum, over the whole network.
- Images are random and on the device already. Compilation and warm-up are in the column "first step" and no other.
- Everything runs in a process of its own; processes take turns, and medians over the rounds are given. Beyond the batch
  of --together they run one after the other, and so they do where the device's memory is too small for all.
- "of matrix peak": multiply-adds of the network a second, over those of a large matrix product in that precision, the
  fastest that any of the frameworks reaches in this run. Training counts three times those of inference.
- "of copy": the bytes that must move, over what a copy of a large vector moves. Inference: weights once, images once,
  what every convolution and pooling gives written and read. Training: what they give written, read twice, and its
  gradient written and read; of the weights 8 accesses in float32. A fused network moves less, and can pass 100 %.

Without a GPU, `--device cpu --small --batches 1,2` tries the tool itself.
"""

import sys
from pathlib import Path

from _contest import (
    FORMS,
    Report,
    contest,
    contestant,
    facts,
    number,
    options,
    some_of,
    span,
    start,
    wanted,
    whole,
)
from _steps import repeated

from inception_tf.benchmark.rounds import BenchmarkError
from inception_tf.tables import markdown

HERE = Path(__file__).resolve()
FRAMEWORKS = ("torch", "jax", "tensorflow")
# By name: the framework, and what it is told of the network.
NETWORKS = {
    **{f"torch {form}": ("torch", {"form": form}) for form in FORMS},
    "ours JAX": ("jax", {}),
    "ours JAX fused": ("jax", {"fused": True}),
    "ours TensorFlow XLA": ("tensorflow", {}),
    "ours TensorFlow XLA fused": ("tensorflow", {"fused": True}),
}
MODES = ("inference", "training")
PRECISIONS = ("float32", "tf32", "bfloat16")
CLASSES = 1000
WARM_UP = 5  # steps on a GPU
# The side of the matrices, the numbers in the vector; steps in a call fill the device's queue.
SIZES = {"gpu": (8192, 2**28), "cpu": (1024, 2**24)}
STEPS = {"gpu": 20, "cpu": 1}
HEADER = ("batch", "network", "images/s", "range", "ratio", "of matrix peak", "of copy", "ms", "first step")


def main():
    parser = options(__doc__, "gpu", "1,8,32,128,512")
    parser.add_argument("--precisions", type=some_of(PRECISIONS), default=PRECISIONS, help=f"some of {PRECISIONS}")
    parser.add_argument("--modes", type=some_of(MODES), default=MODES, help=f"some of {MODES}")
    parser.add_argument("--only", default="*", metavar="GLOBS", help='of rows, such as "ours*,torch eager"')
    parser.add_argument("--together", type=whole, default=64, help="the largest batch at which processes take turns")
    parser.add_argument(
        "--small", action="store_true", help="depth multiplier 0.25 (not torch's) and images of 107×107"
    )
    start(parser, run)


def run(args):
    report = Report(args)
    setting, found = Setting(args), report.data
    tried = {framework for name, (framework, _) in NETWORKS.items() if wanted(name, args.only)}
    tried = [setting.copy(framework) for framework in FRAMEWORKS if framework in tried]
    found["copies"] = setting.contest(tried, 1, report)
    frameworks = [row["name"] for row in found["copies"]]
    ours = [framework for framework in frameworks if framework != "torch"]
    if not ours:
        raise BenchmarkError(
            f"neither JAX nor TensorFlow runs on the {args.device} or in --only; --device cpu tries the tool"
        )
    for row in found["copies"]:
        found["versions"] |= row.pop("versions")
    devices = [row.pop("device") for row in found["copies"]]
    found |= {"device": next(filter(None, devices), found["machine"]["processor"]), "size": setting.size}
    found["costs"] = {
        name: facts(setting.costs(ours[0], depth))
        for name, depth in setting.depths.items()
        if name == "ours" or name in frameworks
    }
    found["products"], copy_peak = [], max(row["speed"] for row in found["copies"])
    print(heading(report, copy_peak), flush=True)
    for precision in args.precisions:
        if precision == "tf32" and args.device == "cpu":
            report.leave_out("tf32: a processor has none")
            continue
        products = setting.contest([setting.matmul(framework, precision) for framework in frameworks], 1, report)
        if not products:
            raise BenchmarkError(f"no framework multiplies matrices in {precision}")
        found["products"] += [{"precision": precision, **row} for row in products]
        peaks = {"matrix": max(row["speed"] for row in products), "copy": copy_peak}
        for mode in args.modes:
            rows = []
            for batch in args.batches:
                contestants = list(setting.contestants(frameworks, mode, precision, batch))
                together = len(contestants) if batch <= args.together else 1
                new = [
                    {"mode": mode, "precision": precision, "batch": batch, **row}
                    for row in setting.contest(contestants, together, report)
                ]
                new = [row | bounds(row, found["costs"], peaks) for row in new]
                report.add(new)
                rows += new
            print(table(mode, precision, peaks["matrix"], rows, args.small), flush=True)


class Setting:
    """What the contestants of a run have in common.

    Attributes:
        size: the side of the images. depths: the depth multipliers of "ours" and of "torch".
    """

    def __init__(self, args):
        self.args = args
        self.size = 107 if args.small else 299
        self.depths = {"ours": 0.25 if args.small else 1.0, "torch": 1.0}

    def contest(self, contestants, together, report):
        return contest(contestants, together, self.args.rounds, self.args.seconds, report.leave_out)

    def contestant(self, framework, function, arguments, work=1, name=None):
        """One of a framework's: `function` is in this file, and in that of torch."""
        arguments = {"device": self.args.device, **arguments}
        return contestant(self.args, name or framework, framework, HERE, function, arguments, work)

    def costs(self, framework, depth):
        return self.contestant(framework, "costs", {"size": self.size, "depth": depth})

    def copy(self, framework):
        """Its speed is in bytes a second, read and written."""
        size, steps = SIZES[self.args.device][1], STEPS[self.args.device]
        return self.contestant(framework, "copy", {"size": size, "count": steps}, 2 * 4 * size * steps)

    def matmul(self, framework, precision):
        """Its speed is in multiply-adds a second."""
        side, steps = SIZES[self.args.device][0], STEPS[self.args.device]
        arguments = {"precision": precision, "side": side, "count": steps}
        return self.contestant(framework, "matmul", arguments, side**3 * steps)

    def contestants(self, frameworks, mode, precision, batch):
        """The networks, the base ahead."""
        steps = max(1, 256 // batch) if self.args.device == "gpu" else 1
        common = {"precision": precision, "batch": batch, "size": self.size, "classes": CLASSES, "count": steps}
        for name, (framework, network) in NETWORKS.items():
            if framework not in frameworks or not wanted(name, self.args.only):
                continue
            if mode == "training" and network.get("fused"):
                continue
            arguments = common | network
            if framework != "torch":
                arguments["depth"] = self.depths["ours"]
            elif mode == "training":
                arguments["options"] = {"lr": 1e-3, "momentum": 0.9}
            yield self.contestant(framework, mode, arguments, batch * steps, name)


def bounds(row, costs, peaks):
    """What of the matrix peak and of the copy's bandwidth a row reaches."""
    costs = costs["torch" if row["name"].startswith("torch") else "ours"]
    bytes_each = 2 if row["precision"] == "bfloat16" else 4
    batch, multiply_adds, activations = row["batch"], costs["multiply_adds"], costs["activations"]
    if row["mode"] == "training":
        multiply_adds = 3 * multiply_adds
        moved = 5 * activations * bytes_each + 8 * 4 * costs["parameters"] / batch
    else:
        moved = (2 * activations + costs["parameters"] / batch) * bytes_each
    moved += costs["pixels"] * bytes_each
    return {
        "milliseconds": 1000 * batch / row["speed"],
        "multiply_adds_per_image": multiply_adds,
        "bytes_per_image": moved,
        "matrix_bound": peaks["matrix"] / multiply_adds,
        "copy_bound": peaks["copy"] / moved,
        "of_matrix_peak": row["speed"] * multiply_adds / peaks["matrix"],
        "of_copy": row["speed"] * moved / peaks["copy"],
    }


def heading(report, copy_peak):
    found = report.data
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    rounds, seconds = found["settings"]["rounds"], found["settings"]["seconds"]
    return (
        f"Inception-v3 on {found['device']}, images of {found['size']}×{found['size']}, {found['machine']['date']}, "
        f"{rounds} rounds of {seconds:g} s. {versions}. A copy moves {copy_peak / 1e9:.4g} GB/s."
    )


def table(mode, precision, peak, rows, small):
    """The rows of a mode and a precision as Markdown."""
    lines = [
        (
            row["batch"],
            row["name"],
            number(row["speed"]),
            span(row["speed_range"]),
            "" if row["ratio"] is None else f"{row['ratio']:.2f}" + ("" if row["took_turns"] else " †"),
            f"{row['of_matrix_peak']:.1%}",
            f"{row['of_copy']:.1%}",
            number(row["milliseconds"]),
            f"{row['first_step_seconds']:.1f} s",
        )
        for row in rows
    ]
    text = f"\n**{mode}, {precision}**: a matrix product makes {2 * peak / 1e12:.3g} TFLOP/s; "
    text += f"ratios to {rows[0]['name']}\n\n" if rows else "nothing ran\n"
    text += markdown(lines, HEADER, 2)
    if not all(row["took_turns"] for row in rows):
        text += "\n\n† by itself, not in turns with the others"
    if small and any(row["name"].startswith("torch") for row in rows):
        text += "\n\n--small: torch's network has its full width, so the ratios say nothing"
    return text


def costs(device, size, depth):
    """Does nothing; tells what the network costs: numbers of weights, multiply-adds, activations, pixels an image."""
    from inception_tf.analysis.profile import profile, total
    from inception_tf.models.initialization import meta_init

    with meta_init():
        layers = profile(_model(size, depth, "float32")).layers

    def call():
        pass

    call.facts = {name: total(layers, name) for name in ("parameters", "multiply_adds")}
    call.facts |= {"activations": total(layers, "activation_bytes") // 4, "pixels": 3 * size**2}
    return call


def copy(device, size, count):
    """Reads a float32 vector of `size` and writes it anew. Tells of the device, and fails where there is none."""
    import keras

    backend, name = keras.backend.backend(), _start(device)
    vector = _on_device(lambda random: random.uniform((size,)))
    if backend == "jax":
        import jax

        negate = jax.jit(lambda x: -x, donate_argnums=0)

        def step():
            nonlocal vector
            vector = negate(vector)
            return vector

    else:
        import tensorflow as tf

        variable = tf.Variable(vector)
        step = tf.function(lambda: variable.assign(-variable), jit_compile=True)
    versions = {backend: __import__(backend).__version__, "keras": keras.__version__}
    return _repeated(step, device, count, device=name, versions=versions)


def matmul(device, precision, side, count):
    """Multiplies two random square matrices."""
    from keras import ops

    _start(device, precision)
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    left, right = (_on_device(lambda random: random.uniform((side, side)), dtype) for _ in range(2))
    multiply = _compiled(ops.matmul)
    return _repeated(lambda: multiply(left, right), device, count)


def inference(device, precision, batch, size, classes, depth, fused=False, count=1):
    """Logits of a batch of random images."""
    import keras

    _start(device, precision)
    model = _model(size, depth, "bfloat16" if precision == "bfloat16" else "float32", classes)
    if fused:
        from inception_tf.models.fused import fuse_for_inference

        plain = model
        model = _filled(lambda: fuse_for_inference(plain))
    images = _on_device(lambda random: random.uniform((batch, size, size, 3), -1.0, 1.0), model.inputs[0].dtype)
    if keras.backend.backend() == "tensorflow":
        run = _compiled(lambda images: model(images, training=False))
        return _repeated(lambda: run(images), device, count)
    trained, others = _values(model.trainable_variables), _values(model.non_trainable_variables)
    run = _compiled(lambda *state_and_images: model.stateless_call(*state_and_images, training=False)[0])
    return _repeated(lambda: run(trained, others, images), device, count)


def training(device, precision, batch, size, classes, depth, count=1):
    """Steps of SGD with momentum on one batch of random images: softmax cross entropy, dropout 0.2."""
    import keras

    _start(device, precision)
    model = _model(size, depth, "mixed_bfloat16" if precision == "bfloat16" else "float32", classes)
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer.build(model.trainable_variables)
    images = _on_device(lambda random: random.uniform((batch, size, size, 3), -1.0, 1.0))
    labels = _on_device(lambda random: random.randint((batch,), 0, classes), "int32")

    def mean_loss(logits):
        logits = keras.ops.cast(logits, "float32")
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))

    train = _tensorflow_step if keras.backend.backend() == "tensorflow" else _jax_step
    return _repeated(train(model, optimizer, images, mean_loss), device, count)


def _tensorflow_step(model, optimizer, images, mean_loss):
    import tensorflow as tf

    @tf.function(jit_compile=True, autograph=False)
    def step():
        with tf.GradientTape() as tape:
            loss = mean_loss(model(images, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    return step


def _jax_step(model, optimizer, images, mean_loss):
    import jax

    def loss_of(trained, others, images):
        logits, others = model.stateless_call(trained, others, images, training=True)
        return mean_loss(logits), others

    def update(trained, others, slots, images):
        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained, others, images)
        trained, slots = optimizer.stateless_apply(slots, gradients, trained)
        return (trained, others, slots), loss

    update = jax.jit(update, donate_argnums=(0, 1, 2))
    state = [_values(part) for part in (model.trainable_variables, model.non_trainable_variables, optimizer.variables)]

    def step():
        nonlocal state
        state, loss = update(*state, images)
        return loss

    return step


def _start(device, precision="float32"):
    """The device's name (None for a processor), after the precision of float32 products is set."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        precisions = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}
        jax.config.update("jax_default_matmul_precision", precisions[precision])
        if device == "gpu" and jax.default_backend() != "gpu":
            sys.exit("JAX sees no GPU")
        return jax.devices()[0].device_kind if device == "gpu" else None
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        sys.exit("TensorFlow sees no GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name") if device == "gpu" else None


def _model(size, depth, dtype, classes=CLASSES):
    """The network with random weights."""
    import keras

    from inception_tf.zoo import create_model

    def build():
        options = {"classes": classes, "depth_multiplier": depth, "classifier_activation": None}
        return create_model("inception_v3", input_shape=(size, size, 3), **options)

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        return _filled(build)
    finally:
        keras.config.set_dtype_policy(policy)


def _filled(build):
    """The model that a function makes. On JAX it is made without weights, and gets random ones.

    There, Keras compiles something for every initializer and every shape: half a minute on a processor.
    """
    import keras
    import numpy as np

    from inception_tf.models.initialization import meta_init

    if keras.backend.backend() != "jax":
        return build()
    with meta_init():
        model = build()
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name == "kernel":
            deviation = np.sqrt(2 / np.prod(variable.shape[:-1]))
            variable.assign(generator.normal(0, deviation, variable.shape).astype("float32"))
        else:
            variable.assign(np.full(variable.shape, variable.name in ("gamma", "moving_variance"), variable.dtype))
    return model


def _on_device(make, dtype="float32"):
    import keras

    return keras.ops.cast(make(keras.random), dtype)


def _compiled(function):
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def _values(variables):
    return [variable.value for variable in variables]


def _repeated(step, on, count, **facts):
    import keras

    def value(result):
        if keras.backend.backend() == "jax":
            result.block_until_ready()
        some = result[:1] if len(result.shape) else result
        return float(keras.ops.mean(keras.ops.cast(some, "float32")))

    return repeated(step, value, count, WARM_UP if on == "gpu" else 0, **facts)


if __name__ == "__main__":
    main()
