"""A network with weights: what the constructors' argument `weights` does."""

from pathlib import Path

from inception_tf.errors import MismatchError, UsageError
from inception_tf.models.initialization import skip_init
from inception_tf.models.registry import build_model
from inception_tf.slim import catalogue, download
from inception_tf.slim.checkpoint import Checkpoint, open_checkpoint
from inception_tf.slim.detect import detect
from inception_tf.slim.load import load_network


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


def _load_checkpoint(info, checkpoint, source, options, scope=None, **loading):
    detection = detect(checkpoint, info.name, scope, partial=True)
    return load_network(checkpoint, detection, options, source=source, **loading)


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
