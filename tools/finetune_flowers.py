"""Fine-tunes Inception-v3 on a folder of class folders in four ways, and says what each reached in how many minutes.

The frozen trunk; two phases, the heads alone on features computed once, and then everything; the same two phases with
keras.applications, in plain Keras, on the same batches; and from random weights. One after another, each in a process
of its own:

    python tools/finetune_flowers.py --data flower_photos --weights inception_v3.ckpt --out runs
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from inception_tf import tables

BATCH, SEED, RATES = 32, 0, (0.01, 0.0001)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="class folders")
    parser.add_argument("--weights", required=True, help="a Slim checkpoint of Inception-v3")
    parser.add_argument("--out", required=True, type=Path, help="where the runs go")
    parser.add_argument("--epochs", default="10,1", help="of the two phases (10,1)")
    parser.add_argument("--scratch-epochs", default="2", help="of the run from random weights (2)")
    parser.add_argument("--keras", help=argparse.SUPPRESS)  # what this file runs itself with
    args = parser.parse_args()
    if args.keras:
        print(json.dumps(keras_applications(args.data, args.keras, args.epochs)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    common = ["--data", args.data, "--no-report", "--batch-size", str(BATCH), "--seed", str(SEED), "--json"]
    ours = ["-m", "inception_tf", "finetune", *common]
    two_phases = ["--augment", "none,fast", "--learning-rate", ",".join(map(str, RATES))]
    converted = args.out / "trunk.weights.h5"
    runs = {
        "frozen trunk": [*ours, "--weights", args.weights, "--augment", "none", "--epochs", "10,0"],
        "two phases": [*ours, *two_phases, "--weights", args.weights, "--epochs", args.epochs],
        "two phases, keras.applications": [__file__, *sys.argv[1:], "--keras", str(converted)],
        "from random weights": [*ours, "--weights", "none", "--epochs", args.scratch_epochs],
    }
    if not converted.exists():
        convert(args.weights, converted)
    rows = []
    for name, command in runs.items():
        if command[0] == "-m":
            command = [*command, "--out", str(args.out / name.replace(" ", "_"))]
        load = os.getloadavg()[0]
        start = time.monotonic()
        before = os.times()
        output = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True).stdout
        after = os.times()
        used = after.children_user - before.children_user + after.children_system - before.children_system
        best = json.loads(output)["best"]
        rows.append(
            {
                "run": name,
                "val_accuracy": best["val_accuracy"],
                "minutes": (time.monotonic() - start) / 60,
                "cpu_minutes": used / 60,
                "load_before": load,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    (args.out / "flowers.json").write_text(json.dumps(rows, indent=2) + "\n")
    cells = [
        (row["run"], f"{row['val_accuracy']:.3f}", f"{row['minutes']:.1f}", f"{row['cpu_minutes']:.1f}") for row in rows
    ]
    print(tables.render(cells, ("run", "top-1", "minutes", "processor minutes"), "<>>>"))


def convert(weights, path):
    """The checkpoint's trunk as a weights file of keras.applications."""
    import inception_tf as itf

    itf.to_keras_applications(itf.create_model("inception_v3", weights=weights, include_top=False), path)


def keras_applications(data, weights, epochs):
    """The two phases with keras.applications.InceptionV3 and `fit`, on the batches of our pipeline."""
    import keras
    import numpy as np

    from inception_tf.images.examples import open_training_data
    from inception_tf.images.preprocessing import Preprocessing
    from inception_tf.training import batches
    from inception_tf.training.recipe import Recipe

    train, held_out = (part.checked() for part in open_training_data(data))
    classes, order, recipe = len(train.class_names), batches.Order(len(train), BATCH, SEED), Recipe(seed=SEED)
    preprocessing = Preprocessing()
    decoded, held_out_decoded = batches.Decoded(train), batches.Decoded(held_out)

    keras.utils.set_random_seed(SEED)
    trunk = keras.applications.InceptionV3(include_top=False, weights=weights, input_shape=(299, 299, 3), pooling="avg")
    head = keras.Sequential([keras.layers.Dropout(0.2), keras.layers.Dense(classes, activation="softmax")])
    features, held_out_features = (
        {
            "x": np.concatenate(
                [trunk.predict_on_batch(images) for images, _ in batches.all_images(part, preprocessing, BATCH)]
            )
        }
        for part in (decoded, held_out_decoded)
    )
    inputs = keras.Input((299, 299, 3))
    # In inference mode: batch norm keeps its statistics, as in our run.
    whole = keras.Model(inputs, head(trunk(inputs, training=False)))
    data = [
        (
            head,
            batches.training_features(features, train.labels, classes, order, recipe, ["y"]),
            batches.validation_features(held_out_features, held_out.labels, classes, order, ["y"]),
        ),
        (
            whole,
            batches.training_images(decoded, train.labels, classes, order, recipe, preprocessing, ["y"]),
            batches.validation_images(held_out_decoded, held_out.labels, classes, order, preprocessing, ["y"]),
        ),
    ]
    history, step = [], 0
    for (model, training, validation), count, rate in zip(data, map(int, epochs.split(",")), RATES):
        model.compile(
            keras.optimizers.RMSprop(rate, rho=0.9, momentum=0.9, epsilon=1.0),
            "categorical_crossentropy",
            weighted_metrics=["accuracy"],
        )
        for _ in range(count):
            model.fit(training(step, order.steps_per_epoch).map(plain), shuffle=False, verbose=0)
            step += order.steps_per_epoch
            history.append({"val_accuracy": model.evaluate(validation.map(plain), verbose=0)[1], "step": step})
            print(history[-1], file=sys.stderr, flush=True)
    return {"best": max(history, key=lambda row: row["val_accuracy"]), "history": history}


def plain(inputs, labels, weights):
    """Batches of our pipeline as `fit` takes them for a model of one input and one output."""
    return inputs["x"] if isinstance(inputs, dict) else inputs, labels["y"], weights["y"]


if __name__ == "__main__":
    main()
