"""Damaged and malicious files of every container: does each end in a result or in an error of this library?

Makes a small file of every container, changes copies of it at random (bits, lengths, order, zeros, huge varints, cuts),
and opens each in a worker process: every tensor is read, a `.keras` or `.weights.h5` file becomes a model. A worker may
take 10 seconds of processor time for a file, and 256 MB beyond twice its size.

    python tools/mutate.py --number 10000 [--only 'V1,*.pb'] [--seed 0] [--keep DIR]

Prints how many of each container ended how; what is neither "read" nor "refused" is a bug, and is kept in DIR.
"""

import argparse
import collections
import fnmatch
import gzip
import io
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SECONDS = 10
# What a file may take beyond twice its size.
SPARE = 256 << 20
TABLE = 0xDB4775248B80FB57.to_bytes(8, "little")  # ends a V1 checkpoint, and the index of a V2 one
GOOD = ("read", "refused")


def originals(folder):
    """A small file of every container in `folder`: a dict from its kind to (the path to open, the files to change)."""
    import numpy as np
    import tensorflow as tf

    import inception_tf as itf

    v1 = tf.compat.v1
    model = itf.create_model("lenet", classes=3, input_shape=(28, 28, 1))
    random_ = np.random.default_rng(0)
    values = {
        f"LeNet/{name}/{word}": random_.normal(size=shape).astype("float32")
        for name in ("conv1", "conv2", "fc3")
        for word, shape in (("weights", (3, 3, 4, 8)), ("biases", (8,)))
    }
    names, tensors = list(values), list(values.values())
    found = {}

    def keep(kind, path, *files):
        found[kind] = (path, list(files or (path,)))

    for name in ("v1", "frozen", "keras", "h5", "tar", "targz"):
        (folder / name).mkdir()
    tf.raw_ops.Save(filename=str(folder / "v1/v1.ckpt"), tensor_names=names, data=tensors)
    keep("V1", folder / "v1/v1.ckpt")
    for kind, shards in (("V2", 1), ("sharded", 2)):
        prefix = folder / kind / "model.ckpt"
        parts = [f"{prefix}_{i}" for i in range(shards)]
        for i, part in enumerate(parts):
            own = names[i::shards]
            tf.raw_ops.SaveV2(
                prefix=part, tensor_names=own, shape_and_slices=[""] * len(own), tensors=tensors[i::shards]
            )
        tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(prefix), delete_old_dirs=False)
        data = sorted(prefix.parent.glob("model.ckpt.data-*"))
        if kind == "V2":
            keep("V2 index", prefix, prefix.with_name("model.ckpt.index"))
            keep("V2 data", prefix, *data)
        else:
            keep("sharded", prefix, prefix.with_name("model.ckpt.index"), *data)
    with tf.Graph().as_default() as graph, v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 28, 28, 4))
        for name in ("conv1", "conv2", "fc3"):
            with v1.variable_scope(f"LeNet/{name}", use_resource=False):
                kernel = v1.get_variable("weights", initializer=values[f"LeNet/{name}/weights"])
                bias = v1.get_variable("biases", initializer=values[f"LeNet/{name}/biases"])
            x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias))[..., :4]
        with v1.variable_scope("dense", use_resource=True):
            kernel = v1.get_variable("kernel", initializer=random_.normal(size=(4, 3)).astype("float32"))
        scores = tf.nn.softmax(tf.matmul(tf.reduce_mean(x, [1, 2]), kernel))
        session.run(v1.global_variables_initializer())
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), [scores.op.name])
        (folder / "frozen/frozen.pb").write_bytes(frozen.SerializeToString())
        v1.saved_model.simple_save(
            session, str(folder / "saved/model"), {"x": graph.get_operations()[0].outputs[0]}, {"y": scores}
        )
        v1.train.Saver().save(session, str(folder / "meta/model.ckpt"))
    keep("frozen .pb", folder / "frozen/frozen.pb")
    saved = sorted(file for file in (folder / "saved/model").rglob("*") if file.is_file())
    keep("SavedModel", folder / "saved/model", *saved)
    keep(".meta", folder / "meta/model.ckpt.meta")
    model.save(folder / "keras/m.keras")
    keep(".keras", folder / "keras/m.keras")
    with zipfile.ZipFile(folder / "keras/m.keras") as archive:
        (folder / "h5/m.weights.h5").write_bytes(archive.read("model.weights.h5"))
    keep(".weights.h5", folder / "h5/m.weights.h5")
    with tarfile.open(folder / "targz/a.tar.gz", "w:gz") as tar:
        for file in sorted((folder / "V2").glob("model.ckpt.[id]*")):
            tar.add(file, file.name)
    keep(".tar.gz", folder / "targz/a.tar.gz")
    (folder / "tar/a.tar").write_bytes(gzip.decompress((folder / "targz/a.tar.gz").read_bytes()))
    keep(".tar", folder / "tar/a.tar")
    return found


