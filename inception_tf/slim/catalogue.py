"""The checkpoints that tensorflow/models published, as facts: `checkpoints/catalogue.tsv`."""

import csv
import fnmatch
import functools
from dataclasses import dataclass
from importlib import resources

from inception_tf.analysis.costs import cost_of
from inception_tf.errors import UsageError
from inception_tf.models.registry import list_models

BASE_URL = "http://download.tensorflow.org/models/"


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
        format: "V1", "V2", or None where not known before it is opened.
        md5: of the archive, or None where not known.
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

    @property
    def name(self):
        """A name of its own: `inception_v3`, `adv_inception_v3`."""
        return self.network if self.weights == "imagenet" else f"{self.weights}_{self.network}"

    @property
    def url(self):
        """Where it was published; see `download.fetch` for mirrors."""
        return BASE_URL + self.archive

    @property
    def background(self):
        """Whether class 0 is the background class."""
        return self.classes == 1001


@functools.cache
def catalogue():
    """Every published checkpoint, a tuple of `Published` in the catalogue's order."""
    text = resources.files("inception_tf.checkpoints").joinpath("catalogue.tsv").read_text(encoding="utf-8")
    convert = {"classes": int, "top1": float, "top5": float}
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


def listing(pattern="*", weights="*", max_parameters=None, max_multiply_adds=None):
    """The networks with their published weights, as far as they match.

    Args:
        pattern: a wildcard on the network's name, on the weights' ("adv*"), or on both ("adv_inception*").
        weights: a wildcard on the weights' name. A network without published weights matches "*" only.
        max_parameters, max_multiply_adds: the most that a network may have, or None. See `models.costs.Cost`.

    Returns:
        A list of (`Cost`, `Published`, or None for a network without published weights), by network.

    Raises:
        UsageError: nothing matches.
    """
    found = []
    for network in list_models():
        entries = [entry for entry in catalogue() if entry.network == network] or [None]
        for entry in entries:
            names = (network, entry.weights, entry.name) if entry else (network,)
            if fnmatch.filter(names, pattern) and fnmatch.fnmatch(entry.weights if entry else "", weights):
                found.append((network, entry))
    if not found:
        raise UsageError(
            f"No network or weights match {pattern!r} with weights {weights!r}. There are: {', '.join(list_models())}."
        )
    limits = {"parameters": max_parameters, "multiply_adds": max_multiply_adds}
    found = [(cost_of(network), entry) for network, entry in found]
    fits = [
        (cost, entry)
        for cost, entry in found
        if all(limit is None or getattr(cost, fact) <= limit for fact, limit in limits.items())
    ]
    if not fits:
        least = [f"{min(getattr(cost, fact) for cost, _ in found):,} {fact.replace('_', '-')}" for fact in limits]
        raise UsageError(f"None is as small. The least that is to be had: {', '.join(least)}.")
    return fits
