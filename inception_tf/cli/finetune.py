"""Train a network on your photographs: class folders or TFRecords, from a checkpoint's weights.

The same command goes on where a run was killed. `classify`, `evaluate` and `export` take the run's directory as MODEL.
"""

from inception_tf.cli.outcome import Outcome

KERAS = False  # what watches workers needs none


def add_arguments(parser):
    parser.add_argument("--data", required=True, nargs="+", metavar="PATH", help="class folders, or TFRecords")
    parser.add_argument("--val", nargs="+", metavar="PATH", help="validation images (default: a part of the data)")
    parser.add_argument("--val-fraction", type=float, default=0.2, help="the part held out for validation (0.2)")
    parser.add_argument("--labels", metavar="FILE", help="the class names, a line each (default: the folders')")
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
    parser.add_argument("--recipe", metavar="FILE", help="a YAML recipe; options below replace what it says")
    parser.add_argument("--devices", type=int, help="GPUs that take part of every batch each (all)")
    parser.add_argument(
        "--workers", metavar="N", help="train in N processes of this machine, or in one on each HOST:PORT,HOST:PORT,…"
    )
    parser.add_argument("--worker", type=int, metavar="I", help="which of those hosts this is, from 0")
    parser.add_argument("--save-seconds", type=float, default=300, help="save the state this often (300)")
    parser.add_argument("--save-steps", type=int, help="and after so many steps")
    parser.add_argument("--no-report", action="store_true", help="do not evaluate and draw at the end")
    group = parser.add_argument_group("recipe")
    for name, options in _RECIPE.items():
        group.add_argument("--" + name.replace("_", "-"), default=None, **options)


_RECIPE = {
    "epochs": {"metavar": "N[,N]", "help": "of each phase: heads alone, then all (10,5); a single N trains all"},
    "learning_rate": {"metavar": "X[,X]", "help": "of each phase (0.01,0.0001 for rmsprop)"},
    "train": {"metavar": "GLOBS", "help": "scopes that the last phase trains, such as 'Mixed_7*,heads' (all)"},
    "freeze": {"metavar": "GLOBS", "help": "scopes that no phase trains, such as 'Conv2d_*,Mixed_5*'"},
    "batch_size": {"type": int, "help": "images a step (32)"},
    "size": {"type": int, "help": "side of the images (the network's)"},
    "optimizer": {"help": "rmsprop, sgd, adam, adamw or lion (rmsprop, as Slim)"},
    "schedule": {"help": "constant, exponential, polynomial or cosine (constant)"},
    "warmup_epochs": {"type": float, "help": "of each phase (0)"},
    "bn": {"metavar": "MODE", "help": "batch norm: frozen, train or recalibrate (frozen below 5000 images)"},
    "bn_momentum": {"type": float, "help": "of batch norm's moving statistics (by the number of steps)"},
    "augment": {"metavar": "MODE[,MODE]", "help": "Slim's training preprocessing: fast, full or none (fast)"},
    "label_smoothing": {"type": float, "help": "share of the labels spread over all classes (0)"},
    "class_weights": {"choices": ("balanced",), "help": "weigh rare classes up"},
    "aux_loss": {"type": float, "help": "factor on the auxiliary head's loss (0.4)"},
    "l2": {"type": float, "help": "on the kernels of convolutions (4e-5)"},
    "dropout": {"type": float, "help": "rate before the classifier (the network's)"},
    "ema": {"type": float, "help": "decay of the moving averages of the weights (none)"},
    "accumulate": {"type": int, "help": "steps whose gradients make one update (1)"},
    "clip": {"type": float, "help": "largest norm of the gradients (none)"},
    "mixup": {"type": float, "help": "alpha of mixup (0: none)"},
    "precision": {"help": "float32, mixed_bfloat16 or mixed_float16 (float32)"},
    "xla": {"action": "store_true", "help": "compile the step with XLA"},
    "seed": {"type": int, "help": "of weights, data order, augmentation, dropout (0)"},
}


