"""What batch inference on Ray survives: faults on a cluster of raylets on this machine, and what comes out.

    python tests/inference/ray_faults.py MODEL.onnx ../shared/data/flower_photos --images 1000

Each fault is a job of its own over the photographs and bad files: truncated, empty, a text, a header of 50,000×50,000
pixels, and one at which the process that decodes it aborts. It prints rows out, twice, lost, wrong, and seconds.
`test_ray.py` runs them too.
"""

import argparse
import collections
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest.mock
import zlib
from pathlib import Path

FAULTS = ("none", "worker", "raylet, none to spare", "driver", "disk full", "raylet, CPUs to spare")
ABORT = b"abort here"  # at the end of a file: the decoder's process is to die of it
# In each of the cluster's workers: the decoder's substitute, which leaves a byte for every image it was given, and
# holds where a file says after how many, so that a fault comes in the middle of the job however fast that is.
HOOK = f"""
import os, sys, time
if any("default_worker" in argument for argument in sys.orig_argv):
    from inception_tf.images import decoding
    real = decoding._open
    def substitute(data, max_pixels):
        with open(os.environ["RAY_FAULTS_TRACE"], "ab") as trace:
            trace.write(b".")
        try:
            while os.path.getsize(trace.name) >= int(open(os.environ["RAY_FAULTS_HOLD"]).read()):
                time.sleep(0.02)
        except OSError:
            pass
        if data.endswith({ABORT!r}):
            os.abort()
        return real(data, max_pixels)
    decoding._open = substitute
"""


def write_images(folder, photographs, bad=20):
    """Links to photographs, and `bad` files that are none: a dict from the paths of these to their kind."""
    folder.mkdir(parents=True)
    for number, photograph in enumerate(photographs):
        (folder / f"{number:05d}.jpg").symlink_to(photograph.resolve())
    whole = photographs[0].read_bytes()
    size = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))
    contents = {
        "truncated": whole[: len(whole) // 3],
        "empty": b"",
        "text": b"This is no image.",
        "huge": b"\x89PNG\r\n\x1a\n" + chunk,
    }
    kinds = ["abort", *list(contents) * bad][:bad]
    for number, kind in enumerate(kinds):
        name = f"{number * len(photographs) // bad:05d}-{kind}.jpg"  # between the photographs
        (folder / name).write_bytes(contents.get(kind, whole + ABORT))
    return {str(path): path.stem.split("-")[1] for path in folder.glob("*-*.jpg")}


class Raylets:
    """A Ray cluster of processes on this machine: two raylets of a CPU each. A context manager.

    Attributes:
        address: for `RayPool`.
        trace: the file with a byte for each image that a decoder was given.
    """

    def __init__(self, folder):
        self.trace, self.hold = folder / "trace", folder / "hold"
        (folder / "hook").mkdir(parents=True, exist_ok=True)
        (folder / "hook/sitecustomize.py").write_text(HOOK)
        root = str(Path(__file__).resolve().parents[2])
        self.environment = {
            "PYTHONPATH": os.pathsep.join([str(folder / "hook"), root]),
            "RAY_FAULTS_TRACE": str(self.trace),
            "RAY_FAULTS_HOLD": str(self.hold),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",  # whatever else this machine's memory is used for
        }

    def __enter__(self):
        self._patch = unittest.mock.patch.dict(os.environ, self.environment)  # Ray's processes inherit it
        self._patch.start()
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100_000_000}
        self._cluster = Cluster(initialize_head=True, head_node_args=options)
        self.fill(2)
        self.address = self._cluster.address
        return self

    def __exit__(self, *_):
        self._cluster.shutdown()
        self._patch.stop()

    def fill(self, count):
        """Adds raylets of a CPU until there are `count`."""
        while len(self._cluster.list_all_nodes()) < count:
            self._cluster.add_node(num_cpus=1, object_store_memory=100_000_000)

    def workers(self):
        """A dict from the ids of the processes that work on images to those of their raylets."""
        raylets, found = {node.all_processes["raylet"][0].process.pid for node in self._cluster.list_all_nodes()}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in raylets and (folder / "cmdline").read_bytes().startswith(b"ray::_Worker"):
                    found[int(folder.name)] = parent
            except OSError:
                continue
        return found

    def kill_raylet(self):
        """Kills a raylet that is not the driver's, and that has a worker."""
        head = self._cluster.head_node.all_processes["raylet"][0].process.pid
        end = time.monotonic() + 60
        while not (others := set(self.workers().values()) - {head}):
            if time.monotonic() > end:
                raise RuntimeError("The other raylet has no worker.")
            time.sleep(0.1)
        chosen = min(others)
        os.kill(chosen, signal.SIGKILL)
        for node in self._cluster.list_all_nodes():
            if node.all_processes["raylet"][0].process.pid == chosen:
                self._cluster.remove_node(node, allow_graceful=False)


