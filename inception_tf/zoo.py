"""A network with weights: what the constructors' argument `weights` does."""

from pathlib import Path

from inception_tf.errors import MismatchError, UsageError
from inception_tf.models.initialization import skip_init
from inception_tf.models.registry import build_model
from inception_tf.slim import catalogue, download
from inception_tf.slim.checkpoint import Checkpoint, open_checkpoint
from inception_tf.slim.detect import detect, in_scopes
from inception_tf.slim.load import load_slim
from inception_tf.slim.names import model_variables, scoped


def load_pretrained(info, weights, options, **loading):
    """Builds a network and loads weights into it.

    Args:
        info: the `Network`.
        weights: a published checkpoint's name, a Slim checkpoint, a `.keras` or a `.weights.h5` file.
        options: the constructor's options, as far as given; the rest is read from the checkpoint.
        **loading: `exclude_scopes`, `ema`, `background` and `scope`, as `load_slim` takes them.

    Returns:
        The model. Its card says under "weights" where they came from.

    Raises:
        UsageError, CheckpointError, MismatchError, DownloadError: as its parts do.
    """
    if isinstance(weights, Checkpoint):
        return _load_checkpoint(info, weights, weights.path.name, options, **loading)
    if str(weights).endswith(".h5"):
        if loading:
            raise UsageError(f"{', '.join(loading)} tells how to load a Slim checkpoint. Received: weights={weights}")
        return _load_h5(info, Path(weights), options)
    path, source = Path(weights), Path(weights).name
    if not is_path(weights):
        published = catalogue.find(info.name, str(weights))
        path, source = _converted(info, published), published.archive
    return _load_checkpoint(info, open_checkpoint(path), source, options, **loading)


def is_path(weights):
    """Whether `weights` is a path: something is there, or it looks like one. Else it is a published name.

    A string such as "imagenet" is the name even beside a folder that is called so.
    """
    if isinstance(weights, str) and weights in {published.weights for published in catalogue.catalogue()}:
        return False
    path = Path(weights)
    there = path.exists() or path.with_name(path.name + ".index").exists()
    return there or any(mark in str(weights) for mark in ("/", "\\", ".ckpt", ".tar", ".keras"))


def _converted(info, published):
    """The `.keras` file of a published checkpoint, downloaded and converted when it is not there yet."""

    def convert(path):
        _load_checkpoint(info, open_checkpoint(download.fetch(published)), published.archive, {}).save(path)

    return download.cached_conversion(published, convert)


def _load_checkpoint(info, checkpoint, source, options, exclude_scopes=(), background="keep", scope=None, **loading):
    found = detect(checkpoint, info.name, scope, partial=True)
    dropped = 1 if background == "drop" else 0
    classes = found.classes and found.classes - dropped
    wanted = options.get("classes", classes)
    include_top = options.get("include_top", True)
    if include_top and wanted is None:
        raise UsageError(
            f"{checkpoint.path} holds no classifier: give classes= for a new one, or include_top=False for none."
        )
    if include_top and (wanted, classes) == (1000, 1001) and background == "keep" and not exclude_scopes:
        raise UsageError(
            "The checkpoint has 1001 classes, background first. Received: classes=1000. For ImageNet's 1000 give "
            'background="drop"; for a new head on 1000 classes of your own, exclude_scopes=["Logits", "AuxLogits"].'
        )
    # A classifier of other classes is a new one, and so is the auxiliary head beside it.
    keeps_top = include_top and wanted == classes
    read = {option: value for option, value in found.options.items() if keeps_top or option != "aux_logits"}
    with skip_init((keeps_top or not include_top) and not exclude_scopes):
        model = build_model(info, **{**read, **({"classes": wanted} if wanted else {}), **options})

    excluded = exclude_scopes.split(",") if isinstance(exclude_scopes, str) else list(exclude_scopes)
    there = [*model_variables(model), *(name.removeprefix(scoped(found.scope, "")) for name in checkpoint)]
    aux_logits = model.card["options"].get("aux_logits")
    unused = [head for head in info.heads if not keeps_top or (head == "AuxLogits" and not aux_logits)]
    unused += () if include_top else info.top
    excluded += [scope for scope in unused if any(in_scopes(name, [scope]) for name in there)]
    report = load_slim(model, checkpoint, excluded, background=background, scope=found.scope, **loading)
    weights = {"source": source, "step": checkpoint.step, "report": str(report)}
    model.card.update({"scope": found.scope, "weights": weights})
    return model


def _load_h5(info, path, options):
    if not path.is_file():
        raise UsageError(f"There is no weights file at {path}.")
    with skip_init():
        model = build_model(info, **options)
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise MismatchError(
            f"{path} does not fit {info.name} with these options: {str(error).splitlines()[0]}"
        ) from error
    model.card["weights"] = {"source": path.name}
    return model
