"""What each engine's precisions cost in accuracy: Inception-v3 with heads trained on flowers, on photographs held out.

    python tools/precision_flowers.py --data flower_photos --weights inception_v3.ckpt --out scratch [--seeds 0 1 2]

Exported is the backbone, whose features are computed once an engine and precision; the classifiers on them stay in
float32, and are trained on the Keras model's features of half of each class's photographs, dealt by a seed. All seeds
train on the 200 photographs that int8 is calibrated on, and are tested on the half that they do not see.
"""

import json
import time
from pathlib import Path

import numpy as np
from _tools import options, start

from inception_tf import tables
from inception_tf.benchmark.engines import EXPORTS
from inception_tf.benchmark.fastest import CANDIDATES
from inception_tf.exports.portable import CALIBRATION
from inception_tf.quiet import start_keras
from inception_tf.zoo import create_model


def main():
    parser = options(__doc__)
    parser.add_argument("--data", required=True, type=Path, help="class folders")
    parser.add_argument("--weights", required=True, help="a Slim checkpoint of Inception-v3")
    parser.add_argument("--out", required=True, type=Path, help="where features and exports go, and are found again")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[" ".join(pair) for pair in CANDIDATES], help="openvino int8, …")
    start(parser, run)


def run(args):
    args.out.mkdir(parents=True, exist_ok=True)
    start_keras()
    classes = sorted(folder.name for folder in args.data.iterdir() if folder.is_dir())
    files = [sorted(args.data.joinpath(name).iterdir()) for name in classes]
    paths, truth = sum(files, []), np.repeat(np.arange(len(classes)), list(map(len, files)))
    members = [np.random.default_rng(0).permutation(np.flatnonzero(truth == i)) for i in range(len(classes))]
    calibrated = np.concatenate([of_class[: CALIBRATION // len(classes)] for of_class in members])
    model = create_model("inception_v3", weights=args.weights, include_top=False, pooling="avg")
    found = {}
    for name in ("keras float32", *args.only):
        folder = args.out / name.replace(" ", "-")
        if not (folder / "features.npy").exists():
            folder.mkdir(exist_ok=True)
            facts = compute(model, folder, name, paths, [paths[i] for i in calibrated])
            print(json.dumps({"candidate": name, **facts}), flush=True)
        found[name] = np.load(folder / "features.npy")
    rows, base = {name: [] for name in found}, found["keras float32"]
    for seed in args.seeds:
        rng = np.random.default_rng(seed)
        others = [np.setdiff1d(of_class, calibrated) for of_class in members]
        test = np.concatenate([rng.permutation(some)[: len(all) // 2] for some, all in zip(others, members)])
        train = np.setdiff1d(np.arange(len(paths)), test)
        kernel, bias = head(base[train], truth[train], len(classes))
        wanted = (base[test] @ kernel + bias).argmax(1)
        for name, features in found.items():
            best = (features[test] @ kernel + bias).argmax(1)
            rows[name].append((np.mean(best == truth[test]), np.mean(best == wanted)))
    cells = []
    for name, pairs in rows.items():
        accuracy, same = np.array(pairs).T
        lost = 100 * (np.array(rows["keras float32"])[:, 0] - accuracy).max()
        cells.append((name, *map("{:.1%}".format, accuracy), f"{lost:.1f}", f"{same.mean():.1%}"))
    header = ("engine", *(f"seed {seed}" for seed in args.seeds), "most points lost", "same class")
    print(tables.markdown(cells, header))


def compute(model, folder, name, paths, calibrate):
    """Exports the backbone, and writes its features of photographs, N×C, to `features.npy`: seconds of the export."""
    from inception_tf.exports.formats import export
    from inception_tf.inference.pipeline import pipeline

    kind, precision = name.split()
    start, processor, path = time.perf_counter(), time.process_time(), model
    if kind != "keras":
        form, suffix, _ = EXPORTS[kind]
        options = {"precision": precision, "calibrate": calibrate if precision == "int8" else None, "check": False}
        path = export(model, folder / f"model{suffix}", form, **options)
    facts = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - processor}
    np.save(folder / "features.npy", pipeline(path, batch=8).embed(paths))
    return facts


def head(features, truth, classes, steps=400, decay=1e-3):
    """(kernel, bias) of a softmax regression, by gradient descent with momentum on all images at once."""
    mean, scale = features.mean(0), features.std(0) + 1e-3
    x, wanted = np.float64((features - mean) / scale), np.eye(classes)[truth]
    kernel, bias = np.zeros((x.shape[1], classes)), np.zeros(classes)
    speed = np.zeros_like(kernel)
    for _ in range(steps):
        scores = np.exp(x @ kernel + bias)
        error = (scores / scores.sum(1, keepdims=True) - wanted) / len(x)
        speed = 0.9 * speed - 0.02 * (x.T @ error + decay * kernel)
        kernel, bias = kernel + speed, bias - 0.02 * error.sum(0)
    kernel = kernel / scale[:, None]
    return kernel, bias - mean @ kernel


if __name__ == "__main__":
    main()
