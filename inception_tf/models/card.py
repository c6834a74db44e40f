"""The model's card beside an export: what it is, how its images are prepared, and how it was verified.

As JSON for programs, and in words for people, for whoever runs the export without Keras.
"""

import json
import re
from pathlib import Path

from inception_tf.errors import CheckpointError

NAME = "assets.extra/inception_tf.json"
TEXT = "assets.extra/MODEL_CARD.md"

SIGNATURES = {
    "serving_default": "`images` (float32, prepared as below) to `logits` and `probabilities`",
    "features": "`images` to `features`, what the classifier takes",
    "predict_image_bytes": "`image_bytes` (image files) to `classes`, `scores` and `status`, which is empty, or says "
    "why an image could not be read; its scores are NaN then",
    "class_maps": "`image_bytes` to the same and `maps`, what every place of the last map adds to a class's logit",
    "classify": "`inputs` (serialized `tf.Example` with `image/encoded`) to `classes` and `scores`, for Serving's "
    "Classify; an image that could not be read has empty classes and NaN",
}


def write_card(card, preprocessing, savedmodel, name=None, signatures=(), options=None, verification=None):
    """Writes a model's card into its SavedModel directory, where TensorFlow Serving lets extra files be.

    Args:
        card: `model.card`, the class names in it as they were exported.
        preprocessing: the `Preprocessing` of its images, or None.
        savedmodel: the directory.
        name: the servable's name.
        signatures: the names of its signatures.
        options: what it was exported with: a JSON-like dict.
        verification: what `check_savedmodel` returned, or None where it did not run.
    """
    export = {"name": name, "signatures": list(signatures), **(options or {}), "verification": verification}
    export["published"] = published(card)
    card = {**card, "preprocessing": preprocessing and preprocessing.to_config(), "export": export}
    card = json.loads(json.dumps(card, default=dict))
    for path, text in (NAME, json.dumps(card, indent=2) + "\n"), (TEXT, card_text(card)):
        path = Path(savedmodel, path)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")


def read_card(savedmodel):
    """The card in a SavedModel directory.

    Raises:
        CheckpointError: it has none: it was exported by something else.
    """
    try:
        return json.loads(Path(savedmodel, NAME).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{savedmodel} was not exported by this library: it has no {NAME}.") from error


def published(card):
    """What was published of the checkpoint that a model was loaded from. None where nothing was.

    Returns:
        A dict: url, provenance, top1, top5; the accuracy is None where the weights are no longer those published: the
        model was trained further, or has a new head.
    """
    from inception_tf.slim.catalogue import catalogue

    weights = card.get("weights") or {}
    other = "fine_tuned_on" in weights or re.search(r"\d excluded", str(weights.get("report")))
    for entry in catalogue():
        if (entry.network, entry.archive) == (card["network"], weights.get("source")):
            accuracy = {"top1": None, "top5": None} if other else {"top1": entry.top1, "top5": entry.top5}
            return {"url": entry.url, "provenance": entry.provenance, **accuracy}
    return None


def card_text(card):
    """A card in Markdown, of its JSON form."""
    options, export = card["options"], card["export"]
    told = {"network", "options", "scope", "preprocessing", "labels", "weights", "export"}
    lines = [f"# {export['name'] or card['network']}", ""]
    lines += [f"An image classifier, {card['network']}, exported by inception_tf as a TensorFlow SavedModel.", ""]

    lines += ["## Provenance", ""]
    weights = card.get("weights") or {"source": "not recorded"}
    facts = [f"{key.replace('_', ' ')} {value}" for key, value in weights.items()]
    lines += [f"- weights: {', '.join(facts)}"]
    lines += [f"- {option}: {value}" for option, value in options.items()]
    lines += [f"- {key}: `{json.dumps(card[key], ensure_ascii=False)}`" for key in card if key not in told]
    known = export["published"]
    if known:
        lines += ["", f"A checkpoint of that name was published at {known['url']} ({known['provenance']})."]

    lines += ["", "## Accuracy", ""]
    if known and known["top1"] is not None:
        lines += ["Published for that checkpoint, on ImageNet's validation images, one central crop: "]
        lines[-1] += f"top-1 {known['top1']}%, top-5 {known['top5']}%."
    else:
        lines += ["Not recorded, but for what Provenance says."]

    lines += ["", "## Preprocessing", ""]
    if card["preprocessing"]:
        lines += [f"- {key}: {value}" for key, value in card["preprocessing"].items()]
        lines += ["", "`inception_tf.images.preprocessing` says what each kind does."]
        lines[-1] += " The signatures of image files do it in the graph."
    else:
        lines += ["None known for images of as many channels: `serving_default` takes what the model was trained on."]

    lines += ["", "## Signatures", ""]
    texts = SIGNATURES | ({} if options.get("include_top", True) else {"serving_default": "`images` to `features`"})
    lines += [f"- {name}: {texts[name]}" for name in export["signatures"]]
    if "batch" in export:
        compiled = "compiled by XLA, which a server must be told to enable" if export["xla"] else "no XLA"
        sizes = ", ".join(map(str, export["batch"]))
        lines += ["", f"Any batch size; warmed up for {sizes}; {compiled}. "]
        lines[-1] += f"Computed in {export['precision']}. " if export.get("precision") else ""
        lines[-1] += f"Images of more than {export['max_pixels']:,} pixels are not read."

    lines += ["", "## Verification", ""]
    found = export["verification"]
    if found is None:
        lines += ["The export was not compared with its Keras model."]
    else:
        lines += ["Loaded in a fresh process without Keras, on the CPU, and compared with the Keras model. "]
        lines[-1] += f"The largest difference, over the largest value (limit {found['tolerance']:g}):"
        lines += ["", *(f"- {output}: {worst:.1e}" for output, worst in found["differences"].items())]
        if found["broken_image"]:
            lines += ["", f'A file that is no image beside good ones: "{found["broken_image"]}"; the others answered.']
    return "\n".join(lines) + "\n"
