"""What can classify images: a Keras model, a SavedModel. One form for all: preprocessed images in, scores out."""

from pathlib import Path

import numpy as np

from inception_tf.errors import CheckpointError, UsageError
from inception_tf.export.card import read_card
from inception_tf.images.labels import class_names
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.models.model import load_model
from inception_tf.models.registry import create_model
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.detect import detect


class Engine:
    """A loaded classifier.

    Attributes:
        preprocessing: the `Preprocessing` of its images.
        labels: its classes' names.
        card: the model's card, or an empty dict.
    """

    def __init__(self, preprocessing, classes, labels, card=None):
        self.preprocessing, self.labels, self.card = preprocessing, class_names(classes, labels), card or {}

    def __call__(self, images):
        """Scores float32 N×classes of preprocessed images, float32 N×H×W×C."""
        raise NotImplementedError


class KerasEngine(Engine):
    """A Keras model of this library."""

    def __init__(self, model, labels=None):
        card = getattr(model, "card", {})
        if "preprocessing" not in card or not card["options"]["include_top"]:
            raise UsageError(f"{model.name} has no classifier of this library.")
        super().__init__(
            Preprocessing.from_config(dict(card["preprocessing"])),
            card["options"]["classes"],
            labels or card["labels"],
            card,
        )
        self.model = model

    def __call__(self, images):
        return np.asarray(self.model.predict_on_batch(images))


class SavedModelEngine(Engine):
    """A SavedModel that this library exported. Keras is not asked."""

    def __init__(self, path, labels=None):
        import tensorflow as tf

        try:
            self._loaded = tf.saved_model.load(str(path))
            self._run = self._loaded.signatures["serving_default"]
            classes = self._run.structured_outputs["probabilities"].shape[-1]
            card = read_card(path)
            preprocessing = Preprocessing.from_config(card["preprocessing"])
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CheckpointError(f"{path} is no classifier exported by this library: {reason[0][:200]}") from error
        super().__init__(preprocessing, classes, labels or Path(path) / "assets" / "labels.txt", card)

    def __call__(self, images):
        return self._run(images=images)["probabilities"].numpy()


def open_engine(path, labels=None):
    """Opens a classifier.

    Args:
        path: a `.keras` file; the directory of a `finetune` run, whose best model is opened; a SavedModel, or a
            directory of versions of one, whose highest is opened; or a Slim checkpoint, which is converted in memory.
        labels: the class names, a list or a file. Default: the model's own.

    Raises:
        CheckpointError, MismatchError: it is none of these, or damaged.
        UsageError: it has no classifier, or the labels do not fit.
    """
    path = Path(path)
    if path.is_dir():
        versions = sorted((p for p in path.iterdir() if p.name.isdigit() and p.is_dir()), key=lambda p: int(p.name))
        saved = versions[-1] if versions else path
        if (saved / "saved_model.pb").is_file():
            return SavedModelEngine(saved, labels)
    return KerasEngine(open_model(path), labels)


def open_model(path):
    """The Keras model in a `.keras` file or in a run's directory, or of a Slim checkpoint. Errors as `open_engine`."""
    path = Path(path)
    if (path / "best.keras").is_file():
        path = path / "best.keras"
    if path.suffix == ".keras":
        return load_model(path)
    checkpoint = open_checkpoint(path)
    return create_model(detect(checkpoint).network, checkpoint)
