"""What can classify images: a Keras model, a SavedModel, another export. One form for all: preprocessed images in,
scores out. Keras and TensorFlow are imported where a model needs them, since most exports need neither.
"""

import functools
import importlib.util

import numpy as np

from inception_tf.errors import CheckpointError, UsageError, reason
from inception_tf.images.labels import class_names
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.inference.runtimes import OpenVino, runtime_for
from inception_tf.models.card import read_card
from inception_tf.quiet import start_tensorflow
from inception_tf.zoo import load_trained, resolve


class Engine:
    """A loaded classifier, or with `classifier=False` also a network without its top, for its features alone.

    Attributes:
        card: the model's `Card`.
        preprocessing: the `Preprocessing` of its images.
        labels: its classes' names; None without a top.
        decoder: the `decoder` for its image files; see `decode_image`.
        ahead: how many batches it can have in work while others are prepared.
        compiles: whether it traces or compiles another number of images anew, which takes seconds.
    """

    decoder, ahead, compiles = "tensorflow", 0, True

    def __init__(self, path, card, labels=None, classifier=True):
        if card is None:
            raise CheckpointError(
                f"{path} was not exported by this library: it does not say how its images are prepared."
            )
        if (classifier and not card.include_top) or card.preprocessing is None:
            raise UsageError(f"{path} is no classifier of images: it has no top, or no preprocessing is known for it.")
        self.path, self.card = path, card
        self.preprocessing = Preprocessing.from_config(dict(card.preprocessing))
        self.labels = class_names(card.classes, labels or card.labels) if card.include_top else None

    def __call__(self, images):
        """Probabilities float32 N×classes of preprocessed images, float32 N×H×W×C."""
        raise NotImplementedError

    def start(self, images):
        """A function that returns what `__call__` does. An engine with `ahead` computes meanwhile."""
        answer = self(images)
        return lambda: answer

    def embed(self, images):
        """PreLogits, the input of the classifier, float32 N×C, of preprocessed images; the mean of a feature map.

        Raises:
            UsageError: an export that carries no features.
        """
        return _pooled(self._features(images))

    def start_embedding(self, images):
        """`embed` as `start` is `__call__`."""
        answer = self.embed(images)
        return lambda: answer

    def start_both(self, images):
        """As `start`: the probabilities with the PreLogits behind them, float32 N×(classes + C)."""
        answer = np.concatenate(self._both(images), axis=1)
        return lambda: answer

    def _both(self, images):
        return self(images), self.embed(images)

    def _features(self, images):
        raise UsageError(f"{self.path} gives no features.")


class KerasEngine(Engine):
    """A Keras model of this library.

    Args:
        precision: "float32" or "bfloat16", to compute in; None: as the model is.
        xla: whether XLA compiles the fused network. Default: where that pays, on a GPU and on Keras's JAX backend, and
            where a precision is given.
    """

    def __init__(self, model, labels=None, precision=None, xla=None, classifier=True):
        if getattr(model, "card", None) is None:
            raise UsageError(f"{model.name} is no model of this library.")
        super().__init__(model.name, model.card, labels, classifier)
        from inception_tf.inference import xla as programs

        self.model, self._run = model, None
        if importlib.util.find_spec("tensorflow") is None:
            self.decoder = ExportedEngine.decoder
        if self.labels and (precision or (programs.pays() if xla is None else xla)):
            self._run, self.ahead = programs.compiled(model, precision), 1

    def __call__(self, images):
        if self._run:
            return np.array(self._run(images))
        outputs = np.asarray(self.model.predict_on_batch(images), "float32")
        return np.asarray(self.model.as_probabilities(outputs))

    def start(self, images):
        if not self._run:
            return super().start(images)
        running = self._run(images)
        return lambda: np.array(running)

    @functools.cached_property
    def _body(self):
        import keras

        return keras.Model(self.model.inputs[0], self.model.features if self.labels else self.model.outputs[0])

    def _features(self, images):
        return self._body.predict_on_batch(images)

    @functools.cached_property
    def _whole(self):
        import keras

        return keras.Model(self.model.inputs[0], [self.model.outputs[0], self.model.features])

    def _both(self, images):
        if self._run:
            return super()._both(images)
        outputs, features = self._whole.predict_on_batch(images)
        outputs = np.asarray(outputs, "float32")
        return np.asarray(self.model.as_probabilities(outputs)), _pooled(features)


