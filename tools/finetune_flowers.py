"""Fine-tunes Inception-v3 on a folder of class folders in four ways, and says what each reached in how many minutes.

The frozen backbone; Slim's two phases; the same two phases with keras.applications, in plain Keras, on the same
batches; and from random weights. One after another, each in a process of its own:

    python tools/finetune_flowers.py --data flower_photos --weights inception_v3.ckpt --out runs

With `--recipes`, other recipes beside one another on the same folds, each of which is trained on and tested once: the
model of the last epoch, so that none is chosen by the test. Fine-tuning itself validates on a few of the photographs:

    python tools/finetune_flowers.py … --recipes slim modern --folds 2 --seeds 0 1 2
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from _tools import options, start

from inception_tf import tables

BATCH, SEED = 32, 0


def main():
    parser = options(__doc__)
    parser.add_argument("--data", required=True, type=Path, help="class folders")
    parser.add_argument("--weights", required=True, help="a Slim checkpoint of Inception-v3")
    parser.add_argument("--out", required=True, type=Path, help="where the runs go")
    parser.add_argument("--epochs", default="3,1", help="of the two phases (3,1)")
    parser.add_argument("--scratch-epochs", default="2", help="of the run from random weights (2)")
    parser.add_argument("--recipes", nargs="+", help="names or YAML files of recipes to compare")
    parser.add_argument("--folds", type=int, default=2, help="the parts that each seed deals the photographs to (2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the folds and the runs (0 1 2)")
    parser.add_argument("--precision", default="float32", help="of the recipes' training (float32)")
    parser.add_argument("--keras", help=argparse.SUPPRESS)  # what this file runs itself with
    start(parser, run)


def run(args):
    if args.keras:
        print(json.dumps(keras_applications(args.data, args.keras, args.epochs)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    if args.recipes:
        compare(args)
    else:
        four_ways(args)


def four_ways(args):
    """Prints the best accuracy on the validation photographs, and the minutes, of each way."""
    converted = args.out / "backbone.weights.h5"
    if not converted.exists():
        convert(args.weights, converted)
    slim, rows = ["--weights", args.weights], []
    for name, command in {
        "frozen backbone": [*slim, "--augment", "none", "--epochs", "10,0"],
        "two phases": [*slim, "--epochs", args.epochs],
        "two phases, keras.applications": [__file__, *sys.argv[1:], "--keras", converted],
        "from random weights": ["--weights", "none", "--epochs", args.scratch_epochs],
    }.items():
        if command[0] != __file__:
            command += ["--data", args.data, "--no-report", "--batch-size", BATCH, "--seed", SEED]
            command = inception_tf("finetune", *command, "--out", args.out / name.replace(" ", "_"))
        found, minutes, processor = measured(command)
        rows.append((name, f"{found['best']['val_accuracy']:.3f}", f"{minutes:.1f}", f"{processor:.1f}"))
        print(json.dumps(rows[-1]), flush=True)
    print(tables.render(rows, ("run", "top-1", "minutes", "processor minutes"), "<>>>"))


def compare(args):
    """Prints what each recipe reached on the photographs it did not see: mean and deviation over folds and seeds."""
    reached = {recipe: [] for recipe in args.recipes}
    for seed in args.seeds:
        for fold in range(args.folds):
            data = deal(args.data, args.out / f"folds-{seed}", args.folds, fold, seed)
            for recipe, runs in reached.items():
                out = args.out / f"{Path(recipe).stem}-{seed}-{fold}"
                command = ["--data", data / "train", "--val", data / "few", "--weights", args.weights, "--out", out]
                command += ["--recipe", recipe, "--seed", seed, "--precision", args.precision, "--no-report"]
                _, minutes, processor = measured(inception_tf("finetune", *command))
                found, *_ = measured(inception_tf("evaluate", out / "last.keras", "--data", data / "val"))
                runs.append((found["top1"], minutes, processor))
                row = {"recipe": recipe, "seed": seed, "fold": fold, "accuracy": found["top1"], "minutes": minutes}
                print(json.dumps({**row, "processor_minutes": processor}), flush=True)
    rows = []
    for recipe, runs in reached.items():
        accuracy, minutes, processor = np.array(runs).T
        row = recipe, len(runs), tables.percent(accuracy.mean()), f"{100 * accuracy.std():.1f}"
        rows.append((*row, f"{minutes.mean():.1f}", f"{processor.mean():.1f}"))
    print(tables.render(rows, ("recipe", "runs", "top-1", "±", "minutes", "processor minutes"), "<>>>>>"))


def inception_tf(*words):
    """The command that runs `inception-tf`, to be `measured`."""
    return ["-m", "inception_tf", *words, "--json"]


def measured(command):
    """What Python answers when it is run with `command`, JSON; the minutes it took, and those of processors."""
    start, before = time.monotonic(), os.times()
    command = [sys.executable, *map(str, command)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(answer), (time.monotonic() - start) / 60, processor / 60


def deal(photographs, folder, folds, fold, seed):
    """Class folders of links, one of `folds` parts of every class to test on in `val/`, two of them in `few/`,
    the others in `train/`."""
    folder = folder / str(fold)
    for kind in sorted(path for path in photographs.iterdir() if path.is_dir()):
        files = sorted(kind.iterdir())
        for i, j in enumerate(np.random.default_rng(seed).permutation(len(files))):
            parts = ["train"] if i % folds != fold else ["val", "few"] if i < 2 * folds else ["val"]
            for part in parts:
                link = folder / part / kind.name / files[j].name
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    link.symlink_to(files[j].resolve())
    return folder


def convert(weights, path):
    """The checkpoint's backbone as a weights file of keras.applications."""
    import inception_tf as itf

    itf.to_keras_applications(itf.create_model("inception_v3", weights=weights, include_top=False), path)


