"""Trains Network in Network on Fashion-MNIST, with and without what the paper (arXiv 1312.4400) brings.

    python tools/train_nin.py --data fashion_mnist.npz
    python tools/train_nin.py --data fashion_mnist.npz --size 224 --width 1 --batch 128  # on a GPU

Three networks, ten epochs of SGD at 0.1 falling to 0, or at a third of that where it diverges: one 1×1 convolution in
every block and global average pooling (nin), no 1×1 convolutions (plain), a fully connected layer in place of the
pooling (fc); "two" has the paper's two 1×1. The defaults are for two CPU cores: the network for 224×224 images at a
quarter of its width on images of 56×56. Without --data Keras downloads the data. Results: DIRECTORY/results.json,
curves.png and a .keras file of every network.
"""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
from _tools import options, start

from inception_tf import figures, tables
from inception_tf.errors import InceptionTFError, UsageError
from inception_tf.files import atomic_write, refuse_existing
from inception_tf.quiet import start_keras

VARIANTS = {
    "nin": {"convolutions_1x1": 1},
    "plain": {"convolutions_1x1": 0},
    "fc": {"convolutions_1x1": 1, "fully_connected": True},
    "two": {"convolutions_1x1": 2},
}
LABELS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
TO_BEAT = {1: 33.98, 10: 85.74}  # test accuracy after these epochs, of the network at 224×224


def main(arguments=None):
    parser = options(__doc__)
    variants = {"choices": VARIANTS, "default": ["nin", "plain", "fc"]}
    parser.add_argument("--networks", nargs="+", **variants, help="(nin plain fc)")
    parser.add_argument("--data", type=Path, help="fashion_mnist.npz: x_train, y_train, x_test, y_test")
    parser.add_argument("--out", type=Path, default=Path("nin"), help="the directory for the results (nin)")
    parser.add_argument("--force", action="store_true", help="replace the directory when it exists")
    numbers = {"epochs": 10, "size": 56, "width": 0.25, "batch": 32, "rate": 0.1, "seed": 0}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"({default})")
    parser.add_argument("--examples", type=int, help="train on as many only, for a try")
    start(parser, run, arguments)