class SavedModelEngine(Engine):
    """A SavedModel that this library exported. Keras is not asked."""

    def __init__(self, path, labels=None, classifier=True):
        super().__init__(path, read_card(path), labels, classifier)
        start_tensorflow()
        import tensorflow as tf

        try:
            self._loaded = tf.saved_model.load(str(path))
            self._run = self._loaded.signatures["serving_default"]
        except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
            raise CheckpointError(f"{path} is no classifier exported by this library: {reason(error)}") from error
        self.compiles = bool(self.card.export.get("xla"))

    def __call__(self, images):
        return self._run(images=images)["probabilities"].numpy()

    def _features(self, images):
        run = self._loaded.signatures["features"] if self.labels else self._run
        return run(images=images)["features"].numpy()


class ExportedEngine(Engine):
    """A file that `export` wrote for LiteRT, ONNX Runtime or OpenVINO, which carries its preprocessing and its labels.

    Neither Keras nor TensorFlow is asked: images are decoded by Pillow and preprocessed by NumPy.

    Args:
        path: a `.tflite`, `.onnx` or `.xml` file; with `OpenVino` also a SavedModel.
        runtime: the `Runtime` to run it on. Default: by the suffix.
        threads: how many threads compute. Default: one a processor.
    """

    decoder = "pillow"

    def __init__(self, path, labels=None, runtime=None, classifier=True, threads=None):
        self._run = (runtime or runtime_for(path))(path, threads=threads)
        super().__init__(path, self._run.card, labels, classifier)
        self.compiles = self._run.compiles

    def __call__(self, images):
        return self._run(images)

    def _features(self, images):
        return self._outputs(images)[-1]

    def _both(self, images):
        outputs = self._outputs(images)
        return outputs[0], _pooled(outputs[-1])

    def _outputs(self, images):
        if self.labels and not self.card.export.get("features"):
            raise UsageError(
                f"{self.path} carries no features. Export it once more with --features (features=True) to .onnx, "
                ".tflite, .xml or .stablehlo; a .keras file and a SavedModel have them."
            )
        return self._run.outputs(images)


def _pooled(features):
    features = np.asarray(features, np.float32)
    return features.mean((1, 2)) if features.ndim == 4 else features


def needs_keras(path):
    """Whether a classifier is a Keras model once it is open."""
    return resolve(path).kind not in ("savedmodel", "exported")


def open_engine(path, labels=None, openvino=False, precision=None, classifier=True, threads=None):
    """Opens a classifier.

    Args:
        path: a Keras model of this library; what `load_model` takes, but for a network's name; a SavedModel, or a
            directory of versions of one, whose highest is opened; or a `.tflite`, `.onnx` or OpenVINO `.xml` file.
        labels: the class names, a list or a file. Default: the model's own.
        openvino: whether OpenVINO is to run a SavedModel, `.tflite` or `.onnx`, as it does an `.xml`.
        precision: "float32" or "bfloat16", of a Keras model; see `KerasEngine`. An export has its own.
        classifier: whether it must be one. False takes models without their top too, for `Engine.embed`.
        threads: how many threads ONNX Runtime, OpenVINO or LiteRT compute with; others take what there is.

    Returns:
        An `Engine`, to be called on preprocessed images, float32 N×H×W×C, for probabilities, float32 N×classes.

    Raises:
        CheckpointError, MismatchError: it is none of these, or damaged.
        UsageError: it has no classifier, the labels do not fit, or what runs it is not installed.
    """
    if hasattr(path, "predict_on_batch"):
        return KerasEngine(path, labels, precision, classifier=classifier)
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1. Received: {threads}")
    found = resolve(path)
    if openvino and found.kind not in ("savedmodel", "exported"):
        raise UsageError(f"OpenVINO runs a SavedModel, .tflite, .onnx or .xml. Received: {path}")
    if precision and found.kind in ("savedmodel", "exported"):
        raise UsageError(f"{path} was exported in a precision of its own; --precision (precision=) is a Keras model's.")
    if openvino or found.kind == "exported":
        return ExportedEngine(found.value, labels, OpenVino if openvino else None, classifier, threads)
    if found.kind == "savedmodel":
        return SavedModelEngine(found.value, labels, classifier)
    return KerasEngine(load_trained(path), labels, precision, classifier=classifier)
