"""Inception-v3 on a GPU or a CPU, inference and training steps: ours beside keras.applications and torch; as Markdown.

    python tools/bench_gpu.py --minutes 6 [--out NAME]                        # the important first
    python tools/bench_gpu.py --device cpu --modes full head --torch-python PYTHON
    python tools/bench_gpu.py --device cpu --small                            # tries the tool itself

- Inference: ours is Keras on JAX, and on TensorFlow with XLA, as built and fused (`fuse_for_inference`; on JAX by plain
  JAX, as `classify` runs it); torch's is timm's network: eager, channels_last, and channels_last compiled, in
  torch.compile's default mode and with CUDA graphs (mode="reduce-overhead", batch 1).
- A training step: 5 classes, softmax cross entropy, dropout 0.2, batch norm frozen, RMSProp with momentum as Slim, of
  the whole network ("full") or of a new head. Ours is what `finetune` runs on every batch; keras.applications' is plain
  Keras. "ours Slim's recipe" is what `finetune --recipe slim` does where the network has its auxiliary head:
  that head's loss and L2 come on top. "ours on features" is the head alone without augmentation: the backbone has run
  before.
- A GPU computes in bfloat16, weights too for inference (for training they are float32); a CPU in float32.
- Images are random and on the device already. Compilation and warm-up are in the first answer and in no other column.
- `--only` takes a row of one mode too, such as "full ours JAX". "of matmul": multiply-adds of the network a second, of
  those of a large matrix product in that precision. Training counts three times those of inference.

What is not installed, or found no time, is left out, with a line that says so.
"""

import math
import time

from _tools import FORMS, benchmark_options, candidate, start, usable, wanted

from inception_tf.analysis.costs import cost_of
from inception_tf.benchmark.harness import Section, benchmark
from inception_tf.benchmark.report import Report
from inception_tf.benchmark.rounds import BenchmarkError, fitting
from inception_tf.cli.bench import settings
from inception_tf.cli.export import sizes

# By mode and name: the framework, its function in _keras_steps.py or _torch_steps.py, and that function's arguments.
INFERENCE = {
    "ours JAX fused": ("jax", "inference", {"fused": True}),
    "torch compiled": ("torch", "inference", {"form": "compiled"}),
    "torch CUDA graphs": ("torch", "inference", {"form": "graphs"}),
    "ours JAX": ("jax", "inference", {}),
    "torch channels_last": ("torch", "inference", {"form": "channels_last"}),
    "torch eager": ("torch", "inference", {"form": "eager"}),
    "ours TensorFlow XLA": ("tensorflow", "inference", {}),
    "ours TensorFlow XLA fused": ("tensorflow", "inference", {"fused": True}),
}
TRAINING = {
    "ours JAX": ("jax", "finetune", {}),
    **{f"torch {form}": ("torch", "training", {"form": form}) for form in reversed(FORMS)},
    "keras.applications JAX": ("jax", "plain_keras", {}),
    "keras.applications": ("tensorflow", "plain_keras", {}),
    "keras.applications XLA": ("tensorflow", "plain_keras", {"xla": True}),
    "ours": ("tensorflow", "finetune", {}),
    "ours XLA": ("tensorflow", "finetune", {"xla": True}),
    "ours Slim's recipe": ("tensorflow", "finetune", {"aux_logits": True}),
    "ours on features": ("tensorflow", "finetune", {"on_features": True}),
}
MODES = {"inference": INFERENCE, "full": TRAINING, "head": TRAINING}
# By device. The side of the matrices; products in a call fill the device's queue.
PRECISIONS = {"gpu": "bfloat16", "cpu": "float32"}
BATCHES = {"gpu": {"inference": (256, 32, 1), "full": (128,), "head": (128,)}, "cpu": dict.fromkeys(MODES, (8, 32))}
MATMUL = {"gpu": (8192, 20), "cpu": (1024, 1)}


def main():
    parser = benchmark_options(__doc__, peers=True, batch="1", rounds=5, seconds=0.5)
    parser.set_defaults(batch=None)
    parser.add_argument("--device", choices=PRECISIONS, default="gpu", help="gpu or cpu (gpu)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after these no batch size begins (no limit)")
    parser.add_argument("--modes", nargs="+", choices=MODES, help="some of them (all; gpu: inference full)")
    parser.add_argument("--small", action="store_true", help="images of 107×107; without the column of matmul")
    start(parser, run)


def run(args):
    deadline, batches = time.monotonic() + 60 * args.minutes, args.batch
    args.batch = batches or sizes("1")
    options, report, gpu = settings(args), Report("inception_v3"), args.device == "gpu"
    rows = {
        mode: {
            name: row
            for name, row in MODES[mode].items()
            if (wanted(name, args.only) or wanted(f"{mode} {name}", args.only)) and not (gpu and name == "torch eager")
        }
        for mode in args.modes or (["inference", "full"] if gpu else MODES)
    }
    frameworks = dict.fromkeys(framework for chosen in rows.values() for framework, *_ in chosen.values())
    frameworks = usable(args, frameworks, report)
    if not set(frameworks) - {"torch"}:
        lines = "\n".join(report.left_out)
        raise BenchmarkError(f"Nothing of Keras in --only runs on the {args.device}; --device cpu tries it.\n{lines}")

    def sections():
        for mode, chosen in rows.items():
            for batch in batches or BATCHES[args.device][mode]:
                if time.monotonic() < deadline:
                    yield section(args, mode, batch, chosen, frameworks)
                else:
                    report.left_out.append(f"{mode}, batch {batch}: no time was left")

    benchmark(report, sections(), **options)
    print(report.markdown())


def section(args, mode, batch, chosen, frameworks):
    gpu, precision = args.device == "gpu", PRECISIONS[args.device]
    keras, (side, products) = next(one for one in frameworks if one != "torch"), MATMUL[args.device]
    work = 2 * side**3 * products / 1e9
    limit = candidate(args, "matmul", keras, "matmul", work, precision=precision, side=side, count=products)
    gflop = 2 * cost_of("inception_v3").multiply_adds / 1e9 * (1 if mode == "inference" else 3)
    count = max(1, 256 // batch) if gpu else 1  # as many steps in a call as fill a GPU's queue
    common = {"precision": precision, "batch": batch, "size": 107 if args.small else 299, "count": count}
    common |= {"classes": 1000} if mode == "inference" else {"classes": 5, "part": mode, "rate": 1e-4}
    found = [
        candidate(args, name, framework, function, batch * count, **common, **arguments)
        for name, (framework, function, arguments) in chosen.items()
        if framework in frameworks
        and (mode == "head" or "on_features" not in arguments)
        and (batch == 1 and gpu or arguments.get("form") != "graphs")
    ]
    setting, gflop = {"mode": mode, "precision": precision, "batch": batch}, gflop if mode != "head" else None
    together = None if gpu else max(4, fitting(2e9 + 1.5e8 * batch) or 4)
    return Section(setting, found, limit, None if args.small else gflop, together)


if __name__ == "__main__":
    main()
