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
        written_by: the version of TensorFlow that wrote it, as text, or None where that is not recorded.
        notes: what a user should know of how it was read, texts.
        options, preprocessing, labels, thresholds: what it says, beyond its weights, of the model's options, of how its
            images are prepared, of its classes' names, and of several labels an image (as the card has them).
    """

    prefix = None
    written_by = None
    head = None  # of a retrained graph: see `graph_def.FrozenGraph`
    notes = ()
    options, preprocessing, labels, thresholds = {}, {}, None, None
    held = None  # keeps alive what the files lie in: the directory that an archive was unpacked to

    def __init__(self, path, container, shapes, dtypes):
        self.path, self.container = Path(path), container
        self.shapes, self.dtypes = dict(sorted(shapes.items())), dtypes
        if not self.shapes:
            raise CheckpointError(f"{self.path} holds no tensors.")

    def read(self, name):
        """The array called `name`, one of `shapes`."""
        raise NotImplementedError

    def stored(self, name):
        """What the file itself calls the tensor `name`."""
        return name

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


class Renamed(Checkpoint):
    """Another checkpoint's tensors under other names.

    Args:
        checkpoint: the other.
        names: a dict from the names here to those there.
        note: what the user should know of it.
        shapes: a dict from names here to the shapes that they have here, where those are others.
    """

    def __init__(self, checkpoint, names, note, shapes=()):
        self._checkpoint, self._names, self._reshaped = checkpoint, names, dict(shapes)
        self.prefix = None if self._reshaped else checkpoint.prefix
        self.written_by, self.held = checkpoint.written_by, checkpoint.held
        self.notes = (*checkpoint.notes, note)
        own = {name: checkpoint.shapes[stored] for name, stored in names.items()} | self._reshaped
        dtypes = {name: checkpoint.dtypes[stored] for name, stored in names.items() if stored in checkpoint.dtypes}
        super().__init__(checkpoint.path, checkpoint.container, own, dtypes)

    def stored(self, name):
        return self._checkpoint.stored(self._names[name])

    def read(self, name):
        return self._checkpoint.read(self._names[name]).reshape(self.shapes[name])
