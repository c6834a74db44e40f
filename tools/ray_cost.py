"""What batch inference costs on Ray, in CPU seconds: `classify --out` alone, then one worker and two, on two CPUs.

    python tools/ray_cost.py MODEL.onnx ../shared/data/flower_photos --images 400

"CPU s" are of the processes that compute, from Python's start to the end; "of classify's" is that over those of
`classify --threads 1`.
"""

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from _tools import options, start

from inception_tf.errors import need


def main():
    parser = options(__doc__)
    parser.add_argument("model", help="what `inception-tf classify` takes")
    parser.add_argument("photographs", type=Path, help="a folder of them")
    parser.add_argument("--images", type=int, default=1000, help="how many (1000)")
    start(parser, run)


def run(args):
    need("ray", "ray", "This tool")
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        images = Path(scratch, "images")
        images.mkdir()
        for number, photograph in enumerate(sorted(args.photographs.rglob("*.jpg"))[: args.images]):
            (images / f"{number:05d}.jpg").symlink_to(photograph.resolve())

        def classify(*extra):
            """What the command says, and the CPU seconds of its process."""
            out, before = tempfile.mkdtemp(dir=scratch), ended()
            command = ["classify", args.model, images, "--json", "--out", out, *extra]
            command = [sys.executable, "-m", "inception_tf", *map(str, command)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            return json.loads(done.stdout), ended() - before

        for threads in (2, 1):
            found, alone = classify("--threads", threads)
            show(f"classify --threads {threads}", found, {"CPU s": alone})
        node = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 100_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        stack.callback(cluster.shutdown)
        for workers in (1, 2):
            before = ray_seconds()
            found, driver = classify("--ray", cluster.address, "--ray-workers", workers)
            seconds, own = found["ray"]["cpu_seconds"], ray_seconds() - before
            seconds = {"CPU s": seconds, "of classify's": seconds / alone, "Ray's own": own, "driver's": driver}
            show(f"Ray, {workers} workers", found, seconds)


def show(who, found, seconds):
    """Prints a row."""
    numbers = {name: round(value, 2) for name, value in {**seconds, "seconds": found["seconds"]}.items()}
    print(json.dumps({"who": who, "images": found["images"], **numbers}), flush=True)


def ended():
    """The CPU seconds of the processes of this one that have ended."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def ray_seconds():
    """The CPU seconds of Ray's processes that run, the workers left out."""
    import psutil  # which Ray brings

    seconds = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            if not process.name().startswith("ray::"):
                seconds += sum(process.cpu_times()[:2])
    return seconds


if __name__ == "__main__":
    main()
