"""Train a network on your photographs, from a checkpoint's weights.

The same command resumes a run that was killed. `classify`, `evaluate` and `export` take the run's directory as MODEL.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from inception_tf.cli.outcome import Outcome
from inception_tf.errors import UsageError
from inception_tf.training.deployment import FORMS, deployment
from inception_tf.training.recipe import BOOL, COMMON, ONE_PHASE, TWO_PHASES, Recipe, describe

KERAS = False  # the process that watches workers needs none


def add_arguments(parser):
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="PATH",
        help="class folders; CSV or Parquet of paths and a label, or labels with | between; WebDataset's .tar; "
        "TFRecords; hf:NAME; tfds:NAME",
    )
    parser.add_argument("--val", nargs="+", metavar="PATH", help="validation images (default: a part of the data)")
    parser.add_argument("--val-fraction", type=float, default=0.2, help="the part held out for validation (0.2)")
    parser.add_argument("--labels", metavar="FILE", help="the class names, one per line (default: the folders')")
    parser.add_argument("--labels-offset", type=int, default=0, help="subtracted from the labels in TFRecords (0)")
    parser.add_argument(
        "--weights",
        default="imagenet",
        metavar="WEIGHTS",
        help="a Slim checkpoint, a .keras file, a run's directory, a published name, or none (imagenet)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the run's directory")
    parser.add_argument("--network", help="the network (detected, or inception_v3)")
    parser.add_argument("--scope", help="the variable scope in a Slim checkpoint, when detection is not to decide")
    parser.add_argument(
        "--load-ema", choices=("auto", "require", "ignore"), help="moving averages in a Slim checkpoint"
    )
    parser.add_argument(
        "--new-head", action="store_true", help="new heads, although there are as many classes as before"
    )
    parser.add_argument(
        "--recipe",
        metavar="FILE",
        help="a YAML recipe, or slim or modern; the options below override it (modern for a new head of Inception-v3 "
        "on few images and one device, if no option below is given but "
        f"--{', --'.join(sorted(COMMON)).replace('_', '-')}; else slim)",
    )
    parser.add_argument("--devices", type=int, help="GPUs that share every batch (all)")
    parser.add_argument(
        "--workers",
        metavar="N",
        help="train in N processes of this machine, in one on each of HOST:PORT,HOST:PORT,…, or in those that Slurm, "
        "Open MPI or Kubernetes started (auto)",
    )
    parser.add_argument("--worker", type=int, metavar="I", help="which of those hosts this is, from 0")
    parser.add_argument(
        "--print",
        choices=FORMS,
        dest="form",
        help="print a file that runs this command on as many machines as --workers says (2) instead of training",
    )
    parser.add_argument("--save-seconds", type=float, default=300, help="save the state this often (300)")
    parser.add_argument("--save-steps", type=int, help="and after so many steps")
    parser.add_argument("--no-report", action="store_true", help="do not evaluate and draw at the end")
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write the metrics for TensorBoard, which the extra tensorboard brings",
    )
    group = parser.add_argument_group("recipe")
    group.add_argument("--epochs", metavar="N[,N]", help="of each phase (10,5); a single N trains everything")
    group.add_argument("--learning-rate", metavar="X[,X]", help="of each phase (0.01,0.0001 for rmsprop)")
    group.add_argument("--train", metavar="GLOBS", help="scopes that the last phase trains, as Mixed_7*,heads (all)")
    for field in _OPTIONS:
        names = [f"--{name.replace('_', '-')}" for name in (field.name, field.metadata["alias"]) if name]
        parse = field.metadata["rule"].parse
        if field.name == "augment":  # one for each phase, perhaps
            kind = {"metavar": "MODE[,MODE]"}
        else:
            kind = {"action": "store_true"} if parse is BOOL.parse else {"type": parse, "metavar": "VALUE"}
        group.add_argument(*names, dest=field.name, default=None, help=describe(field), **kind)


_OPTIONS = [field for field in dataclasses.fields(Recipe) if field.metadata["rule"].parse]


def run(args):
    from inception_tf.training import workers

    if workers.is_worker():
        return workers.report(lambda: vars(_train(args)))
    if args.form:
        return _print(args)
    if args.workers is None:
        if args.worker is not None:
            raise UsageError("--worker goes with --workers HOST:PORT,HOST:PORT,….")
        return _train(args)
    cluster = workers.Cluster.parse(args.workers, args.worker)
    _check_batch(args, cluster.count)
    result = workers.start(cluster, _this_command(), args.out, args.debug)
    return Outcome(**result) if result else Outcome(f"Written: {args.out}, by the first worker", {"run": str(args.out)})


def _check_batch(args, workers):
    recipe = _recipe(args)
    batch = (Recipe(**recipe) if isinstance(recipe, dict) else recipe).batch_size
    if workers and batch % workers:
        raise UsageError(f"A batch of {batch} cannot be split among {workers} workers. Change --batch-size.")


def _print(args):
    count = args.workers or "2"
    if not count.isdecimal() or int(count) < 2 or args.worker is not None:
        raise UsageError(f"With --print, --workers is a number of machines from 2. Received: {count!r}")
    _check_batch(args, int(count))
    own = argparse.ArgumentParser(add_help=False)  # what is not for the command that the file runs
    for option in ("--print", "--workers"):
        own.add_argument(option)
    text = deployment(args.form, own.parse_known_args(sys.argv[1:])[1], int(count))
    return Outcome(text.rstrip("\n"), {"form": args.form, "text": text})


def _this_command():
    """The command that this process runs, to run it once more, however Python was started and found its modules."""
    start = f"import sys; sys.path, sys.argv[0] = {sys.path!r}, {sys.argv[0]!r}\n"
    return [sys.executable, "-c", start + "from inception_tf.cli.main import main; sys.exit(main())", *sys.argv[1:]]


def _train(args):
    from inception_tf.quiet import start_keras

    start_keras()
    from inception_tf.training.finetune import finetune

    result = finetune(
        None if args.weights == "none" else args.weights,
        _one(args.data),
        _one(args.val),
        _recipe(args),
        args.out,
        network=args.network,
        labels=args.labels,
        labels_offset=args.labels_offset,
        val_fraction=args.val_fraction,
        new_head=args.new_head,
        devices=args.devices,
        save_seconds=args.save_seconds,
        save_steps=args.save_steps,
        log=lambda line: None if args.quiet else print(line, file=sys.stderr, flush=True),
        command=sys.argv,
        report=not args.no_report,
        tensorboard=args.tensorboard,
        **{name: value for name, value in (("scope", args.scope), ("ema", args.load_ema)) if value},
    )
    data = {"run": str(args.out), "best": result.best, "history": result.history, "skipped": result.skipped}
    return Outcome(f"{result}\nWritten: {Path(args.out)}", data)


def _one(paths):
    return paths[0] if paths and len(paths) == 1 else paths


def _recipe(args):
    """The recipe of --recipe, overridden by the other options; a dict of what goes with any, where that is all."""
    recipe = Recipe.from_yaml(Path(args.recipe)) if args.recipe else Recipe()
    if args.augment and recipe.phases:
        phases = [dataclasses.replace(phase, augment=None) for phase in recipe.phases]
        recipe = dataclasses.replace(recipe, phases=phases)
    values = {field.name: getattr(args, field.name) for field in _OPTIONS}
    values = {name: value for name, value in values.items() if value is not None}
    per_phase = {"epochs": _split("--epochs", args.epochs, int)}
    per_phase["learning_rate"] = _split("--learning-rate", args.learning_rate, float)
    per_phase["augment"] = values.pop("augment").split(",") if "," in (args.augment or "") else None
    if not args.recipe and set(values) <= COMMON and not args.train and not any(per_phase.values()):
        return values
    if args.train or any(per_phase.values()):
        phases = recipe.phases or (ONE_PHASE if args.weights == "none" else TWO_PHASES)
        values["phases"] = _phases(phases, args.train, per_phase)
    return dataclasses.replace(recipe, **values)


def _phases(phases, train, per_phase):
    """The phases with the options that have a value for each; those of 0 epochs left out."""
    if train:
        phases = (*phases[:-1], dataclasses.replace(phases[-1], train=train.split(",")))
    epochs = per_phase.pop("epochs") or [phase.epochs for phase in phases]
    if len(epochs) == 1:
        phases = phases[-1:]
    columns = {"epochs": epochs, **{name: values for name, values in per_phase.items() if values}}
    for name, values in columns.items():
        if len(values) != len(phases):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} has a value for each of the {len(phases)} phases. Received: {values}")
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    return [dataclasses.replace(phase, **row) for phase, row in zip(phases, rows) if row["epochs"]]


def _split(option, text, parse):
    try:
        return [parse(part) for part in text.split(",")] if text else None
    except ValueError:
        raise UsageError(f"{option} is a number, or one per phase with commas between. Received: {text!r}") from None