def start_driver(raylets, model, images, out, rows=64, embed=False, file_size=None):
    """The job's own process; a `file_size` is the most bytes a file of it may have, as on a disk that is full."""

    def limit():
        if file_size:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

    options = [model, images, out, raylets.address, rows, int(embed)]
    command = [sys.executable, __file__, "--drive", *map(str, options)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit if file_size else None
    )


def drive(model, images, out, address, rows, embed):
    """What the driver's process does."""
    from inception_tf.errors import InceptionTFError
    from inception_tf.images.streams import image_tables
    from inception_tf.inference.jobs import Parts, run_job
    from inception_tf.inference.ray import RayPool
    from inception_tf.inference.table import TablePredictor

    predictor = TablePredictor(model, threads=1, embed=embed == "1")
    parts = Parts(out, predictor.settings, rows=int(rows))
    try:
        with RayPool(address, workers=2) as pool:
            summary = run_job(image_tables(images, 32), predictor, parts, pool=pool)
    except InceptionTFError as error:
        sys.exit(str(error))
    print(json.dumps({**summary.to_json(), "lost": pool.lost}))


def wait_for(raylets, count, driver, seconds=120):
    """Until the decoders were given `count` images."""
    end = time.monotonic() + seconds
    while not (raylets.trace.exists() and raylets.trace.stat().st_size >= count):
        if time.monotonic() > end or driver.poll() is not None:
            raise RuntimeError(f"The fault came too late: {driver.communicate()}")
        time.sleep(0.02)


def run_fault(fault, raylets, model, images, out, count, seconds=600):
    """A job over `images` with a fault after a third of `count` images; the driver's last result, a dict."""
    raylets.fill(3 if fault == "raylet, CPUs to spare" else 2)
    raylets.trace.unlink(missing_ok=True)
    full = fault == "disk full"
    if not full and fault != "none":
        raylets.hold.write_text(str(count // 3))
    driver = start_driver(
        raylets, model, images, out, rows=count // 2 if full else 64, embed=full, file_size=100_000 if full else None
    )
    try:
        if fault not in ("none", "disk full"):
            wait_for(raylets, count // 3, driver)
        if fault == "worker":
            os.kill(next(iter(raylets.workers())), signal.SIGKILL)
        elif fault.startswith("raylet"):
            raylets.kill_raylet()
        elif fault == "driver":
            driver.kill()
        raylets.hold.unlink(missing_ok=True)
        stdout, stderr = driver.communicate(timeout=seconds)
        if fault in ("driver", "disk full"):
            if full and "File too large" not in stderr:
                raise RuntimeError(f"The disk was not full: {stdout} {stderr}")
            driver = start_driver(raylets, model, images, out, embed=full)
            stdout, stderr = driver.communicate(timeout=seconds)
    finally:
        raylets.hold.unlink(missing_ok=True)
        driver.kill()
    if driver.returncode:
        raise RuntimeError(stderr)
    return json.loads(stdout.splitlines()[-1])


def count_rows(out, images, bad):
    """What came out, a dict: rows; images that came twice, and not at all; photographs without an answer; bad files
    with one, or without a reason."""
    from pyarrow import dataset

    table = dataset.dataset(out, format="parquet", exclude_invalid_files=True).to_table(["path", "class", "error"])
    rows = table.to_pylist()
    paths = collections.Counter(row["path"] for row in rows)
    wrong = [row["path"] for row in rows if (row["error"] is None) is (row["path"] in bad)]
    wrong += [row["path"] for row in rows if (row["class"] is None) is not (row["error"] is not None)]
    return {
        "rows": len(rows),
        "twice": sum(count - 1 for count in paths.values()),
        "lost": len({str(path) for path in Path(images).iterdir()} - set(paths)),
        "wrong": len(set(wrong)),
        "reasons": dict(collections.Counter(bad.get(row["path"]) for row in rows if row["error"])),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="what `inception-tf classify` takes")
    parser.add_argument("photographs", help="a folder of them")
    parser.add_argument("--images", type=int, default=1000, help="how many (1000)")
    args = parser.parse_args()
    photographs = sorted(Path(args.photographs).rglob("*.jpg"))[: args.images]
    with tempfile.TemporaryDirectory() as scratch, Raylets(folder := Path(scratch)) as raylets:
        kinds = write_images(folder / "images", photographs)
        for number, fault in enumerate(FAULTS):
            start, out = time.monotonic(), folder / f"out{number}"
            lost = run_fault(fault, raylets, args.model, folder / "images", out, len(photographs))["lost"]
            seconds, counts = round(time.monotonic() - start, 1), count_rows(out, folder / "images", kinds)
            print(json.dumps({"fault": fault, **counts, "workers lost": lost, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--drive"]:
        drive(*sys.argv[2:])
    else:
        main()
