"""The card beside a SavedModel: as JSON for programs, and in words for people."""

import dataclasses
import json
from pathlib import Path

from inception_tf.models.card import SAVED_MODEL_CARD
from inception_tf.slim.catalogue import published_source

TEXT = "assets.extra/MODEL_CARD.md"

SIGNATURES = {
    "serving_default": "`images` (float32, prepared as below) to `logits` and `probabilities`",
    "features": "`images` to `features`, what the classifier takes",
    "predict_image_bytes": "`image_bytes` (image files) to `classes`, `scores` and `status`, which is empty, or says "
    "why an image could not be read; its scores are NaN then",
    "class_maps": "`image_bytes` to the same and `maps`, what every position of the last feature map adds to a class's "
    "logit",
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
    card = export_card(card, preprocessing, export)
    for path, text in (SAVED_MODEL_CARD, card.to_json()), (TEXT, card_text(card)):
        path = Path(savedmodel, path)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")


def export_card(card, preprocessing, export):
    """The card of an export: that of its model, the `Preprocessing` of its images, or None, and how it was exported.

    `export["published"]` is what was published of the model's weights, None where nothing was: url, provenance, top1
    and top5, which are None where the weights are no longer those published.
    """
    published = published_source(card)
    if published:
        accuracy = ("top1", "top5")
        figures = {fact: getattr(published, fact) if card.weights.unchanged else None for fact in accuracy}
        published = {"url": published.url, "provenance": published.provenance, **figures}
    config = preprocessing and preprocessing.to_config()
    return dataclasses.replace(card, preprocessing=config, export={**export, "published": published})


def card_text(card):
    """A card in Markdown."""
    export = card.export
    lines = [f"# {export['name'] or card.network}", ""]
    lines += [f"An image classifier, {card.network}, exported by inception_tf as a TensorFlow SavedModel.", ""]

    lines += ["## Provenance", ""]
    facts = dataclasses.asdict(card.weights)
    facts = [f"{key.replace('_', ' ')} {value}" for key, value in facts.items() if value not in (None, False)]
    lines += [f"- weights: {', '.join(facts)}"]
    lines += [f"- {option}: {value}" for option, value in card.options.items()]
    if card.evaluation:
        lines += [f"- evaluation: `{json.dumps(card.evaluation, ensure_ascii=False)}`"]
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
    if card.preprocessing:
        lines += [f"- {key}: {value}" for key, value in card.preprocessing.items()]
        lines += ["", "`inception_tf.images.preprocessing` says what each kind does."]
        lines[-1] += " The signatures of image files do it in the graph."
    else:
        lines += ["None known for images of as many channels: `serving_default` takes what the model was trained on."]

    lines += ["", "## Signatures", ""]
    texts = SIGNATURES | ({} if card.include_top else {"serving_default": "`images` to `features`"})
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
