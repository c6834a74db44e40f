"""How fast a step of fine-tuning Inception-v3 is: ours beside plain Keras and torch; as Markdown.

    python tools/bench_training.py --torch-python PYTHON [--json FILE]

Ours is what `finetune` runs on every batch; plain Keras is keras.applications.InceptionV3 with a new head; torch's is
timm's or torchvision's network. All take the same step: images in memory, 5 classes, softmax cross entropy, dropout
0.2, batch norm frozen, RMSProp with momentum as in Slim; everything is trained ("full"), or the new head alone.
"ours Slim's recipe" is what `finetune` does by default where the network has its auxiliary head: that head's loss and
L2 come on top. "ours on features" is the head alone without augmentation: the trunk has run once over the images,
before.

Every row is a process of its own. Processes take turns with keras.applications, as many at a time as memory allows;
medians over the rounds, ratios to keras.applications in the same rounds. Compilation is in "first step" and no other
column. On a GPU, Keras's steps begin with images in the host's memory, as those of `fit` do, and torch's on the device.
"""

import math
from pathlib import Path

from _contest import FORMS, Report, contest, contestant, number, options, some_of, span, start, wanted, whole
from _steps import repeated

from inception_tf.benchmark.rounds import BenchmarkError, fitting
from inception_tf.tables import markdown

HERE = Path(__file__).resolve()
PARTS = ("full", "head")
BASE = "keras.applications"
CLASSES = 5
LEARNING_RATE = 1e-4
RMSPROP = {"rho": 0.9, "momentum": 0.9, "epsilon": 1.0}
HEADER = ("batch", "network", "images/s", "range", "ratio", "range", "s a step", "peak memory", "first step")
# The bytes that a process takes, and every image of 299×299 in it.
MEMORY = {"full": (2.0e9, 0.15e9), "head": (1.5e9, 0.05e9)}


def main():
    parser = options(__doc__, "cpu", "8,32")
    parser.add_argument("--parts", type=some_of(PARTS), default=PARTS, help="full, head; default: both")
    parser.add_argument(
        "--only", default="*", metavar="GLOBS", help='of rows, such as "ours*,torch eager"; the base comes too'
    )
    parser.add_argument("--size", type=whole, default=299, help="the side of the images; default: 299")
    parser.add_argument("--together", type=whole, metavar="N", help="processes at a time; default: what memory allows")
    start(parser, run)


def run(args):
    report = Report(args)
    torch = any(wanted(f"torch {form}", args.only) for form in FORMS)
    here = {"device": args.device, "size": 1, "count": 1}
    torch = torch and report.probe(contestant(args, "torch", "torch", HERE, "copy", here))
    keras = [name for name in ("tensorflow", "jax") if report.probe(contestant(args, name, name, HERE, "probe", {}))]
    if not keras:
        raise BenchmarkError("Keras runs on neither TensorFlow nor JAX here")
    print(heading(args, report), flush=True)
    for part in args.parts:
        rows = []
        for batch in args.batches:
            base, *others = contestants(args, part, batch, keras, torch)
            found = [base, *(one for one in others if wanted(one.name, args.only))]
            own, image = MEMORY[part]
            size = own + batch * image * (args.size / 299) ** 2
            together = args.together or max(1, fitting(size) or 1)
            new = contest(found, together, args.rounds, args.seconds, report.leave_out)
            new = [{"part": part, "batch": batch, "step_seconds": batch / row["speed"], **row} for row in new]
            report.add(new)
            rows += new
        print(table(part, rows), flush=True)


def contestants(args, part, batch, keras, torch):
    """All of a part and a batch, the base ahead."""
    common = {"part": part, "batch": batch, "size": args.size}

    def one(name, framework, function, **more):
        return contestant(args, name, framework, HERE, function, common | more, batch)

    for network, function in ((BASE, "plain_keras"), ("ours", "ours")):
        if "tensorflow" in keras:
            yield one(network, "tensorflow", function)
            yield one(f"{network} XLA", "tensorflow", function, xla=True)
        if "jax" in keras:
            yield one(f"{network} JAX", "jax", function)
    if "tensorflow" in keras:
        yield one("ours Slim's recipe", "tensorflow", "ours", slim=True)
        if part == "head":
            yield one("ours on features", "tensorflow", "ours", on_features=True)
    if torch:
        rmsprop = {"lr": LEARNING_RATE, "alpha": RMSPROP["rho"], "momentum": 0.9, "eps": RMSPROP["epsilon"]}
        step = {"classes": CLASSES, "frozen": True, "optimizer": "rmsprop", "options": rmsprop}
        for form in FORMS:
            yield one(f"torch {form}", "torch", "training", device=args.device, precision="float32", form=form, **step)


