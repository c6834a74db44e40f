"""What every container is, once it is open."""

from collections.abc import Mapping
from pathlib import Path

from inception_tf.errors import CheckpointError


class Checkpoint(Mapping):
    """A checkpoint's tensors by name. Nothing is read before it is asked for.

    Attributes:
        path: what was opened, as the user named it.
        container: "V1", "V2, 4 shards", "Keras", …
        prefix: what TensorFlow's Saver restores from, or None where it cannot.
        shapes, dtypes: dicts from names to tuples and to numpy dtypes.
        labels: the class names that came with it, a list, or None.
        written_by: the version of TensorFlow that wrote it, as text, or None where that is not recorded.
    """

    prefix = None
    written_by = None
    labels = None
    held = None  # keeps alive what the files lie in: the directory that an archive was unpacked to

    def __init__(self, path, container, shapes, dtypes):
        self.path, self.container = Path(path), container
        self.shapes, self.dtypes = dict(sorted(shapes.items())), dtypes
        if not self.shapes:
            raise CheckpointError(f"{self.path} holds no tensors.")

    def read(self, name):
        """The array called `name`, one of `shapes`."""
        raise NotImplementedError

    def __getitem__(self, name):
        if name not in self.shapes:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)

    def __contains__(self, name):
        return name in self.shapes

    @property
    def step(self):
        """The training step it was written at, or None."""
        return int(self["global_step"]) if self.shapes.get("global_step") == () else None
