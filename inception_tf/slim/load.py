"""Slim's weights into a Keras model, strictly."""

import dataclasses
import warnings

import numpy as np

from inception_tf.errors import MismatchError, UsageError, listed
from inception_tf.models.card import Weights
from inception_tf.models.initialization import skip_init
from inception_tf.models.registry import find_network
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.detect import detect, in_scopes
from inception_tf.slim.names import EMA, bookkeeping, model_variables, scope_matcher, scoped

# The variables that training does not train.
MOVING = ("/moving_mean", "/moving_variance")
OUTSIDE = "outside the scope"
# Options that a new classifier does not inherit.
OF_CLASSIFIER = ("classifier_activation", "dropout", "spatial_squeeze", "input_shape")


@dataclasses.dataclass
class LoadReport:
    """What happened to every variable of the model and to every tensor of the checkpoint.

    Attributes:
        sources: a dict from the model's variables (Slim names without the scope) to the tensors they were loaded from.
        ignored: a dict from tensors of the checkpoint to why they were not loaded.
        excluded: the model's variables that `exclude_scopes` left as they were.
        missing: the model's variables that the checkpoint lacks.
        unexpected: the tensors under the network's scope that the model lacks.
        mismatched: a dict from the model's variables to (shape expected, shape found).
        warnings: texts: NaN or infinite weights, moving averages for a part of the weights only.
        notes: texts: what the checkpoint was opened for, where its file says otherwise.
    """

    sources: dict = dataclasses.field(default_factory=dict)
    ignored: dict = dataclasses.field(default_factory=dict)
    excluded: list = dataclasses.field(default_factory=list)
    missing: list = dataclasses.field(default_factory=list)
    unexpected: list = dataclasses.field(default_factory=list)
    mismatched: dict = dataclasses.field(default_factory=dict)
    warnings: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)

    @property
    def ema(self):
        """How many variables were loaded from their moving average."""
        return sum(source.endswith(EMA) for source in self.sources.values())

    def __str__(self):
        parts = [f"{len(self.sources)} loaded"]
        if self.ema:
            parts.append(f"{self.ema} of them moving averages")
        for reason in dict.fromkeys(self.ignored.values()):
            names = [name for name, why in self.ignored.items() if why == reason]
            named = f": {listed(names)}" if reason.startswith(OUTSIDE) else ""
            parts.append(f"{len(names)} ignored ({reason}{named})")
        for kind in ("excluded", "missing", "unexpected", "mismatched"):
            if getattr(self, kind):
                parts.append(f"{len(getattr(self, kind))} {kind}")
        return "; ".join([", ".join(parts), *self.notes])

    def differences(self):
        """A line for every variable that does not fit."""
        return [
            *(f"missing in the checkpoint: {name}" for name in self.missing),
            *(f"not in the model: {name}" for name in self.unexpected),
            *(f"{n} is {tuple(found)}, expected {tuple(want)}" for n, (want, found) in self.mismatched.items()),
        ]


