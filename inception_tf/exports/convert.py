"""A checkpoint to a Keras file, a SavedModel or another checkpoint."""

import contextlib
import dataclasses
import time
from pathlib import Path

import numpy as np

from inception_tf.errors import MismatchError, UsageError
from inception_tf.exports.savedmodel import save_savedmodel
from inception_tf.files import atomic_write, refuse_existing
from inception_tf.images.files import find_images
from inception_tf.images.labels import class_names
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.inference import batch_norm
from inception_tf.models.model import save_weights
from inception_tf.models.plain import to_plain_keras
from inception_tf.progress import Progress
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.containers.keras_file import ModelWeights
from inception_tf.slim.detect import detect
from inception_tf.slim.golden import relative
from inception_tf.slim.load import load_network
from inception_tf.slim.save import save_slim, v2_files
from inception_tf.slim.verify import VerifyReport, noise, verify

# Names of files of other kinds, which are not taken for the name of a SavedModel.
NO_DIRECTORY = (".h5", ".hdf5", ".pb", ".tflite", ".onnx", ".npz", ".safetensors")

PLAIN_TOLERANCE = 1e-6  # relative


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What `convert` did: `seconds` are those of reading, verifying and writing."""

    source: str
    target: str
    network: str
    classes: int | None
    loaded: str
    verified: VerifyReport | None
    seconds: dict

    def text(self):
        """A line for each step."""
        classes = f", {self.classes} classes" if self.classes else ", no classifier"
        lines = [f"{self.source}: {self.network}{classes}. {self.loaded}."]
        lines.append(f"Verified: {self.verified.summary()}." if self.verified else "Not verified.")
        times = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in self.seconds.items())
        return "\n".join([*lines, f"Written: {self.target} ({times})."])

    def data(self):
        """The facts for JSON."""
        facts = dataclasses.asdict(self)
        if self.verified:
            facts["verified"] |= {"passed": self.verified.passed, "worst": self.verified.worst}
        return facts


def convert(
    checkpoint,
    target,
    overwrite=False,
    check=True,
    labels=None,
    network=None,
    include_top=None,
    background="keep",
    size=None,
    scope=None,
    ema="auto",
    batch_norm_epsilon=None,
    batch_norm_decay=None,
    recalibrate=None,
    plain=False,
):
    """Converts a checkpoint. Nothing is written unless all of it succeeds.

    Args:
        checkpoint: what `open_checkpoint` takes.
        target: `name.keras`, `name.weights.h5`, `name.ckpt` (a Slim checkpoint), or another name: a SavedModel.
        overwrite: whether `target` may be replaced.
        check: whether to `verify` the model, on one image of noise, before it is written.
        labels: the class names, a list or a file, to travel in the model.
        network: its name. Default: detected.
        include_top: whether to convert the classifier. Default: when the checkpoint holds one.
        background: "drop" leaves class 0 out.
        size: the side of the images it was trained on, or (height, width), which no checkpoint records. Default: the
            published one's.
        scope, ema: as `load_slim` takes them.
        batch_norm_epsilon, batch_norm_decay: those it was trained with, which no checkpoint records. Default: those of
            Slim's arg scopes.
        recalibrate: a folder of images, or whatever `find_images` takes, from which batch norm's moving statistics are
            computed. A checkpoint of trainable variables alone has none and needs them. As many images as can be had:
            hundreds, of the kind it was trained on.
        plain: whether a `name.keras` is of Keras's own layers alone: see `to_plain_keras`.

    Returns:
        A `Conversion`.

    Raises:
        UsageError: the target exists, the labels do not fit, there are no images to recalibrate on, or `plain` is asked
            for and the target is no `name.keras`.
        CheckpointError, MismatchError: the checkpoint is none, fits no network, or the model differs from TF-Slim's.
    """
    target, seconds = Path(target), {}
    _check_target(target, overwrite)
    if plain and (_kind(target) != "keras" or labels is not None):
        raise UsageError(f"A plain model is a .keras file, and has no place for labels. Received: {target}")
    with _timed(seconds, "read"):
        checkpoint = open_checkpoint(checkpoint)
        detection = detect(checkpoint, network, scope, statistics=recalibrate is None)
        options = {"include_top": detection.classes is not None if include_top is None else include_top}
        if size is not None:
            channels = detection.options.get("input_shape", (0, 0, 3))[2]
            options["input_shape"] = (*((size, size) if isinstance(size, int) else size), channels)
        given = {"batch_norm_epsilon": batch_norm_epsilon, "batch_norm_decay": batch_norm_decay}
        options |= {option: value for option, value in given.items() if value is not None}
        model = load_network(checkpoint, detection, options, ema=ema, background=background)
        classes = model.card.classes
        if labels is not None:
            if classes is None:
                raise UsageError(f"{checkpoint.path} is converted without a classifier for labels to name.")
            model.card = dataclasses.replace(model.card, labels=class_names(classes, labels))
    if recalibrate is not None:
        with _timed(seconds, "recalibrate"):
            _recalibrate(model, recalibrate)
    report = None
    if check:
        with _timed(seconds, "verify"):
            # With statistics of its own it is no longer the checkpoint's: Slim's graph gets all of its weights.
            weights = checkpoint if recalibrate is None else ModelWeights(model, checkpoint.path)
            report = verify(weights, model, ema=ema, batch=1, detection=detection)
        if not report:
            finite = np.isfinite(report.worst)
            hint = "" if finite else " Weights that are not finite convert with --no-verify (check=False)."
            raise MismatchError(f"Not converted, the Keras model is {report.summary()}.{hint}", report)
    card = model.card
    if plain:
        model = _plain(model, check)
    with _timed(seconds, "write"):
        write(model, target, overwrite)
    network, loaded = detection.network, card.weights.report
    return Conversion(str(checkpoint.path), str(target), network, classes, loaded, report, seconds)


def _recalibrate(model, images, batch=32):
    """Computes batch norm's moving statistics over images, and says so in the model's card."""
    if not batch_norm.layers(model):
        raise UsageError(f"{model.name} has no batch norm to recalibrate.")
    files, prepare = find_images(images), Preprocessing.from_config(model.card.preprocessing)
    with Progress("recalibrating", len(files), "images") as progress:

        def batches():
            for i in range(0, len(files), batch):
                yield prepare(files[i : i + batch])
                progress.advance(len(files[i : i + batch]))

        count = batch_norm.recalibrate(model, batches())
    weights = model.card.weights
    note = f"{weights.report}; moving statistics of batch norm computed over {count} images"
    model.card = dataclasses.replace(model.card, weights=dataclasses.replace(weights, report=note, complete=False))


def _plain(model, check):
    """The plain model of one of this library, compared with it on an image of noise where asked."""
    plain = to_plain_keras(model)
    if check:
        images = noise(1, *model.card.preprocessing["size"], model.input_shape[-1])
        ours, theirs = (np.asarray(one(images, training=False), "float64") for one in (plain, model))
        difference = relative(np.abs(ours - theirs).max(), np.abs(theirs).max())
        if not difference <= PLAIN_TOLERANCE:
            raise MismatchError(f"Not converted, the plain model differs from {model.name} by {difference:.2e}.")
    return plain


@contextlib.contextmanager
def _timed(seconds, step):
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def _check_target(target, overwrite):
    """Raises a `UsageError` for a target that `write` would refuse, or that the user can hardly have meant."""
    kind = _kind(target)
    refuse_existing(target, overwrite, directory=kind == "savedmodel")
    for file in v2_files(target) if kind == "checkpoint" else ():
        refuse_existing(file, overwrite)
    if kind == "savedmodel" and target.suffix in NO_DIRECTORY:
        raise UsageError(
            f"No {target.suffix} file is written here. Name a .keras, .weights.h5 or .ckpt, or a directory."
        )
    if target.is_dir() and not (target / "saved_model.pb").is_file() and any(target.iterdir()):
        raise UsageError(
            f"{target} is a directory, and no SavedModel: --force does not replace it. Choose another name."
        )


def _kind(target):
    """What the name of a target asks for."""
    if target.name.endswith((".keras", ".weights.h5")):
        return "keras" if target.suffix == ".keras" else "weights"
    return "checkpoint" if ".ckpt" in target.name else "savedmodel"


def write(model, target, overwrite=False):
    """Writes a model in the form that the name of `target` asks for; see `convert`."""
    kind = _kind(target)
    if kind == "checkpoint":
        save_slim(model, target, overwrite=overwrite)
    elif kind == "savedmodel":
        save_savedmodel(model, target, overwrite=overwrite)
    else:
        with atomic_write(target, overwrite) as part:
            model.save(part) if kind == "keras" else save_weights(model, part)
