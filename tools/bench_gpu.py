"""Inception-v3 on a GPU or a CPU, inference and training steps: ours beside keras.applications and torch; as Markdown.

    python tools/bench_gpu.py --minutes 6 [--out NAME]                        # the important first
    python tools/bench_gpu.py --device cpu --modes full head --torch-python PYTHON
    python tools/bench_gpu.py --device cpu --small                            # tries the tool itself

- Inference: ours is Keras on JAX, and on TensorFlow with XLA, as built and fused (`fuse_for_inference`; on JAX by plain
  JAX, as `classify` runs it); torch's is timm's network: eager, channels_last, and channels_last compiled, in
  torch.compile's default mode, with CUDA graphs (mode="reduce-overhead", batch 1) and with mode="max-autotune" (last).
- A training step: 5 classes, softmax cross entropy, dropout 0.2, batch norm frozen, RMSProp with momentum as Slim, of
  the whole network ("full") or of a new head. Ours is what `finetune` runs on every batch; keras.applications' is plain
  Keras. "ours Slim's recipe" is what `finetune` does by default where the network has its auxiliary head: that head's
  loss and L2 come on top. "ours on features" is the head alone without augmentation: the backbone has run before.
- Precisions: float32 proper, TF32, and bfloat16: weights too for inference; for training mixed, weights in float32.
- Images are random and on the device already. Compilation and warm-up are in the first answer and in no other column.
- `--only` takes a row of one mode too, such as "full ours JAX".
- A framework is one process, and its networks take turns with the others'. A row is printed on standard error, and
  saved, after its first turn; the medians follow. "of matmul": multiply-adds of the network a second, over those of a
  large matrix product in that precision. Training counts three times those of inference.

What is not installed, or found no time, is left out, with a line that says so.
"""

import contextlib
import math
import sys
import threading
import time

from _tools import FORMS, add_peer_arguments, benchmark_parser, candidate, start, usable, wanted

from inception_tf.analysis.costs import cost_of
from inception_tf.benchmark.harness import Section
from inception_tf.benchmark.report import Report, write
from inception_tf.benchmark.rounds import BenchmarkError, Guest, Result, turn
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
TUNED = {
    "ours JAX fused": INFERENCE["ours JAX fused"],
    "torch max-autotune": ("torch", "inference", {"form": "max-autotune"}),
}
MODES = {"inference": INFERENCE, "full": TRAINING, "head": TRAINING}
# By device, in the order of their rows.
PRECISIONS = {"gpu": ("bfloat16", "tf32", "float32"), "cpu": ("float32",)}
BATCHES = {"gpu": {"inference": (256, 32, 1), "full": (128,), "head": (128,)}, "cpu": dict.fromkeys(MODES, (8, 32))}
# The side of the matrices; products in a call fill the device's queue.
MATMUL = {"gpu": (8192, 20), "cpu": (1024, 1)}