def load_network(checkpoint, detection, options=None, exclude_scopes=(), ema="auto", background="keep", source=None):
    """Builds the network that a checkpoint holds, and loads the checkpoint into it.

    Args:
        checkpoint: a `Checkpoint`.
        detection: what `detect` found in it. Moving statistics that it lacks are left as they are initialized.
        options: the constructor's options, as far as given; the rest is the detection's. Other classes than the
            checkpoint's mean a new classifier.
        exclude_scopes, ema, background: as in `load_slim`.
        source: what the card calls the checkpoint. Default: its file's name.

    Returns:
        The model. Its card says under "weights" where they came from.

    Raises:
        UsageError, CheckpointError, MismatchError: as `load_slim` does; or there is no classifier to load.
    """
    from inception_tf.models.model import build_model  # here, since it loads Keras

    info, options = find_network(detection.network), options or {}
    if unknown := set(options) - {*info.options, "input_shape", "name"}:
        raise UsageError(f"{info.name} has no option {', '.join(sorted(unknown))}. It has: {', '.join(info.options)}.")
    classes = detection.classes and detection.classes - (background == "drop")
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
    loads_top = include_top and wanted == classes
    detected = {option: value for option, value in detection.options.items() if loads_top or option != "aux_logits"}
    # What the checkpoint itself says.
    detected |= {o: value for o, value in checkpoint.options.items() if loads_top or o not in OF_CLASSIFIER}
    with skip_init((loads_top or not include_top) and not exclude_scopes):
        model = build_model(info, **{**detected, **({"classes": wanted} if wanted else {}), **options})

    excluded = exclude_scopes.split(",") if isinstance(exclude_scopes, str) else list(exclude_scopes)
    names = [*model_variables(model), *(name.removeprefix(scoped(detection.scope, "")) for name in checkpoint)]
    aux_logits = model.card.options.get("aux_logits")
    unused = [head for head in info.heads if not loads_top or (head == "AuxLogits" and not aux_logits)]
    unused += () if include_top else info.top
    excluded += [scope for scope in unused if any(in_scopes(name, [scope]) for name in names)]
    if not detection.statistics:
        excluded += [f"*{word}" for word in MOVING]
    report = load_slim(model, checkpoint, excluded, ema, background, detection.scope)
    weights = Weights(source or checkpoint.path.name, checkpoint.step, str(report), complete=not report.excluded)
    preprocessing = {**model.card.preprocessing, **checkpoint.preprocessing}
    facts = {"labels": checkpoint.labels, "thresholds": checkpoint.thresholds}
    same = loads_top and background == "keep"
    facts = {fact: values for fact, values in facts.items() if same and values and len(values) == model.card.classes}
    model.card = dataclasses.replace(
        model.card, scope=detection.scope, weights=weights, preprocessing=preprocessing, **facts
    )
    return model


def load_slim(model, path, exclude_scopes=(), ema="auto", background="keep", scope=None):
    """Loads a Slim checkpoint into a Keras model: every variable, or none.

    Args:
        model: a model of this library.
        path: a checkpoint, whatever `open_checkpoint` takes.
        exclude_scopes: globs of scopes to leave alone on both sides, such as ["Logits", "AuxLogits", "Mixed_7*"]; the
            network's own scope in front is allowed, and a string with commas, as Slim's `--checkpoint_exclude_scopes`.
        ema: "auto" loads a weight's moving average where the checkpoint has one, "require" demands one for every
            trainable weight, "ignore" loads the weights themselves.
        background: "drop" leaves out class 0 of the checkpoint, for a model with one class less.
        scope: the variable scope in the checkpoint. Default: detected.

    Returns:
        A `LoadReport`.

    Raises:
        UsageError: a glob that matches nothing, an unknown option, no class to drop.
        MismatchError: something is missing, too many, or of another shape; its `report` lists it all. The model is
            as it was.
        CheckpointError: no checkpoint, or a damaged one. The model is as it was.
    """
    if ema not in ("auto", "require", "ignore"):
        raise UsageError(f'ema must be "auto", "require" or "ignore". Received: ema={ema!r}')
    if background not in ("keep", "drop"):
        raise UsageError(f'background must be "keep" or "drop". Received: background={background!r}')
    checkpoint, variables = open_checkpoint(path), model_variables(model)
    network = getattr(model, "card", None) and model.card.network
    if scope is None and network:
        scope = detect(checkpoint, network, partial=True, statistics=False).scope
    elif scope is None:
        first = next(iter(variables))
        stored = (name.removesuffix(EMA) for name in checkpoint)
        scope = next((name[: -len(first)].rstrip("/") for name in stored if name.endswith(first)), "")
    heads = find_network(network).heads if network else ("Logits", "AuxLogits")
    names = [*variables, *(name.removeprefix(scoped(scope, "")) for name in checkpoint)]
    excluded = scope_matcher(exclude_scopes, scope, names, "exclude_scopes")
    droppable = [name for name in variables if background == "drop" and in_scopes(name, heads)]

    report = _match(checkpoint, variables, scope, ema, excluded, droppable)
    if report.missing or report.unexpected or report.mismatched:
        raise MismatchError(_explain(checkpoint, model, report, background, heads), report)
    loaded = [name for name in droppable if name in report.sources]
    if loaded and all(checkpoint.shapes[report.sources[name]] == tuple(variables[name].shape) for name in loaded):
        raise UsageError('background="drop" needs a model with one class less than the checkpoint; this has as many.')

    values = {}
    for name, source in report.sources.items():
        value = checkpoint[source]
        if value.shape[-1:] != tuple(variables[name].shape)[-1:]:
            value = value[..., 1:]
        if not np.isfinite(value.astype("float32")).all():
            report.warnings.append(f"{source} holds NaN or infinite values.")
        values[name] = value
    # Nothing is assigned before everything has been read: a damaged file leaves the model as it was.
    for name, value in values.items():
        variables[name].assign(value.astype(variables[name].dtype))
    for text in report.warnings:
        warnings.warn(f"{checkpoint.path}: {text}", stacklevel=2)
    return report


