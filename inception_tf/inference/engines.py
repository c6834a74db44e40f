"""What can classify images: a Keras model, a SavedModel, another export. One form for all: preprocessed images in,
scores out. Keras and TensorFlow are imported where a model needs them, since most exports need neither.
"""

from pathlib import Path

import numpy as np

from inception_tf.errors import CheckpointError, UsageError, reason
from inception_tf.images.labels import class_names
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.inference.runtimes import OpenVino, runtime_for
from inception_tf.models.card import read_card
from inception_tf.quiet import start_tensorflow


class Engine:
    """A loaded classifier.

    Attributes:
        preprocessing: the `Preprocessing` of its images.
        labels: its classes' names.
        card: the model's card, or an empty dict.
        decoder: the `decoder` for its image files; see `decode_image`.
    """

    decoder = "tensorflow"

    def __init__(self, preprocessing, classes, labels, card=None):
        self.preprocessing, self.labels, self.card = preprocessing, class_names(classes, labels), card or {}

    def __call__(self, images):
        """Probabilities float32 N×classes of preprocessed images, float32 N×H×W×C."""
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
        from inception_tf.models.heads import as_probabilities

        outputs = np.asarray(self.model.predict_on_batch(images), "float32")
        return np.asarray(as_probabilities(self.model, outputs))


class SavedModelEngine(Engine):
    """A SavedModel that this library exported. Keras is not asked."""

    def __init__(self, path, labels=None):
        card = read_card(path)
        preprocessing = _preprocessing(card, path)
        start_tensorflow()
        import tensorflow as tf

        try:
            self._loaded = tf.saved_model.load(str(path))
            self._run = self._loaded.signatures["serving_default"]
            classes = self._run.structured_outputs["probabilities"].shape[-1]
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            raise CheckpointError(f"{path} is no classifier exported by this library: {reason(error)}") from error
        super().__init__(preprocessing, classes, _names(labels, card, path), card)

    def __call__(self, images):
        return self._run(images=images)["probabilities"].numpy()


class ExportedEngine(Engine):
    """A file that `export` wrote for LiteRT, ONNX Runtime or OpenVINO, which carries its preprocessing and its labels.

    Neither Keras nor TensorFlow is asked: images are decoded by Pillow and preprocessed by NumPy.

    Args:
        path: a `.tflite`, `.onnx` or `.xml` file; with `OpenVino` also a SavedModel.
        runtime: the `Runtime` to run it on. Default: by the suffix.
    """

    decoder = "pillow"

    def __init__(self, path, labels=None, runtime=None):
        self._run = (runtime or runtime_for(path))(path)
        card = self._run.card
        preprocessing = _preprocessing(card, path)
        super().__init__(preprocessing, card["options"]["classes"], _names(labels, card, path), card)

    def __call__(self, images):
        return self._run(images)


def _preprocessing(card, path):
    """The `Preprocessing` that an export's card tells.

    Raises:
        CheckpointError: it tells none.
        UsageError: the export is no classifier of images.
    """
    try:
        options, config = card["options"], card["preprocessing"]
    except KeyError:
        raise CheckpointError(
            f"{path} was not exported by this library: it does not say how its images are prepared."
        ) from None
    if not options.get("include_top", True) or config is None:
        raise UsageError(f"{path} is no classifier of images: it was exported without its top, or its channels.")
    return Preprocessing.from_config(config)


def _names(labels, card, path):
    """Those given, else the card's; else those beside a SavedModel, whose card had none once."""
    return labels or card.get("labels") or Path(path, "assets", "labels.txt")


def saved_model_in(path):
    """The SavedModel that a directory is, or the highest version in it; None where there is none."""
    path = Path(path)
    if not path.is_dir():
        return None
    versions = sorted((p for p in path.iterdir() if p.name.isdigit() and p.is_dir()), key=lambda p: int(p.name))
    saved = versions[-1] if versions else path
    return saved if (saved / "saved_model.pb").is_file() else None


def needs_keras(path):
    """Whether a classifier is a Keras model once it is open."""
    return runtime_for(path) is None and saved_model_in(path) is None


def open_engine(path, labels=None, openvino=False):
    """Opens a classifier.

    Args:
        path: a `.keras` file; the directory of a `finetune` run, whose best model is opened; a SavedModel, or a
            directory of versions of one, whose highest is opened; a `.tflite`, `.onnx` or OpenVINO `.xml` file; or a
            Slim checkpoint, which is converted in memory.
        labels: the class names, a list or a file. Default: the model's own.
        openvino: whether OpenVINO is to run a SavedModel, `.tflite` or `.onnx`, as it does an `.xml`.

    Raises:
        CheckpointError, MismatchError: it is none of these, or damaged.
        UsageError: it has no classifier, the labels do not fit, or what runs it is not installed.
    """
    path = Path(path)
    saved = saved_model_in(path)
    if openvino:
        if saved is None and runtime_for(path) is None:
            raise UsageError(f"OpenVINO runs a SavedModel, .tflite, .onnx or .xml. Received: {path}")
        return ExportedEngine(saved or path, labels, OpenVino)
    if saved is not None:
        return SavedModelEngine(saved, labels)
    if runtime_for(path):
        return ExportedEngine(path, labels)
    return KerasEngine(open_model(path), labels)


def open_model(path):
    """The Keras model in a `.keras` file or in a run's directory, or of a Slim checkpoint. Errors as `open_engine`."""
    from inception_tf.models.model import load_model
    from inception_tf.models.registry import create_model
    from inception_tf.slim.checkpoint import open_checkpoint
    from inception_tf.slim.detect import detect

    path = Path(path)
    if (path / "best.keras").is_file():
        path = path / "best.keras"
    if path.suffix == ".keras":
        return load_model(path)
    checkpoint = open_checkpoint(path)
    return create_model(detect(checkpoint).network, checkpoint)