def keras_applications(data, weights, epochs):
    """The two phases with keras.applications.InceptionV3 and `fit`, on the batches of our pipeline."""
    import keras

    from inception_tf.images.preprocessing import Preprocessing
    from inception_tf.images.sources import open_training_data
    from inception_tf.training import batches
    from inception_tf.training.recipe import Recipe

    train, held_out = (part.checked() for part in open_training_data(data))
    classes, order, recipe = len(train.class_names), batches.Order(len(train), BATCH, SEED), Recipe(seed=SEED)
    preprocessing = Preprocessing()
    targets = [batches.Targets(part.labels, classes, ("predictions",)) for part in (train, held_out)]
    inputs = batches.images(batches.Decoded(train), preprocessing, recipe)
    training = batches.training_batches(inputs, targets[0], order, recipe)
    inputs = batches.images(batches.Decoded(held_out), preprocessing)
    validation = batches.validation_batches(inputs, targets[1], order)

    def unnested(images, labels, weights):
        return images, labels["predictions"], weights["predictions"]

    keras.utils.set_random_seed(SEED)
    backbone = keras.applications.InceptionV3(
        include_top=False, weights=weights, input_shape=(299, 299, 3), pooling="avg"
    )
    inputs = keras.Input((299, 299, 3))
    # In inference mode: batch norm keeps its statistics, as in our run.
    features = keras.layers.Dropout(0.2)(backbone(inputs, training=False))
    model = keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(features))
    accuracies, steps = [], order.steps_per_epoch
    for count, rate, trainable in zip(map(int, epochs.split(",")), (1e-2, 1e-4), (False, True)):
        backbone.trainable = trainable
        model.compile(
            keras.optimizers.RMSprop(rate, rho=0.9, momentum=0.9, epsilon=1.0),
            "categorical_crossentropy",
            weighted_metrics=["accuracy"],
        )
        data = training(len(accuracies) * steps).map(unnested)
        options = {"validation_data": validation.map(unnested), "shuffle": False, "verbose": 0}
        accuracies += model.fit(data, epochs=count, steps_per_epoch=steps, **options).history["val_accuracy"]
        print(accuracies, file=sys.stderr, flush=True)
    return {"best": {"val_accuracy": max(accuracies)}}


if __name__ == "__main__":
    main()