def heading(args, report):
    machine = report.data["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report.data["versions"].items())
    return (
        f"A training step of Inception-v3 on the {args.device} of {machine['processors']} × {machine['processor']}, "
        f"images of {args.size}×{args.size}, {machine['date']}, {args.rounds} rounds. {versions}."
    )


def table(part, rows):
    """The rows of a part as Markdown."""
    lines = [
        (
            row["batch"],
            row["name"],
            number(row["speed"]),
            span(row["speed_range"]),
            "" if row["ratio"] is None else f"{row['ratio']:.2f}" + ("" if row["took_turns"] else " †"),
            span(row["ratio_range"]),
            number(row["step_seconds"]),
            f"{row['peak_memory'] / 1e9:.2f} GB",
            f"{row['first_step_seconds']:.1f} s",
        )
        for row in rows
    ]
    text = f"\n**{part}**, ratios to {rows[0]['name'] if rows else BASE}\n\n" + markdown(lines, HEADER, 2)
    if not all(row["took_turns"] for row in rows):
        text += "\n\n† by itself, not in turns with the others"
    return text


def probe():
    """Does nothing; tells of the versions, and fails where the backend is not installed."""
    import keras

    backend = keras.backend.backend()

    def call():
        pass

    call.facts = {"versions": {backend: __import__(backend).__version__, "keras": keras.__version__}}
    return call


def ours(part, batch, size, xla=False, slim=False, on_features=False):
    """What `finetune` runs on a batch.

    Args:
        part: "full" or "head".
        slim: with the auxiliary head and L2.
        on_features: on what the trunk gives, without the trunk.
    """
    import numpy as np

    from inception_tf.training.features import heads_on
    from inception_tf.training.network import compile_for, set_trainable, with_losses
    from inception_tf.training.optimizers import optimizer
    from inception_tf.training.recipe import Phase, Recipe
    from inception_tf.zoo import create_model

    left_out = {} if slim else {"l2": 0, "aux_loss": 0}
    recipe = Recipe(batch_norm="frozen", batch_size=batch, xla=xla, optimizer_options=RMSPROP, **left_out)
    phase = Phase(part, 1, ("*",) if part == "full" else ("heads",), LEARNING_RATE)
    model = create_model("inception_v3", classes=CLASSES, input_shape=(size, size, 3), aux_logits=slim)
    set_trainable(model, recipe, phase, recipe.batch_norm)
    training = with_losses(model, recipe)
    given, labels = examples(batch, size)
    if on_features:
        trunk, training = heads_on(model, training)
        given = {name: np.asarray(values) for name, values in trunk.predict_on_batch(given).items()}
    compile_for(training, recipe, optimizer(recipe, phase, steps_per_epoch=1000))
    targets, factors = dict.fromkeys(training.output, labels), dict.fromkeys(training.output, np.ones(batch, "float32"))
    return steps(training, given, targets, factors)


def plain_keras(part, batch, size, xla=False):
    """The network of keras.applications under a new head, as Keras's guide to fine-tuning has it."""
    import keras

    trunk = keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg", input_shape=(size, size, 3))
    trunk.trainable = part == "full"
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Dropout(0.2)(trunk(inputs, training=False))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(x))
    model.compile(
        keras.optimizers.RMSprop(LEARNING_RATE, **RMSPROP),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=xla or keras.backend.backend() == "jax",
    )
    return steps(model, *examples(batch, size))


def examples(batch, size):
    """Random images in [-1, 1], float32 N×H×W×3, and labels, float32 N×classes."""
    import numpy as np

    images = np.random.default_rng(0).uniform(-1, 1, (batch, size, size, 3)).astype("float32")
    return images, np.eye(CLASSES, dtype="float32")[np.arange(batch) % CLASSES]


def steps(model, *batch):
    """Training steps of a compiled Keras model, by the function that `fit` calls, on one batch."""
    trained = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return repeated(lambda: model.train_on_batch(*batch, return_dict=True)["loss"], float, trained=trained)


if __name__ == "__main__":
    main()
