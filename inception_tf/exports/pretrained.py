"""Models as directories, as the Hugging Face hub keeps them: weights, a config, a model card with front matter."""

import json
import tempfile
from pathlib import Path

import keras

from inception_tf.errors import CheckpointError, DownloadError, ExportError, MismatchError, listed, need, raising
from inception_tf.files import atomic_write
from inception_tf.inference.runtimes import read_safetensors
from inception_tf.models.card import Card
from inception_tf.models.fused import refuse_fused
from inception_tf.models.initialization import skip_init
from inception_tf.models.model import check_model
from inception_tf.slim.names import model_variables, scoped
from inception_tf.tables import percent
from inception_tf.zoo import create_model

WEIGHTS, CONFIG, README = FILES = ("model.safetensors", "config.json", "README.md")
HUB = "hf://"


def save_pretrained(model, directory, license=None, overwrite=False):
    """Writes a model as a directory that `from_pretrained` reads; `push_to_hub` publishes the same.

    - model.safetensors: the variables under Slim's names with the scope, float32.
    - config.json: the model's card, with its class names and its preprocessing, its input shape and its name.
    - README.md: a model card in words; its front matter has what the hub shows: tags, license, accuracy.

    Args:
        model: a model of this library, not fused.
        directory: where to; the last part is the name on the card.
        license: the license in the front matter, such as "apache-2.0". Default: none is stated.
        overwrite: whether an existing directory may be replaced.

    Returns:
        The `Path` of the directory, written whole or not at all.

    Raises:
        UsageError: no model of this library, a fused one, the directory exists, safetensors is missing.
        InceptionTFError: it cannot be written.
    """
    refuse_fused(check_model(model), "save_pretrained")
    save = need("safetensors.numpy", "hub", "save_pretrained").save
    card, directory = model.card, Path(directory)
    config = {"library_name": "inception_tf", "name": model.name, "input_shape": list(model.input_shape[1:])}
    values = {
        scoped(card.scope, name): keras.ops.convert_to_numpy(variable).astype("float32")
        for name, variable in model_variables(model).items()
    }
    with atomic_write(directory, overwrite) as part:
        part.mkdir()
        (part / WEIGHTS).write_bytes(save(values, metadata={"format": "np"}))
        (part / CONFIG).write_text(json.dumps({**config, **card.to_dict()}, indent=2, ensure_ascii=False), "utf-8")
        (part / README).write_text(_readme(card, directory.resolve().name, license), "utf-8")
    return directory


def from_pretrained(source):
    """The model that `save_pretrained` wrote. No code from the directory is run.

    Args:
        source: the directory; or "hf://owner/name", with "@revision" behind it or without, which `huggingface_hub`
            downloads and caches.

    Returns:
        A Keras model of this library, its weights bit for bit.

    Raises:
        UsageError: huggingface_hub is missing.
        DownloadError: it cannot be downloaded.
        CheckpointError: there is none, it is damaged, or another library's.
        MismatchError: weights that do not fit the config; lists them.
    """
    folder = _download(source) if str(source).startswith(HUB) else Path(source)
    if not all((folder / name).is_file() for name in (WEIGHTS, CONFIG)):
        raise CheckpointError(f"{source} has no {WEIGHTS} and {CONFIG}, which save_pretrained writes.")
    with raising(CheckpointError, f"{folder / CONFIG} is no config of save_pretrained, or damaged", Exception):
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        card = Card.from_dict(config)
        # A dict could be the config of an object, which Keras would make.
        if config["library_name"] != "inception_tf" or any(isinstance(v, dict) for v in card.options.values()):
            raise CheckpointError(f"{source} was not written by save_pretrained.")
        with skip_init():
            shape = tuple(config["input_shape"])
            model = create_model(card.network, input_shape=shape, name=config["name"], **card.options)
    with raising(CheckpointError, f"{folder / WEIGHTS} is no safetensors file, or damaged", Exception):
        values, _ = read_safetensors(folder / WEIGHTS)
    variables = {scoped(card.scope, name): variable for name, variable in model_variables(model).items()}
    differences = [f"missing: {name}" for name in variables if name not in values]
    differences += [f"not in the model: {name}" for name in values if name not in variables]
    differences += [
        f"{name} is {values[name].shape}, expected {tuple(variable.shape)}"
        for name, variable in variables.items()
        if name in values and values[name].shape != tuple(variable.shape)
    ]
    if differences:
        raise MismatchError(f"The weights in {source} do not fit its config: {listed(differences)}.")
    for name, variable in variables.items():
        variable.assign(values[name])
    model.card = card
    return model


def push_to_hub(model, repository, license=None, private=False):
    """Publishes on the Hugging Face hub, as one commit, what `save_pretrained` writes.

    The login is `huggingface_hub`'s: `hf auth login`, or the token in HF_TOKEN.

    Args:
        model, license: as in `save_pretrained`.
        repository: "owner/name", with "hf://" before it or without; created where it is missing.
        private: whether it is created as a private one.

    Returns:
        The commit's address. `from_pretrained("hf://owner/name")` gives the model back.

    Raises:
        UsageError: as `save_pretrained`; huggingface_hub is missing.
        ExportError: the hub does not take it, or cannot be reached.
    """
    hub, repository = need("huggingface_hub", "hub", "push_to_hub"), str(repository).removeprefix(HUB)
    with tempfile.TemporaryDirectory() as folder:
        directory = save_pretrained(model, Path(folder, Path(repository).name), license)
        with raising(ExportError, f"{HUB}{repository} cannot be written", Exception):
            api, message = hub.HfApi(), f"{model.card.network}, by inception_tf"
            api.create_repo(repository, private=private, exist_ok=True)
            return api.upload_folder(repo_id=repository, folder_path=directory, commit_message=message).commit_url


def _download(source):
    repository, _, revision = str(source).removeprefix(HUB).partition("@")
    hub = need("huggingface_hub", "hub", HUB)
    with raising(DownloadError, f"{source} cannot be downloaded", Exception):
        return Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))


def _readme(card, name, license):
    """The model card in Markdown, with the front matter of the hub's."""
    import yaml

    task, measured = "image-classification" if card.include_top else "image-feature-extraction", card.evaluation
    front = {"library_name": "inception_tf", "pipeline_tag": task, "tags": ["inception_tf", "keras", card.network]}
    lines = [f"# {name}", "", f"The network {card.network} of [TF-Slim](https://github.com/google-research/tf-slim)."]
    lines += ["", f"- weights: {card.weights.source}"]
    if license:
        front["license"] = license
    if card.labels:
        lines += [f"- {len(card.labels)} classes: {', '.join(card.labels)}"]
    figures = {"accuracy": ("accuracy", "accuracy"), "mean_ap": ("mAP", "mean_average_precision")}
    for key, (word, kind) in figures.items():
        if key in measured:
            result = {"task": {"type": task}, "metrics": [{"type": kind, "value": measured[key]}]}
            result["dataset"] = {"name": measured["data"], "type": "imagefolder"}
            front["model-index"] = [{"name": name, "results": [result]}]
            lines += [f"- {word}: {percent(measured[key])} of {measured['images']} images held out of"]
            lines[-1] += f" {measured['data']}, at step {measured['step']}"
    lines += ["", "```python", "import inception_tf as itf", "", "model = itf.from_pretrained(path)"]
    lines += [
        'itf.pipeline(model)("photo.jpg")' if card.include_top else 'itf.pipeline(model).embed("photo.jpg")',
        "```",
    ]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n" + "\n".join(lines) + "\n"
