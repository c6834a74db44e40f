"""`make demo`: the whole job on a real Slim checkpoint, from what is in it to an answer of the exported SavedModel.

With internet the checkpoint is the published Inception-v3. Without, TF-Slim itself trains a narrow Inception-v3 on
scikit-learn's handwritten digits for a minute, and its own Saver writes the checkpoint.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

import inception_tf as itf
from inception_tf import figures
from inception_tf.errors import DownloadError
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.quiet import no_deprecations, start_keras
from inception_tf.slim import catalogue
from inception_tf.slim.download import fetch
from inception_tf.slim.reference import import_tf_slim

SIZE = 75  # the smallest image that Inception-v3 takes: digits are small, and a minute is short
HELD_OUT = 200


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="where everything goes; replaced (demo)")
    parser.add_argument("--offline", action="store_true", help="do not try to download the published checkpoint")
    parser.add_argument("--seconds", type=float, default=60, help="how long TF-Slim trains (60)")
    args = parser.parse_args()
    out, start = args.out, time.monotonic()
    start_keras()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    checkpoint = None if args.offline else download()
    if checkpoint:
        photographs, truth, options = sample_photographs(out / "photographs"), None, []
    else:
        (train, photographs), truth = digits(out / "digits")
        labels = out / "labels.txt"
        labels.write_text("".join(f"{digit}:digit {digit}\n" for digit in range(10)))
        checkpoint, options = train_with_slim(train, out / "slim", args.seconds), ["--labels", labels, "--size", SIZE]

    keras_file, servable = out / "model.keras", out / "serving" / "model"
    command("inspect", checkpoint)
    command("convert", checkpoint, keras_file, *options)
    command("verify", checkpoint, "--model", keras_file, "--images", *photographs[:2])
    command("classify", keras_file, *photographs[:3], "--top", 3)
    command("export", keras_file, servable)
    agreed = compare(checkpoint, keras_file, servable / "1", photographs, truth, out / "report.png")
    print(f"\n{time.monotonic() - start:.0f} seconds. The picture: {out / 'report.png'}")
    if not agreed:
        sys.exit("FAILED: the converted model does not answer as the original.")
    print("The Keras file and the SavedModel answer as the original, to the image.")


def command(*arguments):
    """Runs an inception-tf command as a user would, and stops the demo when it fails."""
    print("\n$ inception-tf " + " ".join(map(str, arguments)), flush=True)
    done = subprocess.run([sys.executable, "-m", "inception_tf", *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def download():
    """The published checkpoint, or None without internet."""
    try:
        return fetch(catalogue.find("inception_v3", "imagenet"), tries=1, timeout=10)
    except DownloadError as error:
        print(f"{error}\n\nGoing on without: TF-Slim trains a small Inception-v3 first.", flush=True)


def sample_photographs(folder):
    """The two photographs that scikit-learn carries, as files."""
    from sklearn.datasets import load_sample_images

    samples = load_sample_images()
    names = [folder / f"{Path(name).stem}.png" for name in samples.filenames]
    return sorted(map(save_image, samples.images, names))


def digits(folder):
    """scikit-learn's digits: ((images, labels) for training, files of the held-out ones), and the latter's labels.

    Some of those for training are written to class folders too, `photos/even` and `photos/odd`, to fine-tune on. A
    margin lets the digit survive the central crop of the evaluation.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.kron(255 - data.images * 255 / 16, np.ones((1, 10, 10))).astype("uint8")
    images = np.pad(images, ((0, 0), (8, 8), (8, 8)), constant_values=255)
    order = np.random.default_rng(0).permutation(len(images))
    files = [save_image(images[i], folder / f"{i:04d}.png") for i in order[:HELD_OUT]]
    for i in order[HELD_OUT : 2 * HELD_OUT]:
        save_image(images[i], folder.parent / "photos" / ("odd" if data.target[i] % 2 else "even") / f"{i:04d}.png")
    prepared = Preprocessing(size=SIZE)([np.stack([image] * 3, -1) for image in images[order[HELD_OUT:]]])
    return ((prepared, data.target[order[HELD_OUT:]]), files), data.target[order[:HELD_OUT]].tolist()


