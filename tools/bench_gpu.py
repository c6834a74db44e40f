"""Inception-v3 on a GPU or a CPU, inference and training steps: ours beside keras.applications and torch; as Markdown.

    python tools/bench_gpu.py [--batch 1,8,32,128,512] [--out NAME]
    python tools/bench_gpu.py --device cpu --modes full head --torch-python PYTHON
    python tools/bench_gpu.py --device cpu --small                            # tries the tool itself

- Inference: ours is Keras on JAX, and on TensorFlow with XLA, as built and fused (`fuse_for_inference`); torch's is
  timm's network: eager, channels_last, and channels_last compiled with mode="max-autotune" (on a CPU: the default).
- A training step: 5 classes, softmax cross entropy, dropout 0.2, batch norm frozen, RMSProp with momentum as Slim, of
  the whole network ("full") or of a new head. Ours is what `finetune` runs on every batch; keras.applications' is plain
  Keras. "ours Slim's recipe" is what `finetune` does by default where the network has its auxiliary head: that head's
  loss and L2 come on top. "ours on features" is the head alone without augmentation: the backbone has run before.
- Precisions: float32 proper, TF32, and bfloat16: weights too for inference; for training mixed, weights in float32.
- Images are random and on the device already. Compilation and warm-up are in the first answer and in no other column.
- Everything runs in a process of its own; processes take turns, on a CPU as many as memory allows, on a GPU up to batch
  64; what finds too little memory runs alone. "of matmul": multiply-adds of the network a second, over those of a large
  matrix product in that precision. Training counts three times those of inference.

What is not installed is left out, with a line that says so.
"""

from _tools import FORMS, add_peer_arguments, benchmark_parser, candidate, start, usable, wanted

from inception_tf.analysis.costs import cost_of
from inception_tf.benchmark.harness import Section, benchmark
from inception_tf.benchmark.report import Report
from inception_tf.benchmark.rounds import BenchmarkError, fitting
from inception_tf.cli.bench import settings

# By mode and name: the framework, its function in _keras_steps.py or _torch_steps.py, and that function's arguments.
TORCH_FORMS = {f"torch {form}": {"form": form} for form in FORMS}
INFERENCE = {
    **{name: ("torch", "inference", arguments) for name, arguments in TORCH_FORMS.items()},
    "ours JAX": ("jax", "inference", {}),
    "ours JAX fused": ("jax", "inference", {"fused": True}),
    "ours TensorFlow XLA": ("tensorflow", "inference", {}),
    "ours TensorFlow XLA fused": ("tensorflow", "inference", {"fused": True}),
}
TRAINING = {
    "keras.applications": ("tensorflow", "plain_keras", {}),
    "keras.applications XLA": ("tensorflow", "plain_keras", {"xla": True}),
    "keras.applications JAX": ("jax", "plain_keras", {}),
    "ours": ("tensorflow", "finetune", {}),
    "ours XLA": ("tensorflow", "finetune", {"xla": True}),
    "ours JAX": ("jax", "finetune", {}),
    "ours Slim's recipe": ("tensorflow", "finetune", {"aux_logits": True}),
    "ours on features": ("tensorflow", "finetune", {"on_features": True}),
    **{name: ("torch", "training", arguments) for name, arguments in TORCH_FORMS.items()},
}
MODES = {"inference": INFERENCE, "full": TRAINING, "head": TRAINING}
PRECISIONS = {"gpu": ("float32", "tf32", "bfloat16"), "cpu": ("float32", "bfloat16")}
# The side of the matrices; products in a call fill the device's queue.
MATMUL = {"gpu": (8192, 20), "cpu": (1024, 1)}


def main():
    parser = benchmark_parser(__doc__, batch="8,32", rounds=5, seconds=1.0)
    parser.add_argument("--device", choices=PRECISIONS, default="gpu", help="gpu or cpu (gpu)")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS["gpu"], help="some of them (cpu: float32)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="some of them (all)")
    parser.add_argument("--small", action="store_true", help="images of 107×107; without the column of matmul")
    add_peer_arguments(parser)
    start(parser, run)


def run(args):
    options, report = settings(args), Report("inception_v3")
    rows = {mode: {name: row for name, row in MODES[mode].items() if wanted(name, args.only)} for mode in args.modes}
    frameworks = [framework for chosen in rows.values() for framework, *_ in chosen.values()]
    frameworks = usable(args, dict.fromkeys(frameworks), report)
    keras = next((framework for framework in frameworks if framework != "torch"), None)
    if keras is None:
        lines = "\n".join(report.left_out)
        raise BenchmarkError(f"Nothing of Keras in --only runs on the {args.device}; --device cpu tries it.\n{lines}")

    def sections():
        for precision in args.precisions or (PRECISIONS["gpu"] if args.device == "gpu" else ["float32"]):
            side, count = MATMUL[args.device]
            options = {"precision": precision, "side": side, "count": count}
            matmul = candidate(args, "matmul", keras, "matmul", 2 * side**3 * count / 1e9, **options)
            for mode, chosen in rows.items():
                gflop = 2 * cost_of("inception_v3").multiply_adds / 1e9 * (1 if mode == "inference" else 3)
                gflop = None if mode == "head" or args.small else gflop
                for batch in args.batch:
                    found = list(candidates(args, chosen, frameworks, mode, precision, batch))
                    setting = {"mode": mode, "precision": precision, "batch": batch}
                    yield Section(setting, found, matmul, gflop, together(args, mode, batch))

    benchmark(report, sections(), **options)
    print(report.markdown())


def candidates(args, chosen, frameworks, mode, precision, batch):
    """Those of a section; on a GPU they take as many steps in a call as fill its queue."""
    count = max(1, 256 // batch) if args.device == "gpu" else 1
    common = {"precision": precision, "batch": batch, "size": 107 if args.small else 299, "count": count}
    common |= {"classes": 1000} if mode == "inference" else {"classes": 5, "part": mode, "rate": 1e-4}
    for name, (framework, function, arguments) in chosen.items():
        if framework in frameworks and (mode == "head" or "on_features" not in arguments):
            yield candidate(args, name, framework, function, batch * count, **common, **arguments)


def together(args, mode, batch):
    """How many processes take turns: on a GPU all or one, on a CPU as many as memory is there for, roughly."""
    if args.device == "gpu":
        return None if batch <= 64 else 1
    return fitting(2e9 + batch * (0.15e9 if mode == "full" else 0.05e9))


if __name__ == "__main__":
    main()