def run(args):
    """Trains, prints a line an epoch and a table at the end, writes the results."""
    refuse_existing(args.out, args.force, directory=True)
    figures.check(args.out / "curves.png", overwrite=True)
    start_keras()
    data = load(args.data)
    with atomic_write(args.out, args.force) as folder:
        folder.mkdir()
        results = [train_until_stable(name, data, args, folder) for name in args.networks]
        facts = {name: value for name, value in vars(args).items() if name not in ("data", "out", "force")}
        facts |= {"device": device(), "networks": results}
        (folder / "results.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        figures.save(curves(results, args), folder / "curves.png")
    rows = [
        (r["network"], f"{r['rate']:.3g}", f"{r['parameters']:,}", f"{r['multiply_adds']:,}")
        + tuple(f"{100 * r['epochs'][i]['val_accuracy']:.2f}" for i in (0, -1))
        + (f"{r['seconds']:.0f}",)
        for r in results
    ]
    header = ("network", "rate", "parameters", "multiply-adds", "test % after 1", f"after {args.epochs}", "seconds")
    print(f"\n{tables.render(rows, header, '<>>>>>>')}\n\nWritten: {args.out}")


def load(path):
    """The images, uint8 N×28×28×1, and labels of Fashion-MNIST: a dict of (images, labels) by "train" and "test"."""
    if path is None:
        import keras

        arrays = keras.datasets.fashion_mnist.load_data()
    else:
        try:
            with np.load(path) as file:
                arrays = [(file[f"x_{part}"], file[f"y_{part}"]) for part in ("train", "test")]
        except (OSError, KeyError, ValueError) as error:
            raise UsageError(f"{path} is no NPZ file of x_train, y_train, x_test, y_test: {error}") from error
    return {part: (images[..., None], y.astype("int32")) for part, (images, y) in zip(("train", "test"), arrays)}


def batches(images, labels, preprocessing, size, shuffled=None):
    """A tf.data pipeline of preprocessed images; with a seed in `shuffled`, in another order every epoch.

    The files are sorted by class, so the buffer of the shuffling is the whole set.
    """
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((images, labels))
    if shuffled is not None:
        data = data.shuffle(len(labels), seed=shuffled, reshuffle_each_iteration=True)
    data = data.batch(size, drop_remainder=shuffled is not None)
    return data.map(lambda x, y: (preprocessing.graph(x), y), num_parallel_calls=tf.data.AUTOTUNE).prefetch(4)


def train_until_stable(name, data, args, folder):
    """`train`, at a third of the rate as long as it diverges, which a fully connected layer does at 0.1."""
    for rate in (args.rate, args.rate / 3, args.rate / 9):
        result = train(name, data, args, folder, rate)
        if result:
            return result
        print(f"{name} diverged at a learning rate of {rate:.3g}.", flush=True)
    raise InceptionTFError(f"{name} diverged at {rate:.3g} too. A smaller --rate may help.")


def train(name, data, args, folder, rate):
    """Trains one network; a dict of what it is and of its epochs, None where it diverges. Saves it in `folder`."""
    import keras

    import inception_tf as itf
    from inception_tf.analysis.profile import profile, total
    from inception_tf.images.preprocessing import Preprocessing

    keras.utils.set_random_seed(args.seed)
    images, labels = data["train"]
    chosen = np.random.default_rng(args.seed).permutation(len(labels))[: args.examples or len(labels)]
    preprocessing = Preprocessing("inception", args.size, central_fraction=None, channels=1)
    training = images[np.sort(chosen)], labels[np.sort(chosen)]
    training = batches(*training, preprocessing, min(args.batch, len(chosen)), shuffled=args.seed)
    model = itf.NetworkInNetwork(
        input_shape=(args.size, args.size, 1),
        classes=10,
        depth_multiplier=args.width,
        dropout=0.1,
        rectified_logits=False,
        **VARIANTS[name],
    )
    model.card = dataclasses.replace(model.card, preprocessing=preprocessing.to_config(), labels=LABELS)
    update = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(rate, args.epochs * len(training)))
    # Without XLA on a processor: oneDNN's convolutions are faster there.
    loss, xla = "sparse_categorical_crossentropy", device() != "CPU"
    model.compile(update, loss, metrics=["accuracy"], jit_compile=xla)
    began, testing = time.perf_counter(), batches(*data["test"], preprocessing, 250)
    settings = {"callbacks": [keras.callbacks.TerminateOnNaN()], "shuffle": False, "verbose": 2}
    history = model.fit(training, validation_data=testing, epochs=args.epochs, **settings).history
    if not np.isfinite(history["loss"]).all():
        return None
    model.save(folder / f"{name}.keras")
    counts = {key: total(profile(model).layers, key) for key in ("parameters", "multiply_adds")}
    epochs = [dict(zip(history, numbers)) for numbers in zip(*history.values())]
    seconds = time.perf_counter() - began
    return {"network": name, **VARIANTS[name], "rate": rate, **counts, "seconds": seconds, "epochs": epochs}


def device():
    """The kind of device that TensorFlow trains on, "GPU" or "CPU"."""
    import tensorflow as tf

    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def curves(results, args):
    """A figure of the accuracies by epoch, beside the figures to beat."""
    picture = figures.figure(8, 5)
    axes = picture.subplots()
    for i, result in enumerate(results):
        for key, style, what in (("val_accuracy", "o-", "test"), ("accuracy", ":", "training")):
            values = [100 * epoch[key] for epoch in result["epochs"]]
            label = f"{result['network']}, {what}: {values[-1]:.2f} %"
            axes.plot(range(1, len(values) + 1), values, style, color=f"C{i}", label=label)
    label = "to beat: " + ", ".join(f"{v} % after {k}" for k, v in TO_BEAT.items())
    axes.plot(*zip(*TO_BEAT.items()), "kx", label=label)
    title = f"Network in Network on Fashion-MNIST, {args.size}×{args.size}, width {args.width:g}, {device()}"
    axes.set(title=title, xlabel="epoch", ylabel="accuracy, %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    return picture


if __name__ == "__main__":
    main()
