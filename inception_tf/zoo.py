"""The one place that turns a name, a checkpoint, a file or a run's directory into a model.

`create_model`, `load_model`, and the constructors `InceptionV3`, `ResNetV1_50`, ….
"""

import dataclasses
import functools
import importlib
import inspect
from pathlib import Path

from inception_tf.errors import CheckpointError, MismatchError, UsageError, raising
from inception_tf.files import refuse_lfs_pointer
from inception_tf.models.card import SAVED_MODEL_CARD, Weights
from inception_tf.models.initialization import skip_init
from inception_tf.models.registry import BATCH_NORM_OPTIONS, find_network, networks
from inception_tf.models.untrusted import check_weights_file
from inception_tf.models.words import translate
from inception_tf.slim import catalogue, download
from inception_tf.slim.checkpoint import Checkpoint, open_checkpoint
from inception_tf.slim.containers.keras_file import is_application
from inception_tf.slim.detect import detect
from inception_tf.slim.load import load_network

# The options that `create_model` passes on to `load_slim`.
LOADING = ("exclude_scopes", "ema", "background", "scope")
# Files that `export` writes for engines without Keras.
EXPORTED = (".tflite", ".onnx", ".xml", ".stablehlo")

ARGUMENTS = """

    Args:
        include_top: whether the classifier is part of the model. Without it the output is the last feature map.
        weights: None for random weights; the name of a published checkpoint, such as "imagenet"; the path of a TF-Slim
            checkpoint in any container; or the path of a `.weights.h5` file. What is not given among `classes`,
            `aux_logits`, `depth_multiplier` and the like is read from the checkpoint. A `classes` that differs from the
            checkpoint's starts new heads on the checkpoint's backbone. Nothing is downloaded unless a name is given.
        input_shape: (height, width, channels); height and width may be None. Default:
            {size}×{size}×{channels}, with `include_top=False` any size. At least {minimum}×{minimum}, with
            `include_top=False` {backbone}×{backbone}.
        pooling: with `include_top=False`, None for the feature map N×h×w×C, "avg" or "max" for N×C.
        classes: the number of classes, the background class included where there is one.
        classifier_activation: the activation of the logits, None for the logits themselves.
        dropout: the rate, the fraction of features dropped in training (1 − Slim's `dropout_keep_prob`).
        aux_logits: whether the auxiliary head is part of the model: not an output, but an end point, `AuxLogits`.
        depth_multiplier: factor on every layer's channels, above 0.
        min_depth: the channels that `depth_multiplier` leaves at least.
        spatial_squeeze: True for logits of N×classes. False for a feature map of N×h×w×classes: dense evaluation.
        name: the model's name. Default: the network's Slim scope.
        batch_norm: False for biases in place of batch norm: Slim's network without its arg scope.
        batch_norm_scale: whether batch norm has gamma. None: as in Slim's arg scope, or the checkpoint.
        batch_norm_epsilon, batch_norm_decay: those of the arg scope that a checkpoint was trained in, which no
            checkpoint records. None: those of Slim's own.

    Returns:
        A Keras model from float32 images N×H×W×3, preprocessed as the network's `Preprocessing` says, to
        probabilities N×classes. Its layers are Slim's end points.

    Raises:
        UsageError: an argument out of range.
        CheckpointError, MismatchError: `weights` is no checkpoint, or does not fit.
"""


@dataclasses.dataclass(frozen=True)
class Source:
    """What a name or a path stands for.

    Attributes:
        kind: "network", a network's name or any other; "published", the name of published weights; "keras", a `.keras`
            file; "weights", a `.weights.h5` file; "savedmodel" or "exported", what `export` wrote; "checkpoint".
        value: the name, the `Path` of the file or directory to open, or the `Checkpoint`.
    """

    kind: str
    value: object


