"""What an evaluation found, as files: numbers, a row for every image, pictures."""

import json
from pathlib import Path

from inception_tf.evaluation import plots
from inception_tf.evaluation.evaluate import write_predictions
from inception_tf.evaluation.multi_label import MultiLabelEvaluation
from inception_tf.files import atomic_write, refuse_existing

FILES = ("evaluation.json", "predictions.csv", "confusion.png", "confident_errors.png")


def refuse_report(directory, overwrite=False):
    """Raises a `UsageError` when one of a report's files exists and may not be replaced: call it before long work."""
    for name in FILES:
        refuse_existing(Path(directory, name), overwrite)


def write_report(evaluation, examples, directory, overwrite=False):
    """Writes evaluation.json, predictions.csv, and, with matplotlib, confusion.png and confident_errors.png.

    Args:
        evaluation: an `Evaluation`, or a `MultiLabelEvaluation`, of which there are no pictures.
        examples: the `Examples` it is of.
        directory: where to; created where it is missing.
        overwrite: whether files that are there may be replaced.

    Returns:
        The paths written, and why there are no pictures, or None.

    Raises:
        UsageError: a file exists, and `overwrite` is false.
        InceptionTFError: it cannot be written.
    """
    paths = numbers, predictions, confusion, errors = [Path(directory, name) for name in FILES]
    with atomic_write(numbers, overwrite) as part:
        part.write_text(json.dumps(evaluation.to_json()) + "\n", "utf-8")
    write_predictions(evaluation, predictions, overwrite)
    if isinstance(evaluation, MultiLabelEvaluation):
        return paths[:2], None
    try:
        plots.confusion_matrix(evaluation, confusion, overwrite)
        plots.confident_errors(evaluation, examples, errors, overwrite=overwrite)
    except ImportError as error:
        return paths[:2], str(error)
    return paths, None