def _match(checkpoint, variables, scope, ema, excluded, droppable):
    """The `LoadReport` of what the names and shapes say, before a tensor is read. Arguments as in `load_slim`.

    Args:
        variables: the model's, by Slim name.
        excluded: a function from a name to whether it is left alone.
        droppable: the variables for which class 0 of the tensor may be left out.
    """
    report, prefix = LoadReport(notes=list(checkpoint.notes)), scoped(scope, "")

    def fits(shape, name):
        expected = tuple(variables[name].shape)
        return shape == expected or (name in droppable and shape == (*expected[:-1], expected[-1] + 1))

    for name, variable in variables.items():
        # By name: a frozen layer's weights are not `trainable` in Keras.
        averaged = ema == "require" and not name.endswith(MOVING)
        source = _source(checkpoint, scoped(scope, name), ema, averaged)
        if excluded(name):
            report.excluded.append(name)
        elif source is None:
            report.missing.append(scoped(scope, name) + (EMA if averaged else ""))
        elif fits(checkpoint.shapes[source], name):
            report.sources[name] = source
        else:
            report.mismatched[name] = (tuple(variable.shape), checkpoint.shapes[source])

    used = set(report.sources.values())
    for name in checkpoint:
        plain = name.removesuffix(EMA).removeprefix(prefix)
        if name in used or plain in report.mismatched:
            continue
        purpose = bookkeeping(name, checkpoint)
        if purpose or not name.startswith(prefix):
            report.ignored[name] = purpose or f"{OUTSIDE} {scope}"
        elif excluded(plain):
            report.ignored[name] = "excluded"
        elif plain in report.sources:
            report.ignored[name] = "its moving average was loaded"
        else:
            report.unexpected.append(name)

    if report.ema and any(not s.endswith(EMA) and not n.endswith(MOVING) for n, s in report.sources.items()):
        report.warnings.append(
            f"{report.ema} of {len(report.sources)} variables have a moving average, the rest have none."
        )
    return report


def find_sources(checkpoint, names, scope, ema):
    """A dict from those of `names` (variables without the scope) that the checkpoint has to the tensors to load."""
    found = {name: _source(checkpoint, scoped(scope, name), ema) for name in names}
    return {name: source for name, source in found.items() if source is not None}


def _source(checkpoint, name, ema, required=False):
    """The tensor to load a variable from, or None. `required`: only its moving average will do."""
    if ema != "ignore" and name + EMA in checkpoint:
        return name + EMA
    return name if name in checkpoint and not required else None


def _explain(checkpoint, model, report, background, heads):
    lines = report.differences()
    shown = lines if len(lines) <= 12 else [*lines[:12], f"… and {len(lines) - 12} more: see the error's report"]
    hints = []
    if report.unexpected or report.missing:
        hints.append("exclude_scopes leaves scopes out on both sides")
    if report.missing and all(name.endswith(MOVING) for name in report.missing):
        hints.append("only trainable variables were saved: inception-tf convert --recalibrate computes the others")
    changed = {name: want for name, (want, found) in report.mismatched.items() if want[-1:] != (found or ())[-1:]}
    if any(in_scopes(name, heads) for name in changed):
        hints.append("classes= must be the checkpoint's, or its head be left out with exclude_scopes")
    if background == "keep" and any(
        want[-1:] == (found[-1] - 1,) for want, found in report.mismatched.values() if found
    ):
        hints.append('background="drop" leaves out class 0')
    head = f"{checkpoint.path} does not fit the model {model.name}"
    return "\n  ".join([f"{head} ({'; '.join(hints)}):" if hints else f"{head}:", *shown, *checkpoint.notes])
