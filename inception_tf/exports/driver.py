"""The driver of every export: prepare, write, compare with the model, add the card, compare again, rename."""

import contextlib
import dataclasses
import io
import logging
import shutil
import warnings
from pathlib import Path

import keras
import numpy as np

from inception_tf.errors import ExportError, UsageError, need, raising
from inception_tf.exports.formats import FORMATS, Options, validate
from inception_tf.exports.model_card import published_facts
from inception_tf.files import atomic_write, refuse_existing
from inception_tf.images.labels import class_names
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.models.fused import fuse_for_inference
from inception_tf.models.model import check_model
from inception_tf.quiet import suppress_stderr

# Options that a card does not record.
UNRECORDED = ("labels", "calibrate", "held_out", "overwrite")


@dataclasses.dataclass(frozen=True)
class Export:
    """One model on its way into a format.

    Attributes:
        model: the Keras model.
        target: where to.
        format: the `Format`.
        options: the validated `Options`.
        names: the class names, None for a model without its top and in formats without labels.
        calibration: the real paths of images to calibrate on, which can be read; None but for int8.
        held_out: paths of images to compare on, or None.
    """

    model: keras.Model
    target: Path
    format: "Format"
    options: Options
    names: list | None
    calibration: list | None = None
    held_out: list | None = None

    @property
    def network(self):
        """The network to write: the model itself, or fused.

        Folded batch norm and pooling behind the 1×1 convolution pay on every engine. Sibling 1×1 convolutions merged
        into one do not: the split behind it costs more than it saves (README, Benchmarks).
        """
        return fuse_for_inference(self.model, siblings=False) if self.options.fuse else self.model

    def card(self, verification):
        """The card that travels with the export: the model's own, with how it was exported and what was found."""
        export = {option: getattr(self.options, option) for option in self.format.options if option not in UNRECORDED}
        if self.calibration is not None:
            export["calibration_images"] = len(self.calibration)
        export |= {"format": self.format.name, "verification": verification}
        export["published"] = published_facts(self.model.card)
        preprocessing = preprocessing_of(self.model)
        config = preprocessing and preprocessing.to_config()
        return dataclasses.replace(self.model.card, labels=self.names, preprocessing=config, export=export)


class Format:
    """A format: what it takes, and the steps that `export` drives.

    Attributes:
        name: its name in `FORMATS`, and that of the extra of this package that installs what it needs.
        options: the names of the `Options` that it takes.
        precisions, precision: those that it has, and the default.
        batches, max_batches: the batch that "dynamic" stands for, and how many sizes it takes.
        packages, int8_packages: the modules that it needs, and those for int8 besides.
        backend: Keras's backend that the model must be on; None: any.
        runtime: the `Runtime` that runs what was written, None where there is none here.
    """

    name = ""
    options = ("check", "overwrite")
    precisions, precision = (), None
    batches, max_batches = None, 1
    packages = int8_packages = ()
    backend = None
    runtime = None

    @property
    def suffix(self):
        """What the target's name must end in."""
        return FORMATS[self.name].suffix

    def export(self, model, target, **options):
        """Exports a model: arguments, result and errors as `formats.export`."""
        export = self.prepare(model, Path(target), validate(self, options))
        return self.write_atomically(export, lambda path: self.write(export, path))

    def write(self, export, path):
        """All of an export between `prepare` and the rename; `path` is a scratch path that ends as the target does."""
        network = self.convert(export)
        self.save(export, network, path)
        if not export.options.check:
            self.add_card(export, network, path, export.card(None))
            return
        found, outputs = self.check(export, network, path), self.outputs_on_noise(export, path)
        self.add_card(export, network, path, export.card(found))
        if not np.array_equal(self.outputs_on_noise(export, path), outputs):
            raise ExportError(f"The {self.name} file gives other outputs once its card is in it.")

    def prepare(self, model, target, options):
        """Checks what was asked for, before any long work, and reads what it needs: an `Export`."""
        check_model(model)
        # A runtime of ours takes a suffix in either case; other libraries do not.
        name = target.name.lower() if self.runtime else target.name
        if not name.endswith(self.suffix):
            raise UsageError(
                f"The format {self.name} writes a file whose name ends in {self.suffix}. Received: {target}"
            )
        for file in self.files(target):
            refuse_existing(file, options.overwrite)
        for package in (*self.packages, *(self.int8_packages if options.precision == "int8" else ())):
            need(package, self.name, f"The format {self.name}")
        if self.backend not in (None, keras.backend.backend()):
            raise UsageError(
                f"The format {self.name} needs Keras on {self.backend}: KERAS_BACKEND={self.backend}. "
                f"Received: KERAS_BACKEND={keras.backend.backend()}"
            )
        names = names_of(model, options.labels) if "labels" in self.options else None
        return Export(model, target, self, options, names)

    def files(self, target):
        """The files that will be written."""
        return [target]

    def write_atomically(self, export, write):
        """Has `write` write to a scratch path, and renames that on success. Returns the `Path` of the result."""
        with atomic_write(export.target, export.options.overwrite) as part:
            write(part)
        return export.target

    def convert(self, export):
        """The network in this format, in memory."""
        raise NotImplementedError

    def save(self, export, network, path):
        """Writes what `convert` returned."""
        raise NotImplementedError

    def check(self, export, network, path):
        """Compares what was written with the model: a JSON-like dict of what was found, or an `ExportError`."""
        raise NotImplementedError

    def add_card(self, export, network, path, card):
        """Writes the card, where the format can hold one."""

    def replace_card(self, path, card):
        """Puts another card into what was written, which stays as it is otherwise."""
        raise NotImplementedError

    def place(self, written, target, overwrite=False):
        """Moves what was written to `target`, whole or not at all. Returns the `Path` of the result."""
        export = Export(None, Path(target), self, Options(overwrite=overwrite), None)

        def move(part):
            for source, place in zip(self.files(written) or [written], self.files(part) or [part]):
                shutil.move(source, place)

        return self.write_atomically(export, move)

    def outputs_on_noise(self, export, path):
        """The runtime's outputs, None without a runtime: the file with its card must give the same."""


def names_of(model, labels=None):
    """The class names that an export of `model` has: see `Options`. None for a model without its top.

    Raises:
        UsageError: not a name a class, or one that is no line of text.
    """
    if not check_model(model).has_top:
        if labels is not None:
            raise UsageError(f"{model.name} has no classifier (include_top=False) for labels to name.")
        return None
    names = class_names(model.outputs[0].shape[-1], model.card.labels if labels is None else labels)
    for name in names:
        if name.splitlines() != [name]:
            raise UsageError(f"A label is a line of text. Received: {name!r}")
    return names


def image_shape(model):
    """The (height, width, channels) of a model's images, the preprocessing's where the model takes any."""
    sides = zip(model.input_shape[1:3], model.card.preprocessing["size"])
    return (*(own or default for own, default in sides), model.input_shape[-1])


@contextlib.contextmanager
def external_converter(failure):
    """Runs another library's converter without its log, and turns whatever it raises into an `ExportError` of a line.

    Args:
        failure: the beginning of the error's message.
    """
    disabled = logging.root.manager.disable
    quiet = suppress_stderr(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings()
    with raising(ExportError, failure, Exception), quiet[0], quiet[1], quiet[2]:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