def resolve(source):
    """What a name or a path stands for, by its suffix and by which files exist.

    A string such as "imagenet" is the name even beside a directory of that name.

    Args:
        source: a network's name; the name of published weights, such as "imagenet"; the path of a Slim checkpoint in
            any container, of a `.keras` or `.weights.h5` file, of a run's directory (its best model), or of an export;
            or a `Checkpoint`.

    Returns:
        A `Source`.

    Raises:
        CheckpointError: the file is a pointer of Git LFS.
    """
    if isinstance(source, Checkpoint):
        return Source("checkpoint", source)
    path = Path(source)
    for file in (path, path / "best.keras", path / "saved_model.pb"):
        refuse_lfs_pointer(file)
    if isinstance(source, str) and source in {entry.weights for entry in catalogue.catalogue()}:
        return Source("published", source)
    if (path / "best.keras").is_file():
        return Source("keras", path / "best.keras")
    if saved_model := exported_saved_model(path):
        return Source("savedmodel", saved_model)
    kinds = {".keras": "keras", ".h5": "weights", **dict.fromkeys(EXPORTED, "exported")}
    if kind := kinds.get(path.suffix.lower()):
        return Source(kind, path)
    there = path.exists() or path.with_name(path.name + ".index").exists()
    if there or any(mark in str(source) for mark in ("/", "\\", ".ckpt", ".tar")):
        return Source("checkpoint", path)
    return Source("network", str(source))


def exported_saved_model(path):
    """The SavedModel of ours that a directory is, or the highest version in it; None where there is none."""
    path = Path(path)
    if not path.is_dir():
        return None
    versions = sorted((p for p in path.iterdir() if p.name.isdigit() and p.is_dir()), key=lambda p: int(p.name))
    saved = versions[-1] if versions else path
    return saved if (saved / "saved_model.pb").is_file() and (saved / SAVED_MODEL_CARD).is_file() else None


def load_model(source, network=None, **options):
    """The Keras model that a name or a path stands for.

    Args:
        source: as `resolve` takes it, but for exports, of which no Keras model can be made. A network's name gives
            random weights.
        network: the network's name, for published weights ("inception_v3" by default), for a `.weights.h5` file,
            which does not say, and for checkpoints that detection is not to decide on.
        **options: as `create_model` takes them; a `.keras` file has its own, and takes none.

    Returns:
        A Keras model as `create_model` gives it.

    Raises:
        UsageError: it is an export, or an option is out of range.
        CheckpointError, MismatchError, DownloadError: there is none, it is damaged, or does not fit.
    """
    found = resolve(source)
    if found.kind == "weights" and network is None:
        if not found.value.is_file():
            raise UsageError(f"{source} does not say which network's weights it holds: give network=.")
        found = Source("checkpoint", found.value)  # of keras.applications, or not to be told apart
    if found.kind == "keras" and is_application(found.value):
        found = Source("checkpoint", found.value)
    if found.kind in ("savedmodel", "exported"):
        raise UsageError(f"{source} is an export: open_engine runs it, but no Keras model can be made of it.")
    if found.kind == "keras":
        if network:
            options["network"] = network
        if options:
            raise UsageError(f"{source} is a Keras model and is taken as it is. Received: {', '.join(options)}")
        from inception_tf.models.model import open_keras_file

        importlib.import_module("inception_tf.images.layer")  # Keras finds the layers of ours that are registered
        return open_keras_file(found.value)
    if found.kind == "network":
        return create_model(found.value, **options)
    if found.kind == "checkpoint":
        checkpoint = open_checkpoint(found.value)
        detection = detect(checkpoint, network, options.get("scope"), partial=True)
        return create_model(detection.network, checkpoint, detection=detection, **options)
    return create_model(network or "inception_v3", found.value, **options)


def load_trained(source):
    """`load_model` for whatever needs weights that mean something: a network's name alone is refused.

    Raises:
        CheckpointError: `source` is a network's name, or no name and no path of anything; others as `load_model`.
    """
    if resolve(source).kind == "network":
        raise CheckpointError(
            f"There is no model at {source}, and no published weights have that name. (The name of a network alone "
            'stands for random weights. ImageNet\'s of Inception-v3 are called "imagenet".)'
        )
    return load_model(source)


