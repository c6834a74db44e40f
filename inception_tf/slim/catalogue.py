"""The checkpoints that tensorflow/models published, as facts: `checkpoints/catalogue.tsv`."""

import csv
import functools
from dataclasses import dataclass
from importlib import resources

from inception_tf.errors import UsageError

# By https, the bucket that download.tensorflow.org is.
BASE_URL = "https://storage.googleapis.com/download.tensorflow.org/models/"


@dataclass(frozen=True)
class Published:
    """One published checkpoint.

    Attributes:
        network: the network's name, as in `list_models()`.
        weights: what it was trained on or how, as `create_model(weights=...)` takes it: "imagenet", "adv", ...
        archive: file name of the archive.
        member: file name of the checkpoint in it; a trailing `*` where only its beginning is known.
        classes: classes of its head: 1001 with background at 0, 1000 without.
        top1, top5: ImageNet validation accuracy in percent, one central crop, or None where none was published.
        format: "V1", "V2", "frozen graph", or None where not known before it is opened.
        md5: of the archive, or None where not known.
        folder: where it lies below `BASE_URL`, with its slash, or None.
        bytes: the archive's size, or None where not known.
        provenance: the paper, and where it was published.
    """

    network: str
    weights: str
    archive: str
    member: str
    classes: int
    top1: float | None
    top5: float | None
    format: str | None
    md5: str | None
    provenance: str
    folder: str | None = None
    bytes: int | None = None

    @property
    def name(self):
        """A name of its own: `inception_v3`, `adv_inception_v3`."""
        return self.network if self.weights == "imagenet" else f"{self.weights}_{self.network}"

    @property
    def url(self):
        """Where it was published; see `download.fetch` for mirrors."""
        return BASE_URL + (self.folder or "") + self.archive


@functools.cache
def catalogue():
    """Every published checkpoint, a tuple of `Published` in the catalogue's order."""
    text = resources.files("inception_tf.checkpoints").joinpath("catalogue.tsv").read_text(encoding="utf-8")
    convert = {"classes": int, "top1": float, "top5": float, "bytes": int}
    return tuple(
        Published(**{key: convert.get(key, str)(cell) if cell else None for key, cell in row.items()})
        for row in csv.DictReader(text.splitlines(), delimiter="\t")
    )


def find(network, weights):
    """The published checkpoint `weights` ("imagenet", "adv", ...) of `network`.

    Raises:
        UsageError: there is none; the message lists those the network has.
    """
    of_network = {entry.weights: entry for entry in catalogue() if entry.network == network}
    if weights in of_network:
        return of_network[weights]
    has = f"has published weights {', '.join(of_network)}" if of_network else "has no published weights"
    raise UsageError(f"{network} {has}. The path of a checkpoint is taken too. Received: weights={str(weights)!r}")


def published_source(card):
    """The `Published` checkpoint that a model's weights were loaded from, changed since or not; None where none was."""
    of_card = (entry for entry in catalogue() if (entry.network, entry.archive) == (card.network, card.weights.source))
    return next(of_card, None)
