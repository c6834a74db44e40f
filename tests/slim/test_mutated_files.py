"""Damaged and malicious files of every container: each ends in a result or in an error of this library.

Makes a small file of every container, changes copies of it at random (bits, lengths, order, zeros, huge varints, cuts),
and opens each in a worker process: every tensor is read, a `.keras` or `.weights.h5` file becomes a model. A worker may
take 10 seconds of processor time for a file, and 256 MB beyond twice its size.

    MUTATED_FILES=10000 python -m pytest -s tests/slim/test_mutated_files.py  # as many, in place of 330; figures
"""

import collections
import gzip
import io
import multiprocessing
import os
import random
import resource
import shutil
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from slim_files import write_tensors

import inception_tf as itf
from inception_tf.errors import CheckpointError, InceptionTFError
from inception_tf.slim.checkpoint import open_checkpoint

SECONDS = 10
SPARE = 256 << 20  # what a file may take beyond twice its size
TABLE = 0xDB4775248B80FB57.to_bytes(8, "little")  # ends a V1 checkpoint, and the index of a V2 one
NUMBER = int(os.environ.get("MUTATED_FILES", 330))


def originals(folder):
    """A small file of every container in `folder`: a dict from its kind to (the path to open, the files to change)."""
    import tensorflow as tf

    v1, random, found = tf.compat.v1, np.random.default_rng(0), {}
    model = itf.create_model("lenet", classes=3, input_shape=(28, 28, 1))
    values = {
        f"LeNet/{name}/{word}": random.normal(size=shape).astype("float32")
        for name in ("conv1", "conv2", "fc3")
        for word, shape in (("weights", (3, 3, 4, 8)), ("biases", (8,)))
    }

    def place(name):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        return path

    def keep(kind, path, files=None):
        found[kind] = (path, sorted(files or [path]))

    keep("V1", write_tensors(folder / "v1/v1.ckpt", values, "v1"))
    path = write_tensors(folder / "V2/model.ckpt", values)
    keep("V2 index", path, path.parent.glob("*.index"))
    keep("V2 data", path, path.parent.glob("*.data-*"))
    path = write_tensors(folder / "sharded/model.ckpt", values, shards=2)
    keep("sharded", path, path.parent.glob("model.ckpt.[id]*"))
    with tf.Graph().as_default() as graph, v1.Session() as session:
        inputs = x = v1.placeholder(tf.float32, (None, 28, 28, 4))
        for name in ("conv1", "conv2", "fc3"):
            with v1.variable_scope(f"LeNet/{name}", use_resource=False):
                kernel = v1.get_variable("weights", initializer=values[f"LeNet/{name}/weights"])
                bias = v1.get_variable("biases", initializer=values[f"LeNet/{name}/biases"])
            x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias))[..., :4]
        with v1.variable_scope("dense", use_resource=True):
            kernel = v1.get_variable("kernel", initializer=random.normal(size=(4, 3)).astype("float32"))
        scores = tf.nn.softmax(tf.matmul(tf.reduce_mean(x, [1, 2]), kernel))
        session.run(v1.global_variables_initializer())
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), [scores.op.name])
        place("frozen/frozen.pb").write_bytes(frozen.SerializeToString())
        v1.saved_model.simple_save(session, str(place("saved/model")), {"x": inputs}, {"y": scores})
        v1.train.Saver().save(session, str(place("meta/model.ckpt")))
    keep("frozen .pb", folder / "frozen/frozen.pb")
    keep("SavedModel", folder / "saved/model", filter(Path.is_file, (folder / "saved/model").rglob("*")))
    keep(".meta", folder / "meta/model.ckpt.meta")
    keep(".keras", place("keras/m.keras"))
    model.save(found[".keras"][0])
    keep(".weights.h5", place("h5/m.weights.h5"))
    with zipfile.ZipFile(found[".keras"][0]) as archive:
        found[".weights.h5"][0].write_bytes(archive.read("model.weights.h5"))
    keep(".tar.gz", place("targz/a.tar.gz"))
    with tarfile.open(found[".tar.gz"][0], "w:gz") as tar:
        for file in sorted((folder / "V2").glob("model.ckpt.[id]*")):
            tar.add(file, file.name)
    keep(".tar", place("tar/a.tar"))
    found[".tar"][0].write_bytes(gzip.decompress(found[".tar.gz"][0].read_bytes()))
    return found


def mutate(data, random):
    """A changed copy of `data`, and the name of the change."""
    data, at = bytearray(data), random.randrange(max(len(data), 1))
    length = min(random.choice((1, 4, 16, 64, 512, 4096)), len(data) - at)
    part, other = data[at : at + length], random.randrange(len(data) - length + 1)
    kind = random.choice(
        ("bit", "bits", "byte", "cut", "zeros", "ones", "varint", "drop", "repeat", "swap", "integer", "end")
    )
    if kind in ("bit", "bits"):
        for _ in range(1 if kind == "bit" else random.randint(2, 40)):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    elif kind == "byte":
        data[at] = random.randrange(256)
    elif kind == "varint":
        data[at : at + random.randint(0, 5)] = b"\xff" * random.randint(3, 9) + b"\x01"
    elif kind == "swap":
        data[at : at + length], data[other : other + length] = data[other : other + length], part
    elif kind == "integer":
        size = random.choice((4, 8))
        value = random.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)) % 2 ** (8 * size)
        data[at : at + size] = value.to_bytes(size, random.choice(("little", "big")))
    elif kind == "end":  # where footers and directories are
        for _ in range(random.randint(1, 6)):
            data[-random.randint(1, min(128, len(data)))] = random.randrange(256)
    elif kind == "cut":
        del data[at:]
    else:
        repeats = 1 + random.choice((1, 1, 8))
        data[at : at + length] = {"zeros": bytes(length), "ones": b"\xff" * length, "drop": b""}.get(
            kind, part * repeats
        )
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
        members[name], how = _number(members[name], random) if random.random() < 0.3 else mutate(members[name], random)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return out.getvalue(), f"inside: {how}"
    if data[-8:] == TABLE and random.random() < 0.5:
        return _table(data, random)
    return mutate(data, random)


