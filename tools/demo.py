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
from inception_tf.errors import DownloadError, InceptionTFError
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.quiet import no_deprecations, start_keras

SIZE = 75  # the smallest image that Inception-v3 takes: digits are small, and a minute is short
HELD_OUT = 200


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    from inception_tf.slim import catalogue
    from inception_tf.slim.download import fetch

    try:
        return fetch(catalogue.find("inception_v3", "imagenet"), tries=1, timeout=10)
    except DownloadError as error:
        print(f"{error}\n\nGoing on without: TF-Slim trains a small Inception-v3 first.", flush=True)
        return None


def sample_photographs(folder):
    """The two photographs that scikit-learn carries, as files."""
    from sklearn.datasets import load_sample_images

    folder.mkdir()
    samples = load_sample_images()
    for name, image in zip(samples.filenames, samples.images):
        Image.fromarray(image).save(folder / (Path(name).stem + ".png"))
    return sorted(folder.iterdir())


def digits(folder):
    """scikit-learn's digits: ((images, labels) for training, files of the held-out ones), and the latter's labels.

    Some of those for training are written to class folders too, `photos/even` and `photos/odd`, to fine-tune on. A
    margin lets the digit survive the central crop of the evaluation.
    """
    from sklearn.datasets import load_digits

    folder.mkdir()
    data = load_digits()
    images = np.kron(255 - data.images * 255 / 16, np.ones((1, 10, 10))).astype("uint8")
    images = np.pad(images, ((0, 0), (8, 8), (8, 8)), constant_values=255)
    order = np.random.default_rng(0).permutation(len(images))
    files = []
    for i in order[:HELD_OUT]:
        files.append(folder / f"{i:04d}.png")
        Image.fromarray(images[i]).save(files[-1])
    for i in order[HELD_OUT : 2 * HELD_OUT]:
        path = folder.parent / "photos" / ("odd" if data.target[i] % 2 else "even") / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(path)
    prepared = Preprocessing(size=SIZE)([np.stack([image] * 3, -1) for image in images[order[HELD_OUT:]]])
    return ((prepared, data.target[order[HELD_OUT:]]), files), data.target[order[:HELD_OUT]].tolist()


def train_with_slim(data, folder, seconds, batch=32):
    """Trains TF-Slim's own Inception-v3 as Slim's scripts do, RMSProp and all. Returns its Saver's checkpoint."""
    import tensorflow.compat.v1 as tf

    from inception_tf.slim.reference import import_tf_slim

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

    engine, exported = open_engine(keras_file), open_engine(servable)
    images = engine.preprocessing(photographs)
    original = verify.run_original(checkpoint, images, itf.detect(checkpoint))
    report = verify.compare_end_points(
        "inception_v3", "TF-Slim's graph", verify.run_keras(engine.model, images), original
    )
    answers = {
        "TF-Slim's graph, the checkpoint": original["Predictions"].argmax(-1).tolist(),
        "Keras, the .keras file": best(engine, photographs),
        "SavedModel, without Keras": best(exported, photographs),
    }
    print(f"\nAll {len(photographs)} images: {report.summary()}.")
    first = next(iter(answers.values()))
    for who, given in answers.items():
        right = f"{sum(a == t for a, t in zip(given, truth))} of {len(truth)} right, " if truth else ""
        print(f"  {who:32}  {right}{sum(a == b for a, b in zip(given, first))} of {len(first)} as TF-Slim's graph")
    draw(picture, photographs, [engine.labels[a] for a in first], report)
    return report.passed and all(given == first for given in answers.values())


def best(engine, photographs):
    """The best class of every image."""
    from inception_tf.inference.classify import classify

    results, failures = classify(engine, photographs, top=1, batch=50)
    if failures:
        raise InceptionTFError(f"Unreadable: {failures}")
    return [results[path][0][0] for path in photographs]


def draw(path, photographs, names, report):
    """A picture of some images with their answers, and of the differences from the original at every end point."""
    shown = list(zip(photographs, names))[:12]
    figure = figures.figure(12, 5)
    left, right = figure.subfigures(1, 2)
    left.suptitle("What all three answer")
    for axes, (photograph, name) in zip(left.subplots(3, 4).flat, shown):
        axes.imshow(Image.open(photograph), cmap="gray")
        axes.set_title(name, fontsize=9)
    for axes in left.axes:
        axes.axis("off")
    axes = right.subplots()
    axes.barh([row.end_point for row in report.rows], [max(row.relative, 1e-9) for row in report.rows])
    axes.axvline(report.tolerance, color="tab:red", label=f"tolerance {report.tolerance:.0e}")
    axes.set_xscale("log")
    axes.set_xlabel("largest difference, relative to the end point's maximum")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.legend()
    figures.save(figure, path)


if __name__ == "__main__":
    main()
