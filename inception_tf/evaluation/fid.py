"""Generated images beside real ones: FID and the other measures, of whatever the two sides are."""

import dataclasses
from pathlib import Path

import numpy as np

from inception_tf import tables
from inception_tf.errors import UsageError
from inception_tf.evaluation import generative
from inception_tf.evaluation.feature_statistics import FeatureStatistics, check_comparable, is_statistics
from inception_tf.evaluation.features import Features
from inception_tf.images.image_sets import open_image_set

METRICS = ("fid", "kid", "is", "pr", "dc")
FEW = 2048  # images below which a covariance of 2048 dimensions has no full rank
SAMPLE = 64  # images of a side, at most, on which the change by a narrow precision is measured


@dataclasses.dataclass
class Comparison:
    """What was measured of generated images beside real ones.

    Attributes:
        mode: how the images were resized, one of `MODES`; None where only statistics that do not say are compared.
        counts: the images of the two sides, None where not known.
        fid: the Fréchet Inception distance, or None where not asked for, as all that follow.
        kid: mean, standard deviation, and the size of its subsets.
        inception_score: mean and standard deviation, of the generated images.
        precision, recall, density, coverage: fractions; density may exceed 1.
        precision_change: what `precision_change` found, a dict, where the precision is not float32.
        skipped: a dict from images that could not be read to the reason.
        warnings, notes: texts.
    """

    mode: str | None
    counts: tuple
    precision_of: str = "float32"
    fid: float | None = None
    kid: tuple | None = None
    inception_score: tuple | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    precision_change: dict | None = None
    skipped: dict = dataclasses.field(default_factory=dict)
    warnings: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)

    def to_json(self):
        """The facts as JSON takes them."""
        data = dataclasses.asdict(self)
        data["computed_in"] = data.pop("precision_of")
        if self.kid:
            data["kid"] = dict(zip(("mean", "deviation", "subset_size"), self.kid))
        if self.inception_score:
            data["inception_score"] = dict(zip(("mean", "deviation"), self.inception_score))
        return data

    def __str__(self):
        rows = [("resize", self.mode or "not recorded")]
        rows.append(("images", " and ".join("unknown" if count is None else f"{count:,}" for count in self.counts)))
        if self.precision_of != "float32":
            rows.append(("computed in", self.precision_of))
        if self.precision_change:
            text = "{relative:+.2%}: {fid:.6g}, in float32 {float32:.6g}, of {} and {} images"
            counts = ("unknown" if count is None else count for count in self.precision_change["counts"])
            rows.append(("which changes FID by", text.format(*counts, **self.precision_change)))
        if self.fid is not None:
            rows.append(("FID", f"{self.fid:.6g}"))
        if self.kid:
            rows.append(("KID", "{:.6g} ± {:.2g} (subsets of {})".format(*self.kid)))
        if self.inception_score:
            rows.append(("Inception score", "{:.6g} ± {:.2g}".format(*self.inception_score)))
        rows += [
            (n, f"{v:.4f}")
            for n in ("precision", "recall", "density", "coverage")
            if (v := getattr(self, n)) is not None
        ]
        lines = [tables.render(rows, align="<<")]
        if self.skipped:
            lines.append(f"Left out, since they could not be read: {len(self.skipped)}")
            lines += [f"  {name}: {reason}" for name, reason in list(self.skipped.items())[:10]]
        texts = [("warning", text) for text in self.warnings] + [("note", text) for text in self.notes]
        return "\n".join([*lines, *map(": ".join, texts)])


def check_options(metrics=("fid",), subsets=100, subset_size=1000, splits=10, neighbors=None):
    """Raises a `UsageError` for what `compare` cannot take: call it before long work."""
    if not metrics or not set(metrics) <= set(METRICS):
        received = ", ".join(sorted(set(metrics) - set(METRICS))) or "none"
        raise UsageError(f"The metrics are {', '.join(METRICS)}, or all. Received: {received}")
    options = (
        ("subsets", subsets, 1),
        ("subset_size", subset_size, 2),
        ("splits", splits, 1),
        ("neighbors", neighbors, 1),
    )
    for name, count, least in options:
        if count is not None and count < least:
            raise UsageError(f"{name} must be {least} at least. Received: {count}")


def check_sides(sides, metrics=("fid",), mode=None):
    """Raises a `UsageError` where saved statistics do not do for the metrics, or cannot be compared: before long work.

    Args:
        sides: those of `compare`; images that were not opened yet may be anything, resized in `mode`.
    """
    saved = [side if isinstance(side, FeatureStatistics) else None for side in sides]
    given = {metric: any(saved[:1] if metric == "is" else saved) for metric in METRICS if metric in metrics}
    if asked := [metric for metric, statistics in given.items() if statistics and metric != "fid"]:
        raise UsageError(f"Saved statistics are for FID alone: {', '.join(asked)} needs the images.")
    first, *others = (side or FeatureStatistics(mode) for side in saved)
    for other in others:
        check_comparable(first, other)