def main():
    parser = benchmark_parser(__doc__, batch="1", rounds=5, seconds=0.5)
    parser.set_defaults(batch=None)
    parser.add_argument("--device", choices=PRECISIONS, default="gpu", help="gpu or cpu (gpu)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="the time it has; it stops then (no limit)")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS["gpu"], help="some of them (cpu: float32)")
    parser.add_argument("--modes", nargs="+", choices=MODES, help="some of them (all; gpu: inference full)")
    parser.add_argument("--small", action="store_true", help="images of 107×107; without the column of matmul")
    add_peer_arguments(parser)
    start(parser, run)


def run(args):
    deadline, batches = time.monotonic() + 60 * args.minutes, args.batch
    args.batch = batches or sizes("1")
    options, report = settings(args), Report("inception_v3")
    modes = args.modes or (list(MODES) if args.device == "cpu" else ["inference", "full"])
    rows = {
        mode: {
            name: row
            for name, row in MODES[mode].items()
            if wanted(name, args.only) or wanted(f"{mode} {name}", args.only)
        }
        for mode in modes
    }
    if args.device == "gpu":
        rows = {
            mode: {name: row for name, row in found.items() if name != "torch eager"} for mode, found in rows.items()
        }
    frameworks = dict.fromkeys(framework for chosen in rows.values() for framework, *_ in chosen.values())
    with contextlib.ExitStack() as stack:
        children = usable(args, frameworks, report, stack)
        if not set(children) - {"torch"}:
            lines = "\n".join(report.left_out)
            raise BenchmarkError(
                f"Nothing of Keras in --only runs on the {args.device}; --device cpu tries it.\n{lines}"
            )
        if deadline < math.inf:
            timer = threading.Timer(deadline - time.monotonic(), lambda: [child.kill() for child in children.values()])
            timer.daemon = True
            timer.start()
        for section in sections(args, rows, batches, children):
            if time.monotonic() < deadline:
                measure(section, children, report, options, args.device, deadline)
            else:
                report.left_out.append(f"{section.title}: no time was left")
    if not report.sections:
        raise BenchmarkError("\n".join(["Nothing could be measured.", *report.left_out]))
    if options["out"]:
        write(report, options["out"], overwrite=True)
    print(report.markdown())


def sections(args, rows, batches, children):
    """A `Section` for each precision, mode and batch, in that order; what is tuned for minutes comes last."""
    gpu = args.device == "gpu"
    settings = [
        ({"mode": mode, "precision": precision, "batch": batch}, rows[mode])
        for precision in args.precisions or PRECISIONS[args.device]
        for mode in rows
        for batch in batches or BATCHES[args.device][mode]
    ]
    if gpu:
        tuned = {name: row for name, row in TUNED.items() if wanted(name, args.only)}
        settings += [
            ({**setting, "tuned": "max-autotune"}, tuned)
            for setting, _ in settings
            if (setting["mode"], setting["precision"]) == ("inference", "bfloat16") and "torch max-autotune" in tuned
        ]
    keras = next(framework for framework in children if framework != "torch")
    side, count = MATMUL[args.device]
    for setting, chosen in settings:
        mode, precision, batch = (setting[key] for key in ("mode", "precision", "batch"))
        work = 2 * side**3 * count / 1e9
        limit = candidate(args, "matmul", keras, "matmul", work, precision=precision, side=side, count=count)
        gflop = 2 * cost_of("inception_v3").multiply_adds / 1e9 * (1 if mode == "inference" else 3)
        # On a GPU as many steps in a call as fill its queue.
        count_of_steps = max(1, 256 // batch) if gpu else 1
        common = {"precision": precision, "batch": batch, "size": 107 if args.small else 299, "count": count_of_steps}
        common |= {"classes": 1000} if mode == "inference" else {"classes": 5, "part": mode, "rate": 1e-4}
        found = [
            candidate(args, name, framework, function, batch * count_of_steps, **common, **arguments)
            for name, (framework, function, arguments) in chosen.items()
            if framework in children
            and (mode == "head" or "on_features" not in arguments)
            and (batch == 1 and gpu or arguments.get("form") != "graphs")
        ]
        if found:
            yield Section(setting, found, limit, None if mode == "head" or args.small else gflop)


def measure(section, children, report, options, device, deadline):
    """Fills a section: a row is there after its first turn; the others' turns come round after round."""
    report.sections.append(section)
    section.results.append({})
    attempts = 1 if device == "gpu" else 4

    def take(guest, result):
        if time.monotonic() >= deadline:
            return False
        try:
            turn(guest, result, options["seconds"], attempts)
        except BenchmarkError as error:
            report.left_out.append(f"{section.title}: {error}")
            return False
        section.results[0][result.name] = result
        return True

    running = []
    for one in (section.limit, *section.candidates):
        if time.monotonic() >= deadline:
            report.left_out.append(f"{section.title}: {one.name}: no time was left")
            continue
        try:
            guest = Guest(children[one.environment["KERAS_BACKEND"]], one)
        except BenchmarkError as error:
            report.left_out.append(f"{section.title}: {error}")
            continue
        pair = guest, Result(one, guest.first, facts=guest.facts)
        if take(*pair):
            running.append(pair)
            show(section, pair[1], report, options)
    for number in range(1, options["rounds"]):
        first = number % max(len(running), 1)
        running = [pair for pair in running[first:] + running[:first] if take(*pair)] or running
    for child in children.values():
        with contextlib.suppress(BenchmarkError):
            child.ask([])
    if not section.data()["engines"]:
        report.sections.remove(section)
    elif options["out"]:
        write(report, options["out"], overwrite=True, picture=False)


def show(section, result, report, options):
    """Prints and saves what is there after a row's first turn."""
    text = f"{section.title}: {result.name}: {result.speed:,.0f} {'GFLOP' if result.name == 'matmul' else 'images'}/s"
    row = next((row for row in section.data()["engines"] if row["engine"] == result.name), {})
    text += f", {row['of_matmul']:.1%} of matmul" if row.get("of_matmul") else ""
    facts = "".join(f", {name} {value}" for name, value in result.facts.items())
    print(f"{text}, first answer {result.first:.1f} s{facts}", file=sys.stderr, flush=True)
    if options["out"] and section.data()["engines"]:
        write(report, options["out"], overwrite=True, picture=False)


if __name__ == "__main__":
    main()