def create_model(name, /, weights=None, detection=None, **options):
    """A Keras model by its network's name, as `timm.create_model`.

    Args:
        name: one of `list_models()`.
        weights, **options: as the network's constructor takes them, see `inception_tf.InceptionV3`; and, for a Slim
            checkpoint, `exclude_scopes`, `ema`, `background` and `scope`, as `load_slim` takes them. timm's and
            Slim's words are understood: `num_classes`, `drop_rate`, `create_aux_logits`, and `pretrained=True`, which
            is `weights="imagenet"`.
        detection: what `detect` found in the checkpoint, where that is known already.

    Returns:
        A Keras model from preprocessed float32 images N×H×W×3 to probabilities N×classes. Its card says where the
        weights came from.

    Raises:
        UsageError: no such network, or an argument out of range.
        CheckpointError, MismatchError, DownloadError: `weights` is no checkpoint, does not fit, or its download failed.
    """
    from inception_tf.models.model import build_model

    info = find_network(name)
    known = signature_of(info).parameters
    loading = {option: options.pop(option) for option in LOADING if option in options}
    options = translate(name, {**options, "weights": weights}, known)
    weights = options.pop("weights")
    if weights is None:
        if loading:
            raise UsageError(f"{', '.join(loading)} can only be given with weights. Received: weights=None")
        return build_model(info, **options)
    found = resolve(weights)
    if found.kind == "weights" and not _is_application(found.value):
        if loading:
            raise UsageError(f"{', '.join(loading)} can only be given with a checkpoint. Received: weights={weights}")
        return _load_h5(info, found.value, options)
    if found.kind in ("network", "published"):
        published = catalogue.find(info.name, str(weights))
        checkpoint, source = open_checkpoint(_converted(published)), published.archive
    else:
        checkpoint = open_checkpoint(found.value)
        source = checkpoint.path.name
    detection = detection or detect(checkpoint, name, loading.get("scope"), partial=True)
    loading.pop("scope", None)
    return load_network(checkpoint, detection, options, source=source, **loading)


def _load_h5(info, path, options):
    from inception_tf.models.model import build_model

    if not path.is_file():
        raise UsageError(f"There is no weights file at {path}.")
    check_weights_file(path)
    with skip_init():
        model = build_model(info, **options)
    with raising(MismatchError, f"{path} does not fit {info.name} with these options", Exception):
        model.load_weights(path)
    model.card = dataclasses.replace(model.card, weights=Weights(path.name))
    return model


def _is_application(path):
    """Whether a weights file is one of keras.applications, and so not this library's."""
    try:
        open_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _converted(published):
    """The `.keras` file of a published checkpoint, downloaded and converted when it is not there yet."""

    def convert(path):
        checkpoint = open_checkpoint(download.fetch(published))
        detection = detect(checkpoint, published.network, partial=True)
        load_network(checkpoint, detection, source=published.archive).save(path)

    return download.cached_conversion(published, convert)


def signature_of(info):
    """The signature of a network's constructor: its own options, and `weights`, `input_shape` and `name`."""
    options = list(inspect.signature(info.build).parameters.values())[1:]
    keyword = functools.partial(inspect.Parameter, kind=inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)
    options = [options[0], keyword("weights"), keyword("input_shape"), *options[1:], keyword("name")]
    if info.batch_norm:
        kind = inspect.Parameter.KEYWORD_ONLY
        options += [keyword(option, kind=kind, default=default) for option, default in BATCH_NORM_OPTIONS.items()]
    return inspect.Signature(options)


@functools.cache
def constructor(name):
    """The constructor of a network, as keras.applications has them: `InceptionV3` for "inception_v3"."""
    info = find_network(name)
    signature = signature_of(info)

    @functools.wraps(info.build)
    def construct(*args, **kwargs):
        return create_model(name, **signature.bind(*args, **translate(name, kwargs, signature.parameters)).arguments)

    arguments = ARGUMENTS.format(
        size=info.input_size,
        channels=info.channels,
        minimum=info.min_size,
        backbone=info.smallest_side(include_top=False),
    )
    construct.__signature__ = signature
    construct.__doc__ = inspect.cleandoc(info.build.__doc__) + "\n\n" + inspect.cleandoc("\n" + arguments) + "\n"
    construct.network = info
    return construct


def constructors():
    """The constructors of all networks, a dict from their names in Python."""
    return {info.build.__name__: constructor(name) for name, info in networks().items()}