def run(args):
    from inception_tf.errors import UsageError
    from inception_tf.training import workers

    if workers.is_worker():
        return workers.report(lambda: vars(_train(args)))
    if args.workers is None:
        if args.worker is not None:
            raise UsageError("--worker goes with --workers HOST:PORT,HOST:PORT,….")
        return _train(args)
    plan = workers.plan(args.workers, args.worker)
    batch = _recipe(args, args.weights != "none").batch_size
    if batch % plan.count:
        raise UsageError(f"A batch of {batch} cannot be shared by {plan.count} workers equally. Change --batch-size.")
    result = workers.start(plan, _this_command(), args.out, args.debug)
    return Outcome(**result) if result else Outcome(f"Written: {args.out}, by the first worker", {"run": str(args.out)})


def _this_command():
    """The command that this process runs, to run it once more: however Python was started, and found its modules."""
    import sys

    start = f"import sys; sys.path, sys.argv[0] = {sys.path!r}, {sys.argv[0]!r}\n"
    return [sys.executable, "-c", start + "from inception_tf.cli.main import main; sys.exit(main())", *sys.argv[1:]]


def _train(args):
    import sys
    from pathlib import Path

    from inception_tf.quiet import start_keras

    start_keras()
    from inception_tf.training.finetune import finetune

    def say(line):
        print(line, file=sys.stderr, flush=True)

    weights = None if args.weights == "none" else args.weights
    result = finetune(
        weights,
        _one(args.data),
        _one(args.val),
        _recipe(args, weights is not None),
        args.out,
        network=args.network,
        labels=args.labels,
        labels_offset=args.labels_offset,
        val_fraction=args.val_fraction,
        new_head=args.new_head,
        devices=args.devices,
        save_seconds=args.save_seconds,
        save_steps=args.save_steps,
        say=say,
        command=sys.argv,
        report=not args.no_report,
        **{name: value for name, value in (("scope", args.scope), ("ema", args.load_ema)) if value},
    )
    data = {"run": str(args.out), "best": result.best, "history": result.history, "skipped": result.skipped}
    return Outcome(f"{result}\nWritten: {Path(args.out)}", data)


def _one(paths):
    return paths[0] if paths and len(paths) == 1 else paths


def _recipe(args, pretrained):
    """The recipe of --recipe, with what the other options say."""
    import dataclasses
    from pathlib import Path

    from inception_tf.training.recipe import ONE_PHASE, TWO_PHASES, Recipe

    recipe = Recipe.from_yaml(Path(args.recipe)) if args.recipe else Recipe()
    given = {name: getattr(args, name) for name in _RECIPE}
    given["xla"] = args.xla or None
    per_phase = {name: given.pop(name) for name in ("epochs", "learning_rate", "train")}
    if args.augment and "," in args.augment:
        per_phase["augment"] = given.pop("augment")
    renamed = {"bn": "batch_norm", "bn_momentum": "batch_norm_momentum"}
    given = {renamed.get(name, name): value for name, value in given.items() if value is not None}
    if "freeze" in given:
        given["freeze"] = given["freeze"].split(",")
    if any(per_phase.values()):
        phases = list(recipe.phases or (TWO_PHASES if pretrained else ONE_PHASE))
        given["phases"] = _phases(phases, **per_phase)
    return dataclasses.replace(recipe, **given)


def _phases(phases, epochs, learning_rate, train, augment=None):
    import dataclasses

    from inception_tf.errors import UsageError

    if train:
        phases[-1] = dataclasses.replace(phases[-1], train=tuple(train.split(",")))
    values = {
        "epochs": _numbers("--epochs", epochs, int),
        "learning_rate": _numbers("--learning-rate", learning_rate, float),
        "augment": augment and augment.split(","),
    }
    if values["epochs"] and len(values["epochs"]) == 1:
        phases = phases[-1:]
    for name, given in values.items():
        if given and len(given) != len(phases):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} has a value for each of the {len(phases)} phases. Received: {given}")
    left_out = [i for i, count in enumerate(values["epochs"] or ()) if count == 0]
    return [
        dataclasses.replace(phase, **{name: given[i] for name, given in values.items() if given})
        for i, phase in enumerate(phases)
        if i not in left_out
    ]


def _numbers(option, text, kind):
    from inception_tf.errors import UsageError

    try:
        return [kind(part) for part in text.split(",")] if text else None
    except ValueError:
        raise UsageError(f"{option} is a number, or one a phase with commas between. Received: {text!r}") from None