def mutate(data, random):
    """A changed copy of `data`, and the name of the change."""
    data, at = bytearray(data), random.randrange(max(len(data), 1))
    length = min(random.choice((1, 4, 16, 64, 512, 4096)), len(data) - at)
    kind = random.choice(
        ("bit", "bits", "byte", "cut", "zeros", "ones", "varint", "drop", "repeat", "swap", "integer", "end")
    )
    if kind in ("bit", "bits"):
        for _ in range(1 if kind == "bit" else random.randint(2, 40)):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    elif kind == "byte":
        data[at] = random.randrange(256)
    elif kind == "cut":
        del data[at:]
    elif kind in ("zeros", "ones"):
        data[at : at + length] = (b"\0" if kind == "zeros" else b"\xff") * length
    elif kind == "varint":
        data[at : at + random.randint(0, 5)] = b"\xff" * random.randint(3, 9) + b"\x01"
    elif kind == "drop":
        del data[at : at + length]
    elif kind == "repeat":
        data[at:at] = data[at : at + length] * random.choice((1, 1, 8))
    elif kind == "swap":
        other = random.randrange(len(data) - length + 1)
        data[at : at + length], data[other : other + length] = data[other : other + length], data[at : at + length]
    elif kind == "integer":
        size = random.choice((4, 8))
        value = random.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)) % 2 ** (8 * size)
        data[at : at + size] = value.to_bytes(size, random.choice(("little", "big")))
    else:  # where footers and directories are
        for _ in range(random.randint(1, 6)):
            data[-random.randint(1, min(128, len(data)))] = random.randrange(256)
    return bytes(data), kind


def mutated(kind, data, random):
    """As `mutate`; of a compressed or a checksummed container sometimes what is in it, checksums made right."""
    if kind == ".tar.gz" and random.random() < 0.6:
        changed, how = mutate(gzip.decompress(data), random)
        return gzip.compress(changed, 1), f"inside: {how}"
    if kind == ".keras" and random.random() < 0.6:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = random.choice(("config.json", "config.json", "model.weights.h5", "metadata.json"))
        members[name], how = _digits(members[name], random) if random.random() < 0.3 else mutate(members[name], random)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return out.getvalue(), f"inside: {how}"
    if data[-8:] == TABLE and random.random() < 0.5:
        return _table(data, random)
    return mutate(data, random)


def _digits(data, random):
    """Another number for one in a text."""
    places = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    at = random.choice(places) if places else 0
    number = random.choice((b"0", b"-1", b"7", b"65537", b"2147483647", b"99999999999999", b"1e9", b"null", b'"x"'))
    return data[:at] + number + data[at + 1 :], "number"


def _crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _table(data, random):
    """A LevelDB table with a change in one of its blocks, and that block's checksum as the change wants it."""
    footer = data[-48:]
    at = _varint(footer, _varint(footer, 0)[1])[1]  # after the handle of the metaindex
    offset, at = _varint(footer, at)
    size, _ = _varint(footer, at)
    if random.random() < 0.6:  # the first block in place of the index of blocks, by that one's first entry
        at = offset
        (_, at), (key, at) = _varint(data, at), _varint(data, at + 1)
        offset, at = _varint(data, _varint(data, at)[1] + key)
        size, _ = _varint(data, at)
    block, how = mutate(data[offset : offset + size], random)
    block = block[:size].ljust(size, b"\0") + data[offset + size : offset + size + 1]
    return data[:offset] + block + masked(block) + data[offset + size + 5 :], f"inside: {how}"


def _varint(data, at):
    """The number at `at`, and where it ends."""
    number = shift = 0
    while True:
        number |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return number, at


