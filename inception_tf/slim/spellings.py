"""Names that are Slim's but for their spelling: those of tensors and operations in place of variables, …"""

import re

from inception_tf.errors import CheckpointError
from inception_tf.slim.containers.base import Renamed

# What a name has besides the variable's, and what that is called in a sentence. A tensor is called after its variable
# and an output's number; a variable is read by an operation below it.
SPELLINGS = (
    (re.compile(r":0(?=/|$)"), "end in :0"),
    (re.compile(r"(/Read)?/ReadVariableOp(_\d+)?$|(?<=[a-z])/(read|Identity)$"), "are those of reading operations"),
    (re.compile(r"^/+|(?<=/)/+"), "begin with a slash or have two in a row"),
)


def respelled(checkpoint):
    """A checkpoint under names as Slim spells them, or as it is where they are.

    Raises:
        CheckpointError: two of its tensors would have one name.
    """
    names, oddities = {}, {}
    for stored in checkpoint:
        name = stored
        for pattern, oddity in SPELLINGS:
            plain = pattern.sub("", name)
            if plain and plain != name:
                name = plain
                oddities.setdefault(oddity, []).append(stored)
        names.setdefault(name, []).append(stored)
    twice = [pair for pair in names.values() if len(pair) > 1]
    if twice:
        raise CheckpointError(
            f"{checkpoint.path} has two tensors for one variable, {' and '.join(twice[0])}"
            + (f", and {len(twice) - 1} more such pairs" if len(twice) > 1 else "")
            + ". Which is meant, it does not say: save it with one of each."
        )
    if not oddities:
        return checkpoint
    note = "; ".join(f"{len(found)} of {len(checkpoint)} names {oddity}" for oddity, found in oddities.items())
    return Renamed(checkpoint, {name: stored for name, (stored,) in names.items()}, f"{note}: taken as Slim's")
