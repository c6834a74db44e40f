"""A model's card: what it is, how its images are prepared, where its weights come from, how it was exported.

It travels with the model: in a `.keras` file's config, and as JSON in every export. It needs no Keras.
"""

import dataclasses
import json
from pathlib import Path

from inception_tf import tables
from inception_tf.errors import CheckpointError

# Where a SavedModel has it, among the extra files that TensorFlow Serving leaves alone.
SAVED_MODEL_CARD = "assets.extra/inception_tf.json"


@dataclasses.dataclass(frozen=True)
class Weights:
    """Where a model's weights come from.

    Attributes:
        source: the file or the archive they were loaded from.
        step: the training step recorded there, or None.
        report: what became of every variable, in words: `str(LoadReport)`.
        complete: whether every variable of the model is the source's.
        fine_tuned_on: how many images they were trained on since, or None.
    """

    source: str = "random weights"
    step: int | None = None
    report: str | None = None
    complete: bool = False
    fine_tuned_on: int | None = None

    @property
    def unchanged(self):
        """Whether the model is the source's, so that the accuracy published for that holds."""
        return self.complete and self.fine_tuned_on is None


@dataclasses.dataclass(frozen=True)
class Card:
    """A model's facts. Change one by `model.card = dataclasses.replace(model.card, ...)`.

    Attributes:
        network: the network's name.
        options: what it was built with, a dict.
        scope: the Slim scope of its variables.
        preprocessing: how its images are prepared, a dict of "kind", "size" and "channels"; None where not known.
        labels: one class name a logit, a list, or None.
        thresholds: of a model that gives an image several labels, the probability from which on each class is answered,
            a list; else None.
        weights: the `Weights`.
        fused: whether `fuse_for_inference` made it.
        evaluation: what was measured of it, a dict.
        export: how it was exported and verified, a dict; empty for a model in memory.
    """

    network: str
    options: dict = dataclasses.field(default_factory=dict)
    scope: str = ""
    preprocessing: dict | None = None
    labels: list | None = None
    thresholds: list | None = None
    weights: Weights = Weights()
    fused: bool = False
    evaluation: dict = dataclasses.field(default_factory=dict)
    export: dict = dataclasses.field(default_factory=dict)

    @property
    def include_top(self):
        """Whether the model ends in its classifier."""
        return self.options.get("include_top", True)

    @property
    def classes(self):
        """The number of classes, or None for a model without a classifier."""
        return self.options["classes"] if self.include_top else None

    @property
    def multi_label(self):
        """Whether an image has several labels, or none, so that each probability is one of its own."""
        return self.include_top and self.thresholds is not None

    @property
    def gives_logits(self):
        """Whether the classifier has no last activation, so that the model's output is its logits."""
        return self.options.get("classifier_activation") in (None, "linear")

    def _repr_html_(self):
        def text(value):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            return text if len(text) <= 200 else text[:199] + "…"

        return tables.html([(name.replace("_", " "), text(value)) for name, value in self.to_dict().items() if value])

    def to_dict(self):
        """The card as JSON-like dicts, lists, numbers and strings."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def to_json(self):
        """The card as JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_dict(cls, values):
        """The card of what `to_dict` gave. What this version does not know is left out."""

        def known(kind, values):
            return {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values}

        return cls(**{**known(cls, values), "weights": Weights(**known(Weights, values.get("weights") or {}))})

    @classmethod
    def from_json(cls, text):
        """The card in the JSON of an export; None where `text` is none."""
        try:
            return cls.from_dict(json.loads(text))
        except (TypeError, ValueError, AttributeError):
            return None


def read_card(saved_model):
    """The `Card` in a SavedModel directory.

    Raises:
        CheckpointError: it has none: it was exported by something else.
    """
    try:
        card = Card.from_json(Path(saved_model, SAVED_MODEL_CARD).read_text("utf-8"))
    except OSError:
        card = None
    if card is None:
        raise CheckpointError(f"{saved_model} was not exported by this library: it has no {SAVED_MODEL_CARD}.")
    labels = Path(saved_model, "assets", "labels.txt")
    if card.labels is None and labels.is_file():  # of a version whose cards had no labels
        return dataclasses.replace(card, labels=labels.read_text("utf-8").splitlines())
    return card
