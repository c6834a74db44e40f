"""The index of a V2 checkpoint, checked before TensorFlow reads it.

Of an entry that is damaged TensorFlow's reader ends the process; for one that lies it takes the memory asked for.

The file is a LevelDB table (tensorflow/core/lib/io/table.cc), its values `BundleEntryProto`s.
"""

import math

import numpy as np

from inception_tf.errors import CheckpointError, raising

_MOST = 1 << 62
_FOOTER = 48
_VARYING = (7, 21)  # strings and variants: as many bytes as they need


def check_index(path, index, data):
    """Raises a `CheckpointError` for an index whose entries are no tensors in the data files.

    Args:
        path: what the message calls the checkpoint.
        index: the `.index` file.
        data: the shards, in order.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleEntryProto, BundleHeaderProto
    from tensorflow.dtypes import as_dtype

    sizes = [file.stat().st_size for file in data]
    failures = DecodeError, ValueError, IndexError, TypeError
    with raising(CheckpointError, f"{path} is damaged or incomplete: {index.name}", *failures):
        for key, value in _entries(index.read_bytes()):
            if not key:
                if BundleHeaderProto.FromString(value).num_shards != len(data):
                    raise ValueError(f"its header is not of {len(data)} shards")
                continue
            entry = BundleEntryProto.FromString(value)
            sides = [dim.size for dim in entry.shape.dim]
            count = math.prod(sides)
            varies = entry.dtype in _VARYING
            itemsize = 1 if varies else np.dtype(as_dtype(entry.dtype).as_numpy_dtype).itemsize
            held = sum(sizes) if entry.slices else entry.size
            fits = count * itemsize == held if not varies and not entry.slices else count * itemsize <= held
            inside = 0 <= entry.shard_id < len(sizes) and 0 <= entry.offset <= sizes[entry.shard_id] - entry.size
            valid = not entry.shape.unknown_rank and len(sides) < 255 and all(0 <= side < _MOST for side in sides)
            if not (valid and fits and inside and entry.size >= 0):
                raise ValueError(f"{key.decode('utf-8', 'replace')[:80]} of {sides[:8]} is not in its data")


def _entries(table):
    """Yields the (key, value) pairs of a table. Of one that is compressed, none."""
    at = _varint(table, _varint(table, len(table) - _FOOTER)[1])[1]  # after the handle of the metaindex
    for _, handle in _block(table, at):
        yield from _block(table, 0, handle)


def _block(table, at, handle=None):
    """Yields the (key, value) pairs of the block whose handle is at `at` of `handle`, by default of the table."""
    offset, at = _varint(table if handle is None else handle, at)
    size, _ = _varint(table if handle is None else handle, at)
    if size < 8 or offset + size >= len(table):
        raise ValueError("a block lies outside the file")
    if table[offset + size]:  # compressed, as TensorFlow 1.1 wrote them
        return
    block = table[offset : offset + size]
    end = size - 4 - 4 * int.from_bytes(block[-4:], "little")
    key, at = b"", 0
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key, value = key[:shared] + block[at : at + own], block[at + own : at + own + length]
        at += own + length
        if at > end:
            raise ValueError("an entry lies outside its block")
        yield key, value


def _varint(data, at):
    """The number at `at`, and where it ends."""
    number = shift = 0
    for byte in data[at : at + 10]:
        number |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if byte < 128:
            return number, at
    raise ValueError("a number has no end")
