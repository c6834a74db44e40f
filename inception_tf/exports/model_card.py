"""The card beside a SavedModel: as JSON for programs, and in words for people."""

import dataclasses
import json
from pathlib import Path

from inception_tf.errors import listed
from inception_tf.models.card import SAVED_MODEL_CARD
from inception_tf.slim.catalogue import published_source
from inception_tf.tables import percent

TEXT = "assets.extra/MODEL_CARD.md"

# The oldest under which `tools/old_tensorflow.py` had every signature of an export answer as here.
OLDEST_TENSORFLOW = "2.12.1"

SIGNATURES = {
    "serving_default": "`images` (float32, prepared as below) to `logits` and `probabilities`",
    "features": "`images` to `features`, what the classifier takes",
    "predict_image_bytes": "`image_bytes` (image files) to `classes`, `scores` and `status`, which is empty, or says "
    "why an image could not be read; its scores are 0 then",
    "class_maps": "`image_bytes` to the same and `maps`, what every position of the last feature map adds to a class's "
    "logit",
    "classify": "`inputs` (serialized `tf.Example` with `image/encoded`) to `classes` and `scores`, for Serving's "
    "Classify; an image that could not be read has empty classes and scores 0",
}


def write_card(card, saved_model):
    """Writes a `Card` into a SavedModel directory, where TensorFlow Serving lets extra files be."""
    for path, text in (SAVED_MODEL_CARD, card.to_json()), (TEXT, card_text(card)):
        path = Path(saved_model, path)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")


def published_facts(card):
    """What was published of a model's weights: a dict of url, provenance, top1 and top5. None where nothing was.

    The accuracy is None where the weights are no longer those published.
    """
    published = published_source(card)
    if published is None:
        return None
    accuracy = {name: getattr(published, name) if card.weights.unchanged else None for name in ("top1", "top5")}
    return {"url": published.url, "provenance": published.provenance, **accuracy}


def card_text(card):
    """A card in Markdown."""
    export = card.export
    lines = [f"# {export['name']}", ""]
    lines += [f"An image classifier, {card.network}, exported by inception_tf as a TensorFlow SavedModel.", ""]

    lines += ["## Provenance", ""]
    facts = dataclasses.asdict(card.weights)
    del facts["complete"]  # the report says so in more words
    facts = [f"{key.replace('_', ' ')} {value}" for key, value in facts.items() if value is not None]
    lines += [f"- weights: {', '.join(facts)}"]
    lines += [f"- {option}: {value}" for option, value in card.options.items() if value is not None]
    if card.labels:
        lines += [f"- {len(card.labels)} classes: {listed(card.labels, 50)}"]
    if card.evaluation:
        lines += [f"- evaluation: `{json.dumps(card.evaluation, ensure_ascii=False)}`"]
    known = export["published"]
    if known:
        lines += ["", f"A checkpoint of that name was published at {known['url']} ({known['provenance']})."]

    lines += ["", "## Accuracy", ""]
    if known and known["top1"] is not None:
        lines += ["Published for that checkpoint, on ImageNet's validation images, one central crop: "]
        lines[-1] += f"top-1 {known['top1']}%, top-5 {known['top5']}%."
    elif {"accuracy", "mean_ap"} & set(measured := card.evaluation):
        several = "mean_ap" in measured
        figure = f"mAP {percent(measured['mean_ap'])}" if several else f"top-1 {percent(measured['accuracy'])}"
        lines += [f"Measured on {measured['images']} images of {measured['data']} that were held out, at step "]
        lines[-1] += f"{measured['step']} of fine-tuning: {figure}. The best of the run's epochs "
        lines[-1] += f"{'and the thresholds were' if several else 'was'} chosen by these same images."
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
    compiled = "compiled by XLA, which has to be enabled in the server" if export["xla"] else "no XLA"
    lines += ["", f"Any batch size; warmed up for {', '.join(map(str, export['batch']))}; {compiled}. "]
    lines[-1] += f"Computed in {export['precision']}. " if export["precision"] else ""
    lines[-1] += f"Images of more than {export['max_pixels']:,} pixels are not read. "
    lines[-1] += f"The oldest TensorFlow under which such an export was tried is {OLDEST_TENSORFLOW}."

    if fastest := export.get("fastest"):
        lines += ["", "## Chosen by measurement", ""]
        lines += [f"{fastest['chosen']}, the fastest of {len(fastest['candidates'])} candidates on "]
        lines[-1] += (
            f"{fastest['machine']['processor']} at batch {fastest['batch']}; `inception_tf.json` has the table."
        )

    lines += ["", "## Verification", ""]
    found = export["verification"]
    if found is None:
        lines += ["The export was not compared with its Keras model."]
    else:
        lines += ["Loaded in a fresh process without Keras, on the CPU, and compared with the Keras model. "]
        lines[-1] += f"The largest difference, over the largest value (limit {found['tolerance']:g}"
        # See `check`: in 16 bits.
        lines[-1] += ", of a map's mean where there is one):" if found["tolerance"] > 1e-5 else "):"
        lines += ["", *(f"- {output}: {worst:.1e}" for output, worst in found["differences"].items())]
        if found["broken_image"]:
            status = found["broken_image"]
            lines += ["", f'A file that is no image beside good ones: "{status}"; the others were classified.']
    return "\n".join(lines) + "\n"
