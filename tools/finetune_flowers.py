"""Fine-tunes Inception-v3 by several recipes on the same folds of class folders, and says what each reached.

    python tools/finetune_flowers.py --data flower_photos --weights inception_v3.ckpt --out runs \\
        --recipes slim modern --folds 2 --seeds 0 1 2

Each fold is trained on and tested once: the model of the last epoch, so that none is chosen by the test. Fine-tuning
itself validates on a few of the photographs.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from _tools import options, start

from inception_tf import tables


def main():
    parser = options(__doc__)
    parser.add_argument("--data", required=True, type=Path, help="class folders")
    parser.add_argument("--weights", required=True, help="a Slim checkpoint of Inception-v3")
    parser.add_argument("--out", required=True, type=Path, help="where the runs go")
    parser.add_argument("--recipes", nargs="+", default=["slim", "modern"], help="names, or YAML files (slim modern)")
    parser.add_argument("--folds", type=int, default=2, help="the parts that each seed deals the photographs to (2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the folds and the runs (0 1 2)")
    parser.add_argument("--precision", default="float32", help="of the recipes' training (float32)")
    start(parser, run)


def run(args):
    """Prints what each recipe reached on the photographs it did not see: mean and deviation over folds and seeds."""
    args.out.mkdir(parents=True, exist_ok=True)
    reached = {recipe: [] for recipe in args.recipes}
    for seed in args.seeds:
        for fold in range(args.folds):
            data = deal(args.data, args.out / f"folds-{seed}", args.folds, fold, seed)
            for recipe, runs in reached.items():
                out = args.out / f"{Path(recipe).stem}-{seed}-{fold}"
                command = ["--data", data / "train", "--val", data / "few", "--weights", args.weights, "--out", out]
                command += ["--recipe", recipe, "--seed", seed, "--precision", args.precision, "--no-report"]
                _, minutes, processor = inception_tf("finetune", *command)
                found, *_ = inception_tf("evaluate", out / "last.keras", "--data", data / "val")
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
    """What a command answers, as JSON; the minutes it took, and those of processors."""
    begin, before = time.monotonic(), os.times()
    command = [sys.executable, "-m", "inception_tf", *map(str, words), "--json"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(answer), (time.monotonic() - begin) / 60, processor / 60


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


if __name__ == "__main__":
    main()