def _number(data, random):
    """Another number for a digit in a text."""
    at = random.choice([i for i, byte in enumerate(data) if chr(byte).isdigit()] or [0])
    number = random.choice((b"0", b"-1", b"7", b"65537", b"2147483647", b"99999999999999", b"1e9", b"null", b'"x"'))
    return data[:at] + number + data[at + 1 :], "number"


def _table(data, random):
    """A LevelDB table with a change in one of its blocks, and that block's checksum as the change wants it."""
    footer = data[-48:]
    at = _varint(footer, _varint(footer, 0)[1])[1]  # after the handle of the metaindex
    offset, at = _varint(footer, at)
    size, _ = _varint(footer, at)
    if random.random() < 0.6:  # the first block in place of the index of blocks, by that one's first entry
        (_, at), (key, at) = _varint(data, offset), _varint(data, offset + 1)
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
    """The CRC-32C of some bytes, masked as LevelDB does."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15 | crc << 17) & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def use(kind, path):
    """Opens a file and reads all that is in it."""
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
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for kind, path in whole:  # what is loaded once is loaded then
        use(kind, path)
    pipe.send("ready")
    while True:
        kind, path = pipe.recv()
        before, outcome, detail = _peak(), "read", ""
        try:
            use(kind, Path(path))
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
        """How the file ended, and what was said."""
        start, waited = self.cpu(), 0
        try:
            self.pipe.send((kind, str(path)))
            while not self.pipe.poll(1) and self.cpu() - start < SECONDS and waited < 12 * SECONDS:
                waited += 1
            outcome, detail = f"hang: {waited} s", ""
            if self.pipe.poll(0):
                outcome, detail, grown = self.pipe.recv()
                if grown > 2 * size + SPARE:
                    outcome = f"memory: {grown >> 20} MB"
        except (EOFError, ConnectionResetError, FileNotFoundError, BrokenPipeError):
            self.process.join()
            outcome, detail = f"crash {self.process.exitcode}", ""
        if outcome.startswith(("hang", "crash", "memory")):
            self.stop()
            self.start()
        return outcome, detail


@pytest.mark.slow
def test_a_sample_of_every_container(tmp_path):
    files, counts, bugs = originals(tmp_path), collections.defaultdict(collections.Counter), []
    worker, copy = Worker([(kind, path) for kind, (path, _) in files.items()]), tmp_path / "copy"
    try:
        for i in range(NUMBER):
            rng, kind = random.Random(f"0 {i}"), list(files)[i % len(files)]
            path, changeable = files[kind]
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(path.parent, copy)
            target = copy / rng.choice(changeable).relative_to(path.parent)
            data, how = mutated(kind, target.read_bytes(), rng)
            target.write_bytes(data)
            size = sum(file.stat().st_size for file in copy.rglob("*") if file.is_file())
            outcome, detail = worker.run(kind, copy / path.name, size)
            counts[kind][outcome] += 1
            if outcome not in ("read", "refused"):
                bugs.append((kind, outcome, detail, f"{i}: {target.name}: {how}"))
                shutil.copytree(copy, tmp_path / f"bug-{i}")
    finally:
        worker.stop()
    print(*(f"\n{kind}: {dict(outcomes)}" for kind, outcomes in counts.items()))
    assert not bugs, f"{len(bugs)} of {NUMBER}, in {tmp_path}/bug-*: {bugs[:40]}"
    assert len(counts) == 11 and all(outcomes["refused"] for kind, outcomes in counts.items() if kind != ".meta")
    assert counts[".meta"]["read"] and sum(map(sum, (c.values() for c in counts.values()))) == NUMBER


def test_every_change_is_made():
    data = bytes(range(256)) * 4
    changes = {how: changed for changed, how in (mutate(data, random.Random(i)) for i in range(200))}
    assert len(changes) == 12 and all(changed != data for changed in changes.values())


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        # For the first TensorFlow's reader ends the process; the second it opens.
        (b"\x08\x01\x12\x08\x12\x02\x08\x03", b"\xff" * 8, "index.*parsing message"),
        (
            b"\x12\x02\x08\x03\x12\x02\x08\x04",
            b"\x12\x06\x08\x83\x80\x80\x80\x01",
            "index.*weights of .* is not in its data",
        ),
    ],
)
def test_an_index_that_lies(tmp_path, old, new, match):
    """With the checksum that the lie needs."""
    path = write_tensors(tmp_path / "model.ckpt", {"conv/weights": np.zeros((3, 4), "float32")})
    index = path.with_name("model.ckpt.index")
    data = index.read_bytes()
    assert old in data
    end = next(n for n in range(8, len(data)) if masked(data[: n + 1]) == data[n + 1 : n + 5])
    block = data[: end + 1].replace(old, new)
    index.write_bytes(block + masked(block) + data[end + 5 :])
    with pytest.raises(CheckpointError, match=match):
        open_checkpoint(path)
