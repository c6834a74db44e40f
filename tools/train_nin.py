"""Trains Network in Network on Fashion-MNIST, with and without what the paper (arXiv 1312.4400) brings.

    python tools/train_nin.py --data fashion_mnist.npz
    python tools/train_nin.py --data fashion_mnist.npz --size 224 --width 1 --batch 128 --schedule constant  # on a GPU

Three networks, ten epochs of SGD at 0.1 each, or at a third of that where it diverges: one 1×1 convolution in every
block and global average pooling (nin), no 1×1 convolutions (plain), a fully connected layer in place of the pooling
(fc); "two" has the paper's two 1×1. The defaults are for two CPU cores: the network for 224×224 images at a quarter of
its width on images of 56×56. Without --data Keras downloads the data. Results: DIRECTORY/results.json, curves.png and
a .keras file of every network.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
from _tools import start

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="NETWORK", help=f"of {', '.join(VARIANTS)} (nin plain fc)")
    parser.add_argument("--data", type=Path, help="fashion_mnist.npz: x_train, y_train, x_test, y_test")
    parser.add_argument("--out", type=Path, default=Path("nin"), help="the directory for the results (nin)")
    parser.add_argument("--force", action="store_true", help="replace the directory when it exists")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=56, help="the side that images are resized to (56)")
    parser.add_argument("--width", type=float, default=0.25, help="of the network's channels (0.25)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.1, help="the learning rate (0.1)")
    parser.add_argument(
        "--schedule", choices=("cosine", "constant"), default="cosine", help="cosine: the rate falls to 0 (cosine)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, help="train on as many only, for a try")
    start(parser, run, arguments)


def run(args):
    """Trains, prints a line an epoch and a table at the end, writes the results."""
    unknown = set(args.variants) - set(VARIANTS)
    if unknown:
        raise UsageError(f"There is no network {', '.join(sorted(unknown))}. There are: {', '.join(VARIANTS)}.")
    if min(args.epochs, args.batch) < 1 or args.rate <= 0:
        raise UsageError(
            f"Expected positive numbers. Received: epochs={args.epochs}, batch={args.batch}, rate={args.rate}"
        )
    refuse_existing(args.out, args.force, directory=True)
    figures.check(args.out / "curves.png", overwrite=True)
    start_keras()
    data = load(args.data)
    with atomic_write(args.out, args.force) as folder:
        folder.mkdir()
        names = dict.fromkeys(args.variants or ("nin", "plain", "fc"))
        results = [train_until_stable(name, data, args, folder) for name in names]
        facts = {name: value for name, value in vars(args).items() if name not in ("data", "out", "force", "variants")}
        facts |= {"device": device(), "networks": results}
        (folder / "results.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        figures.save(curves(results, args), folder / "curves.png")
    print()
    print(summary(results))
    print(f"\nWritten: {args.out}")


def load(path):
    """The images, uint8 N×28×28×1, and labels of Fashion-MNIST: a dict of (images, labels) by "train" and "test".

    Raises:
        UsageError: `path` holds something else.
        InceptionTFError: without a path, the data could not be downloaded.
    """
    if path is None:
        import keras

        try:
            arrays = keras.datasets.fashion_mnist.load_data()
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise InceptionTFError(f"Keras could not download the data ({reason}). Give a file: --data PATH") from error
    else:
        try:
            with np.load(path) as file:
                arrays = [(file[f"x_{part}"], file[f"y_{part}"]) for part in ("train", "test")]
        except (OSError, KeyError, ValueError) as error:
            raise UsageError(f"{path} is no NPZ file of x_train, y_train, x_test, y_test: {error}") from error
    for images, labels in arrays:
        if images.ndim != 3 or images.dtype != np.uint8 or labels.shape != images.shape[:1] or labels.max() > 9:
            raise UsageError(
                "Expected uint8 images N×28×28 and N labels 0 to 9. "
                f"Received: {images.dtype} {images.shape}, {labels.shape}"
            )
    return {
        part: (images[..., None], labels.astype("int32")) for part, (images, labels) in zip(("train", "test"), arrays)
    }


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


def train(name, data, args, folder, initial_rate):
    """Trains one network; a dict of what it is and of its epochs. Saves it as a `.keras` file in `folder`.

    None where it diverges.
    """
    import keras

    import inception_tf as itf
    from inception_tf.analysis.profile import profile, total
    from inception_tf.images.preprocessing import Preprocessing

    keras.utils.set_random_seed(args.seed)
    images, labels = data["train"]
    if args.examples:
        chosen = np.random.default_rng(args.seed).permutation(len(labels))[: args.examples]
        images, labels = images[chosen], labels[chosen]
    preprocessing = Preprocessing("inception", args.size, central_fraction=None, channels=1)
    training = batches(images, labels, preprocessing, min(args.batch, len(labels)), shuffled=args.seed)
    testing = batches(*data["test"], preprocessing, 250)
    model = itf.NetworkInNetwork(
        input_shape=(args.size, args.size, 1),
        classes=10,
        depth_multiplier=args.width,
        dropout=0.1,
        rectified_logits=False,
        **VARIANTS[name],
    )
    model.card = dataclasses.replace(model.card, preprocessing=preprocessing.to_config(), labels=LABELS)
    rate = initial_rate
    if args.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, args.epochs * len(training))
    model.compile(
        keras.optimizers.SGD(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=device() != "CPU",  # oneDNN's convolutions are faster there
    )
    costs = profile(model)
    epochs, start = [], time.perf_counter()

    def note(epoch, logs):
        nonlocal start
        seconds, start = time.perf_counter() - start, time.perf_counter()
        if not np.isfinite(logs["loss"]):
            return
        epochs.append({key: float(value) for key, value in logs.items()} | {"seconds": seconds})
        print(
            f"{name:5}  epoch {epoch + 1:2}/{args.epochs}  loss {logs['loss']:.3f}  "
            f"training {logs['accuracy']:6.2%}  test {logs['val_accuracy']:6.2%}  {seconds:.0f} s",
            flush=True,
        )

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=note), keras.callbacks.TerminateOnNaN()]
    model.fit(training, validation_data=testing, epochs=args.epochs, callbacks=callbacks, shuffle=False, verbose=0)
    if len(epochs) < args.epochs:
        return None
    model.save(folder / f"{name}.keras")
    return {
        "network": name,
        **VARIANTS[name],
        "rate": initial_rate,
        "parameters": total(costs.layers, "parameters"),
        "multiply_adds": total(costs.layers, "multiply_adds"),
        "epochs": epochs,
    }


def device():
    """The kind of device that TensorFlow trains on, "GPU" or "CPU"."""
    import tensorflow as tf

    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def summary(results):
    """The table of the trained networks."""
    rows = [
        (
            result["network"],
            f"{result['rate']:.3g}",
            f"{result['parameters']:,}",
            f"{result['multiply_adds']:,}",
            f"{100 * result['epochs'][0]['val_accuracy']:.2f}",
            f"{100 * result['epochs'][-1]['val_accuracy']:.2f}",
            f"{sum(epoch['seconds'] for epoch in result['epochs']):.0f}",
        )
        for result in results
    ]
    last = len(results[0]["epochs"])
    header = ("network", "rate", "parameters", "multiply-adds", "test % after 1", f"after {last}", "seconds")
    return tables.render(rows, header, "<>>>>>>")


def curves(results, args):
    """A figure of the accuracies by epoch, beside the figures to beat."""
    picture = figures.figure(8, 5)
    axes = picture.subplots()
    for i, result in enumerate(results):
        steps = range(1, len(result["epochs"]) + 1)
        for key, style, what in (("val_accuracy", "-", "test"), ("accuracy", ":", "training")):
            values = [100 * epoch[key] for epoch in result["epochs"]]
            label = f"{result['network']}, {what}: {values[-1]:.2f} %"
            axes.plot(steps, values, style, color=f"C{i}", marker="o" if what == "test" else None, label=label)
    axes.plot(
        *zip(*TO_BEAT.items()), "kx", label="to beat: " + ", ".join(f"{v} % after {k}" for k, v in TO_BEAT.items())
    )
    axes.set_title(f"Network in Network on Fashion-MNIST, {args.size}×{args.size}, width {args.width:g}, {device()}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy, %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    return picture


if __name__ == "__main__":
    main()
