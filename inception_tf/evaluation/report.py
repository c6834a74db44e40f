"""What an evaluation found, as files: numbers, a row for every image, pictures."""

import json
from pathlib import Path

from inception_tf.evaluation import plots
from inception_tf.evaluation.evaluate import write_predictions
from inception_tf.files import atomic_write, refuse_existing

NUMBERS, PREDICTIONS, CONFUSION, MISTAKES = "evaluation.json", "predictions.csv", "confusion.png", "mistakes.png"


def refuse_report(directory, overwrite=False):
    """Raises a `UsageError` when one of a report's files exists and may not be replaced: call it before long work."""
    for name in (NUMBERS, PREDICTIONS, CONFUSION, MISTAKES):
        refuse_existing(Path(directory, name), overwrite)


def write_report(evaluation, examples, directory, overwrite=False):
    """Writes evaluation.json, predictions.csv, and, where matplotlib is there, confusion.png and mistakes.png.

    Args:
        evaluation: an `Evaluation`.
        examples: the `Examples` it is of.
        directory: where to; made where it is missing.
        overwrite: whether files that are there may be replaced.

    Returns:
        The paths written, and why there are no pictures, or None.

    Raises:
        UsageError: a file exists, and `overwrite` is false.
        InceptionTFError: it cannot be written.
    """
    numbers, predictions, confusion, mistakes = (
        Path(directory, name) for name in (NUMBERS, PREDICTIONS, CONFUSION, MISTAKES)
    )
    with atomic_write(numbers, overwrite) as part:
        part.write_text(json.dumps(evaluation.to_json()) + "\n", "utf-8")
    write_predictions(evaluation, predictions, overwrite)
    try:
        plots.confusion_matrix(evaluation, confusion, overwrite)
        plots.worst_mistakes(evaluation, examples, mistakes, overwrite=overwrite)
    except ImportError as error:
        return [numbers, predictions], str(error)
    return [numbers, predictions, confusion, mistakes], None
