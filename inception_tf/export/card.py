"""The model's card beside an export: what it is and how its images are prepared, for whoever runs it without Keras."""

import json
from pathlib import Path

from inception_tf.errors import CheckpointError

NAME = "assets.extra/inception_tf.json"


def write_card(card, preprocessing, savedmodel):
    """Writes a model's card into its SavedModel directory, where TensorFlow Serving lets extra files be.

    Args:
        card: `model.card`.
        preprocessing: the `Preprocessing` of its images, or None.
        savedmodel: the directory.
    """
    path = Path(savedmodel, NAME)
    path.parent.mkdir(exist_ok=True)
    card = {**card, "preprocessing": preprocessing and preprocessing.to_config()}
    path.write_text(json.dumps(card, indent=2, default=dict) + "\n", "utf-8")


def read_card(savedmodel):
    """The card in a SavedModel directory.

    Raises:
        CheckpointError: it has none: it was exported by something else.
    """
    try:
        return json.loads(Path(savedmodel, NAME).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{savedmodel} was not exported by this library: it has no {NAME}.") from error