def open_side(source, extractor=None, skip=False, cache=True, pool=None):
    """One side of a comparison: `FeatureStatistics` where it is a file of those, else `Features`.

    Args:
        source: a `.npz` with `mu` and `sigma`; what `open_image_set` takes; `Features` or `FeatureStatistics`.
        extractor: a `FeatureExtractor`, or a function that makes one; not asked where the side is statistics.
        skip, cache, pool: as in `FeatureExtractor.extract`.
    """
    if isinstance(source, (Features, FeatureStatistics)):
        return source
    if isinstance(source, (str, Path)) and is_statistics(source):
        return FeatureStatistics.load(source)
    extractor = extractor if hasattr(extractor, "extract") else extractor()
    label = source if isinstance(source, str) else "features"
    return extractor.extract(source, skip, cache, label, pool)


def compare(generated, real, metrics=("fid",), kernel=None, subsets=100, subset_size=1000, splits=10, neighbors=None):
    """Measures generated images beside real ones.

    Args:
        generated, real: `Features`, or for FID `FeatureStatistics`; for the Inception score the real ones too.
        metrics: some of `METRICS`: FID, KID, Inception score, precision and recall, density and coverage.
        kernel: the classifier's weights, `FeatureExtractor.kernel`, for the Inception score.
        subsets, subset_size: of KID. splits: of the Inception score.
        neighbors: the k of precision and recall, and of density and coverage. Default: their papers', 3 and 5.

    Returns:
        A `Comparison`.

    Raises:
        UsageError: an option out of range; a metric that needs features of a side that is statistics; sides that cannot
            be compared (`check_comparable`), or of too few images.
    """
    check_options(metrics, subsets, subset_size, splits, neighbors)
    check_sides((generated, real), metrics)
    first, second = (side.statistics if isinstance(side, Features) else side for side in (generated, real))
    check_comparable(first, second)
    result = Comparison(first.mode or second.mode, (first.count, second.count))
    for side in (generated, real):
        result.skipped |= getattr(side, "skipped", {})
    if "fid" in metrics:
        result.fid = generative.frechet_distance(first.mu, first.sigma, second.mu, second.sigma)
        few = [f"{count:,}" for count in result.counts if count is not None and count < FEW]
        if few:
            result.warnings.append(
                f"FID of {' and '.join(few)} images is biased upward; below {FEW:,} the covariance lacks full "
                "rank: compare only figures of as many images."
            )
        if not (first.mode and second.mode):
            result.warnings.append("Statistics without a mode: whether they were resized alike cannot be checked.")
    if "kid" in metrics:
        result.kid = generative.kernel_distance(generated.values, real.values, subsets, subset_size)
        whole = [name for name, count in zip(("generated", "real"), result.counts) if count == result.kid[2]]
        if whole:
            result.notes.append(
                f"Each of KID's subsets is all {result.kid[2]} {' and '.join(whole)} images: its deviation is "
                f"{'0 by construction' if len(whole) == 2 else 'too small'}. A smaller subset size shows it."
            )
    if "is" in metrics:
        if kernel is None:
            raise UsageError("The Inception score needs the network with its classifier.")
        result.inception_score = generative.inception_score(generated.values @ np.asarray(kernel), splits)
        if result.counts[0] < 2 * splits:
            result.notes.append(f"The Inception score of a split of one image is 1: {splits} are too many here.")
    if "pr" in metrics:
        result.precision, result.recall = generative.precision_recall(generated.values, real.values, neighbors or 3)
    if "dc" in metrics:
        result.density, result.coverage = generative.density_coverage(generated.values, real.values, neighbors or 5)
    return result


def precision_change(generated, real, narrow, exact, count=SAMPLE, cache=True):
    """FID in a narrow precision beside float32, of the same images: some of each side, evenly spaced.

    Args:
        generated, real: as `open_side` takes them, but no `Features`. A side that is statistics is taken as it is.
        narrow, exact: `FeatureExtractor`s, which differ in their precision.
        count: how many images of a side, at most.
        cache: as in `FeatureExtractor.extract`.

    Returns:
        A dict: `counts` of the two sides, `fid`, `float32`, and `relative`, the change over the latter.
    """
    samples = [
        side
        if isinstance(side, FeatureStatistics) or (isinstance(side, (str, Path)) and is_statistics(side))
        else open_image_set(side).sample(count)
        for side in (generated, real)
    ]
    found, exactly = (
        compare(*(open_side(sample, extractor, skip=True, cache=cache) for sample in samples))
        for extractor in (narrow, exact)
    )
    relative = (found.fid - exactly.fid) / exactly.fid if exactly.fid else 0.0
    return {"counts": exactly.counts, "fid": found.fid, "float32": exactly.fid, "relative": relative}