def save_image(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def train_with_slim(data, folder, seconds, batch=32):
    """Trains TF-Slim's own Inception-v3 as Slim's scripts do, RMSProp and all. Returns its Saver's checkpoint."""
    import tensorflow.compat.v1 as tf

    slim = import_tf_slim()
    from tf_slim.nets import inception_v3

    folder.mkdir()
    images, labels = data
    with no_deprecations(), tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(0)
        x = tf.placeholder(tf.float32, (None, SIZE, SIZE, 3))
        y = tf.placeholder(tf.int32, (None,))
        # Slim's decay of 0.9997 would need thousands of steps to know the mean and variance of the activations.
        with slim.arg_scope(inception_v3.inception_v3_arg_scope(batch_norm_decay=0.9)):
            logits, _ = inception_v3.inception_v3(x, 10, depth_multiplier=0.25, create_aux_logits=False)
        tf.losses.sparse_softmax_cross_entropy(y, logits)
        step = tf.train.get_or_create_global_step()
        optimizer = tf.train.RMSPropOptimizer(0.002, decay=0.9, momentum=0.9, epsilon=1.0)
        train = slim.learning.create_train_op(tf.losses.get_total_loss(), optimizer, global_step=step)
        session.run(tf.global_variables_initializer())
        rng, end, taken = np.random.default_rng(0), None, 0
        print(f"Training with TF-Slim for {seconds:.0f} seconds …", flush=True)
        while not taken or time.monotonic() < end:
            chosen = rng.choice(len(images), batch, replace=False)
            loss = session.run(train, {x: images[chosen], y: labels[chosen]})
            taken += 1
            end = end or time.monotonic() + seconds  # the first step takes long
        path = tf.train.Saver().save(session, str(folder / "model.ckpt"), global_step=step)
        print(f"{taken} steps, loss {loss:.3f}. TF-Slim's Saver wrote {path}.")
    return Path(path)


def compare(checkpoint, keras_file, servable, photographs, truth, picture):
    """Asks the original graph, the Keras file and the SavedModel about the same images; says and draws what they
    answer. Returns whether all answer the same."""
    from inception_tf.inference.engines import open_engine
    from inception_tf.slim import verify

    def best(engine):
        """The best class of every image."""
        results, failures = itf.classify(engine, photographs, top=1, batch=50)
        assert not failures, failures
        return [results[path][0][0] for path in photographs]

    engine, graph = open_engine(keras_file), "TF-Slim's graph"
    images = engine.preprocessing(photographs)
    original = verify.run_original(checkpoint, images, itf.detect(checkpoint))
    report = verify.compare_end_points("inception_v3", graph, verify.run_keras(engine.model, images), original)
    first = original["Predictions"].argmax(-1).tolist()
    answers = {
        "TF-Slim's graph, the checkpoint": first,
        "Keras, the .keras file": best(engine),
        "SavedModel, without Keras": best(open_engine(servable)),
    }
    print(f"\nAll {len(photographs)} images: {report.summary()}.")
    for who, given in answers.items():
        right = f"{sum(a == t for a, t in zip(given, truth))} of {len(truth)} right, " if truth else ""
        print(f"  {who:32}  {right}{sum(a == b for a, b in zip(given, first))} of {len(first)} as {graph}")
    draw(picture, photographs, [engine.labels[a] for a in first], report)
    return report.passed and all(given == first for given in answers.values())


def draw(path, photographs, names, report):
    """A picture of some images with their answers, and of the differences from the original at every end point."""
    figure = figures.figure(12, 5)
    left, right = figure.subfigures(1, 2)
    left.suptitle("What all three answer")
    for axes, photograph, name in zip(left.subplots(3, 4).flat, photographs, names):
        axes.imshow(Image.open(photograph), cmap="gray")
        axes.set_title(name, fontsize=9)
    for axes in left.axes:
        axes.axis("off")
    axes = right.subplots()
    axes.barh([row.end_point for row in report.rows], [max(row.relative, 1e-9) for row in report.rows])
    axes.axvline(report.tolerance, color="tab:red", label=f"tolerance {report.tolerance:.0e}")
    axes.set(xscale="log", xlabel="largest difference, relative to the end point's maximum")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.legend()
    figures.save(figure, path)


if __name__ == "__main__":
    main()