def masked(data):
    crc = _crc32c(data)
    return (((crc >> 15 | crc << 17) & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def use(kind, path):
    """Opens a file and reads all that is in it."""
    import inception_tf as itf
    from inception_tf.slim.checkpoint import open_checkpoint

    if kind == ".weights.h5":
        itf.create_model("lenet", weights=path, classes=3, input_shape=(28, 28, 1))
    elif kind == ".keras":
        itf.load_model(path)
    else:
        checkpoint = open_checkpoint(path)
        for name in checkpoint:
            checkpoint[name]


def work(pipe, whole):
    """Uses the `whole` files, then those that come by a pipe, and answers how each ended and what memory it took."""
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    from inception_tf.errors import InceptionTFError

    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for kind, path in whole:  # what is loaded once is loaded then
        use(kind, path)
    pipe.send("ready")
    while True:
        kind, path = pipe.recv()
        before = _peak()
        try:
            use(kind, Path(path))
            outcome, detail = "read", ""
        except InceptionTFError as error:
            outcome, detail = "refused", str(error)[:300]
        except BaseException as error:
            outcome, detail = f"raw {type(error).__name__}", str(error)[:300]
        pipe.send((outcome, detail, _peak() - before))


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


class Worker:
    """A process that uses one file after another; another takes its place when it died, hung or grew."""

    def __init__(self, whole):
        self.whole = whole
        self.start()

    def start(self):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, self.whole), daemon=True)
        self.process.start()
        other.close()
        assert self.pipe.recv() == "ready"

    def stop(self):
        self.process.kill()
        self.process.join()

    def cpu(self):
        """Seconds of processor time that it took so far: others may run beside it."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def run(self, kind, path, size):
        """How the file ended, what was said, and the seconds."""
        start = self.cpu()
        self.pipe.send((kind, str(path)))
        try:
            waited = 0
            while not self.pipe.poll(1) and self.cpu() - start < SECONDS and waited < 12 * SECONDS:
                waited += 1
            outcome, detail = f"hang: {waited} s", ""
            if self.pipe.poll(0):
                outcome, detail, grown = self.pipe.recv()
                if grown > 2 * size + SPARE:
                    outcome = f"memory: {grown >> 20} MB"
            seconds = self.cpu() - start
        except (EOFError, ConnectionResetError, FileNotFoundError, BrokenPipeError):
            self.process.join()
            outcome, detail, seconds = f"crash {self.process.exitcode}", "", 0
        if outcome.startswith(("hang", "crash", "memory")):
            self.stop()
            self.start()
        return outcome, detail, seconds


def run(number, only="*", seed=0, keep=None, log=print):
    """Mutates `number` files in all.

    Returns:
        A dict from containers to Counters of outcomes, and the bugs: (kind, outcome, detail, what was changed how).
    """
    counts, bugs, slowest = collections.defaultdict(collections.Counter), [], 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "originals")
        folder.mkdir()
        files = originals(folder)
        files = {k: v for k, v in files.items() if any(fnmatch.fnmatch(k, glob.strip()) for glob in only.split(","))}
        worker = Worker([(kind, path) for kind, (path, _) in files.items()])
        try:
            for i in range(number):
                rng = random.Random(f"{seed} {i}")
                kind = list(files)[i % len(files)]
                path, changeable = files[kind]
                copy = Path(scratch, "copy")
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(path.parent, copy)
                target = copy / rng.choice(changeable).relative_to(path.parent)
                data, how = mutated(kind, target.read_bytes(), rng)
                target.write_bytes(data)
                size = sum(file.stat().st_size for file in copy.rglob("*") if file.is_file())
                outcome, detail, seconds = worker.run(kind, copy / path.name, size)
                slowest = max(slowest, seconds)
                counts[kind][outcome] += 1
                if outcome not in GOOD:
                    bugs.append((kind, outcome, detail, f"{i}: {target.name}: {how}"))
                    if keep:
                        shutil.copytree(copy, Path(keep, f"{kind.strip('.')}-{i}"), dirs_exist_ok=True)
                if log and (i + 1) % 500 == 0:
                    log(f"{i + 1} files, {len(bugs)} bugs, slowest {slowest:.1f} s", flush=True)
        finally:
            worker.stop()
    return counts, bugs


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=10_000, help="how many files, of all containers together")
    parser.add_argument("--only", default="*", metavar="GLOBS", help='containers, such as "V*,.keras" (*)')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", metavar="DIR", help="where to copy files that did not end as they should")
    args = parser.parse_args(arguments)
    counts, bugs = run(args.number, args.only, args.seed, args.keep)
    for kind, outcomes in counts.items():
        print(f"{kind:12}", ", ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common()))
    for bug in bugs[:40]:
        print(*bug, sep=" | ")
    print(f"{sum(map(sum, (c.values() for c in counts.values())))} files, {len(bugs)} bugs")
    return bool(bugs)


if __name__ == "__main__":
    sys.exit(main())
