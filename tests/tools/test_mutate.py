"""Damaged files of every container, and the harness that makes them."""

import random

import mutate
import numpy as np
import pytest
from slim_files import write_tensors

from inception_tf.errors import CheckpointError
from inception_tf.slim.checkpoint import open_checkpoint


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        # For the first TensorFlow's reader ends the process; the second it opens.
        (b"\x08\x01\x12\x08\x12\x02\x08\x03", b"\xff\xff\xff\xff\xff\xff\xff\xff", "index.*parsing message"),
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
    end = next(n for n in range(8, len(data)) if mutate.masked(data[: n + 1]) == data[n + 1 : n + 5])
    block = data[: end + 1].replace(old, new)
    index.write_bytes(block + mutate.masked(block) + data[end + 5 :])
    with pytest.raises(CheckpointError, match=match):
        open_checkpoint(path)


@pytest.mark.slow
def test_a_sample_of_every_container():
    counts, bugs = mutate.run(330, log=None)
    assert not bugs
    assert len(counts) == 11 and all(outcomes["refused"] for kind, outcomes in counts.items() if kind != ".meta")
    assert counts[".meta"]["read"] and sum(map(sum, (c.values() for c in counts.values()))) == 330


def test_every_change_is_made():
    data = bytes(range(256)) * 4
    changes = {how: mutated for mutated, how in (mutate.mutate(data, random.Random(i)) for i in range(200))}
    assert len(changes) == 12 and all(mutated != data for mutated in changes.values())
