"""The proof: a Keras model beside the original TF-Slim graph, end point by end point."""

import dataclasses
import json

import numpy as np

from inception_tf import tables
from inception_tf.errors import UsageError
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.models.model import build_model, check_model, end_points, feature_extractor
from inception_tf.models.registry import BATCH_NORM_OPTIONS, find_network
from inception_tf.slim import golden, reference
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.containers.graph_2015 import Graph2015
from inception_tf.slim.detect import detect
from inception_tf.slim.graph_2015 import CLASSES, NETWORK
from inception_tf.slim.load import find_sources, load_network
from inception_tf.slim.names import model_variables, scoped, shape_text, specification

TOLERANCE = 1e-5
CLASS_END_POINTS = ("Logits", "AuxLogits", "Predictions", "logits", "spatial_squeeze", "predictions", "fc8")
PREDICTIONS = ("Predictions", "predictions")

# What classify_image.py printed of cropped_panda.jpg: giant panda, indri, lesser panda.
PANDA_SCORES = (0.89107, 0.00779, 0.00296)

# Options that leave the layers' arithmetic as it is.
NEUTRAL = ("include_top", "pooling", "classes", "classifier_activation", "dropout", "aux_logits")

# Our options by the names that research/slim's functions have for them.
OPTIONS = {**{theirs: ours for ours, theirs in reference.ARGUMENTS.items()}, "activation_fn": "activation"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One end point: the largest |difference|, and that over the largest |value| of the original."""

    end_point: str
    shape: tuple
    difference: float
    relative: float
    passed: bool


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """The result of `verify`. True where every end point is within the tolerance and the top-5 are the same.

    `notes` are further lines for a person: what was published of the graph, and what is answered here.
    """

    network: str
    reference: str
    images: int
    tolerance: float
    rows: tuple
    top5: bool | None
    notes: tuple = ()

    @property
    def passed(self):
        return all(row.passed for row in self.rows) and self.top5 is not False

    @property
    def worst(self):
        """The largest relative difference of all end points; NaN where one is not finite."""
        return float(np.max([row.relative for row in self.rows]))

    def __bool__(self):
        return self.passed

    def __str__(self):
        rows = [
            (row.end_point, shape_text(row.shape), f"{row.difference:.2e}", f"{row.relative:.2e}", state)
            for row in self.rows
            for state in ["ok" if row.passed else "FAILED"]
        ]
        table = tables.render(rows, ("end point", "shape", "max |difference|", "relative", ""), "<<>><")
        return "\n".join([table, self.summary(), *self.notes])

    def summary(self):
        """One line: what was compared, and how it went."""
        failed = [row.end_point for row in self.rows if not row.passed]
        verdict = "equal" if self.passed else "NOT EQUAL"
        where = f", first at {failed[0]}" if failed else ""
        top5 = {True: ", same top-5", False: ", another top-5", None: ""}[self.top5]
        return (
            f"{verdict}{where}: {self.network} and {self.reference}, {len(self.rows)} end points on {self.images} "
            f"image{'s' if self.images != 1 else ''}, worst relative difference {self.worst:.2e} "
            f"(tolerance {self.tolerance:.0e}){top5}"
        )


def noise(batch, height, width, channels=3, seed=0):
    """Seeded images to compare on: float32 N×H×W×C, uniform in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (batch, height, width, channels)).astype("float32")


def verify(
    checkpoint,
    model=None,
    images=None,
    tolerance=TOLERANCE,
    ema="auto",
    network=None,
    scope=None,
    batch=2,
    detection=None,
    **options,
):
    """Compares the Keras model of a Slim checkpoint with the graph TF-Slim builds for it.

    Both run on the same weights and images in this process. TensorFlow's Saver restores the checkpoint into the
    original graph; a retrained graph, one with a dense head, is the original itself, and so is the graph of 2015-12-05,
    from a JPEG on too: see `verify_graph_2015`. A network whose graph TF-Slim on PyPI lacks is compared with golden
    data instead, on images and weights of its own, and the model's variables with the checkpoint's tensors, bit for
    bit: see `verify_golden`.

    Args:
        checkpoint: what `open_checkpoint` takes.
        model: a Keras model of it, to verify a conversion. Default: a fresh one.
        images: float32 N×H×W×3, preprocessed. Default: `batch` images of seeded noise.
        tolerance: the largest relative difference allowed: max |ours − theirs| / max |theirs| at an end point.
        ema, scope: as in `load_slim`.
        network: its name. Default: detected.
        batch: how many images of noise.
        detection: what `detect` found in the checkpoint, in place of `network` and `scope`.
        **options: of the network, where no `model` is given: `batch_norm_epsilon` and `batch_norm_decay`, which no
            checkpoint records.

    Returns:
        A `VerifyReport` over the end points that both have. Of a model without the background class, the original's
        other classes are compared; of one that ends in no softmax, the logits and not what it makes of them.

    Raises:
        CheckpointError, MismatchError: the checkpoint is none, or not that of a known network.
        UsageError: TF-Slim has no graph of the network, and there is no golden data of it; or the images are of
            another size than the model's.
    """
    checkpoint = open_checkpoint(checkpoint)
    network = network or (check_model(model).card.network if model is not None else None)
    found = detection or detect(checkpoint, network, scope)
    if model is None:
        top = {} if found.classes else {"include_top": False}
        model = load_network(checkpoint, found, {**top, **options}, ema=ema)
    elif options:
        raise UsageError(f"A model has its own options. Received: {', '.join(options)}")
    if isinstance(checkpoint, Graph2015):
        return verify_graph_2015(checkpoint, model, images, tolerance, batch)
    itself = checkpoint.head and checkpoint.graph.input()
    if not itself and not reference.has_graph(found.network):
        return verify_golden(checkpoint, model, found, tolerance, ema)
    if images is None:
        info = find_network(found.network)
        published = found.options.get("input_shape", (info.input_size, info.input_size, info.channels))
        images = noise(batch, *(own or side for own, side in zip(model.input_shape[1:], published)))
    elif np.ndim(images) != 4 or any(own not in (None, side) for own, side in zip(model.input_shape, np.shape(images))):
        expected, received = (
            shape_text(side or "any" for side in shape[1:]) for shape in (model.input_shape, np.shape(images))
        )
        raise UsageError(f"The model takes images of {expected}. Received: images of {received}")
    graph = {option: value for option, value in model.card.options.items() if option not in NEUTRAL}
    ours = run_keras(model, images)
    if itself:
        theirs = checkpoint.run(images, {name: value.shape for name, value in ours.items()})
        source = f"the graph {checkpoint.path.name} itself, run by TensorFlow"
        return compare_end_points(found.network, source, ours, theirs, tolerance)
    theirs = run_original(checkpoint, images, found, ema, graph)
    if model.card.options.get("classifier_activation") != "softmax":  # which Slim's networks end in, and nothing else
        theirs = {name: value for name, value in theirs.items() if name not in PREDICTIONS}
    return compare_end_points(found.network, f"TF-Slim's graph of {found.network}", ours, theirs, tolerance)


def verify_graph_2015(checkpoint, model, images=None, tolerance=TOLERANCE, batch=1):
    """Compares a Keras model with the graph of 2015-12-05 that it was loaded from, which TensorFlow runs.

    Arguments as in `verify`, but for `checkpoint`, a `Graph2015`.

    Returns:
        A `VerifyReport`: a row for every end point; two for the graph's own way from a JPEG to its input ("images") and
        on to its probabilities; and where the archive's `cropped_panda.jpg` is at hand, a note on the published print.

    Raises:
        UsageError: the images, or the model's, are of another size than the graph's.
    """
    size = checkpoint.size
    images = noise(batch, *size) if images is None else np.asarray(images, "float32")
    if images.shape[1:3] != size or any(own not in (None, side) for own, side in zip(model.input_shape[1:3], size)):
        sizes = shape_text(images.shape[1:3]), shape_text(side or "any" for side in model.input_shape[1:3])
        raise UsageError(
            f"The graph in {checkpoint.path} takes images of {shape_text(size)}. "
            f"Received: images of {sizes[0]}, a model for images of {sizes[1]}"
        )
    prepare, source = Preprocessing(NETWORK, size), f"the graph of {checkpoint.path.name} in TensorFlow"
    files = [a_photograph(), *([checkpoint.photograph] if checkpoint.photograph else [])]
    prepared, count = [prepare(file) for file in files], len(images)
    ours = run_keras(model, np.concatenate([images, *prepared]))
    report = compare_end_points(
        NETWORK, source, {name: value[:count] for name, value in ours.items()}, checkpoint.run(images), tolerance
    )
    last = next(name for name in reversed(ours))  # the probabilities, but for a model without its top
    from_file = {"images": prepared[0], last: ours[last][count : count + 1]}
    from_file = compare_end_points(NETWORK, source, from_file, checkpoint.run_file(files[0]), tolerance)
    rows = tuple(dataclasses.replace(row, end_point=f"DecodeJpeg to {row.end_point}") for row in from_file.rows)
    notes = ()
    if checkpoint.photograph and model.card.classes == CLASSES:
        scores = np.sort(ours[last][-1])[::-1]
        worst = max(abs(score - published) for score, published in zip(scores, PANDA_SCORES))
        text = ", ".join(f"{score:.5f} (published {published:.5f})" for score, published in zip(scores, PANDA_SCORES))
        notes = (f"cropped_panda.jpg: {text}: {'as published' if worst < 1e-3 else 'NOT AS PUBLISHED'}.",)
    return dataclasses.replace(report, rows=report.rows + rows, notes=notes)


def a_photograph():
    """The bytes of a JPEG of 160×120 pixels, made of waves."""
    from tensorflow.io import encode_jpeg

    y, x = np.mgrid[:120, :160] / 9
    waves = [np.sin(x + y), np.sin(x - 2 * y), np.cos(2 * x * y / 9)]
    return encode_jpeg(np.uint8(np.round(np.stack(waves, -1) * 100 + 128))).numpy()


def run_original(checkpoint, images, found, ema="auto", graph=None):
    """Every end point of TF-Slim's graph of a checkpoint on some images, as numpy arrays by Slim's names.

    Args:
        checkpoint: what `open_checkpoint` takes.
        images: float32 N×H×W×3, preprocessed.
        found: what `detect` found in it.
        ema: as in `load_slim`.
        graph: options that leave no trace in the variables, `spatial_squeeze` and the like. Default: the network's.
    """
    checkpoint = open_checkpoint(checkpoint)
    sources = find_sources(checkpoint, specification(found.network, **found.arguments), found.scope, ema)
    options = find_network(found.network).options_for(**{**(graph or {}), **found.arguments})
    return reference.run(found.network, images, options, found.scope, checkpoint, sources)


def verify_golden(checkpoint, model, found, tolerance=TOLERANCE, ema="auto"):
    """Compares a network with golden data of its original graph, and a model's variables with a checkpoint's tensors.

    Batch norm of other options is compared on weights with which it computes what the original does.

    Arguments as in `verify`; `found` is what `detect` found in the checkpoint.

    Returns:
        A `VerifyReport`: a row for every golden end point, of the network on the golden data's weights and images, and
        the row "variables": the largest difference between a variable of `model` and its tensor.

    Raises:
        UsageError: there is no golden data of the network, or none with the model's options.
    """
    info, data = find_network(found.network), golden.load(found.network)
    case, options = _golden_case(info, data, model.card.options)
    norm = {option: model.card.options[option] for option in BATCH_NORM_OPTIONS if option in model.card.options}
    network = build_model(info, input_shape=case["images"][1:], **options, **norm)
    published = specification(info.name, input_shape=tuple(case["images"][1:]), **options)
    weights = {name: golden.deterministic_weights(scoped(info.scope, name), shape) for name, shape in published.items()}
    weights = _renormalized(weights, info, norm)
    for name, variable in model_variables(network).items():
        variable.assign(weights[name])
    differences = golden.differences(case, run_keras(network, golden.deterministic_images(*case["images"])))
    rows = [Row(*row, passed=row[-1] <= tolerance) for row in differences]
    rows.append(_compare_variables(checkpoint, model, found, ema))
    origin = f"{data['source']['path']} (tensorflow/models at {data['source']['commit'][:7]})"
    source = f"golden data of {origin} on deterministic weights, its variables and the checkpoint's tensors"
    return VerifyReport(found.network, source, case["images"][0], tolerance, tuple(rows), None)


def _renormalized(weights, info, norm):
    """Weights of a network under other options of batch norm with which it computes the same.

    Args:
        weights: those of the network with its own batch norm, without gamma: a dict from Slim names to arrays.
        norm: the options.
    """
    weights = {name: value.astype("float64") for name, value in weights.items()}
    own, epsilon = info.batch_norm and info.batch_norm["epsilon"], norm.get("batch_norm_epsilon")
    for kernel in [name for name in weights if norm and name.removesuffix("weights") + "BatchNorm/beta" in weights]:
        layer = kernel.removesuffix("weights")
        beta, mean, variance = (f"{layer}BatchNorm/{word}" for word in ("beta", "moving_mean", "moving_variance"))
        if not norm.get("batch_norm", True):
            factor = 1 / np.sqrt(weights[variance] + own)
            weights[f"{layer}biases"] = weights[beta] - weights[mean] * factor
            weights[kernel] *= factor
        else:
            weights[variance] += own - (epsilon or own)
        if norm.get("batch_norm_scale"):
            gamma = golden.deterministic_weights(f"{layer}BatchNorm/gamma", weights[beta].shape)
            weights[f"{layer}BatchNorm/gamma"] = gamma
            weights[kernel] /= gamma
            weights[mean] /= gamma
    return weights


def _golden_case(info, data, options):
    """The case of golden data whose graph is that of a model's `options`, and the case's own options."""

    def graph(options):
        options = info.options_for(**options)
        neutral = (*NEUTRAL, *BATCH_NORM_OPTIONS)
        return json.dumps({option: value for option, value in options.items() if option not in neutral})

    for case in data["cases"].values():
        arguments = {OPTIONS.get(name, name): value for name, value in case["arguments"].items()}
        own = {option: value for option, value in arguments.items() if option in info.options}
        own |= {"aux_logits": arguments.get("aux_logits", True)} if "aux_logits" in info.options else {}
        own |= {"include_top": False} if case["base"] else {}
        if graph(own) == graph(options):
            return case, own
    raise UsageError(f"There is no golden data of {info.name} with these options: {graph(options)}")


def _compare_variables(checkpoint, model, found, ema):
    """The `Row` of a model's variables beside the checkpoint's tensors; equal only bit for bit."""
    variables = model_variables(model)
    sources = find_sources(checkpoint, variables, found.scope, ema)
    passed, difference, largest = len(sources) == len(variables), 0.0, 0.0
    for name, source in sources.items():
        ours, theirs = variables[name].numpy(), checkpoint[source]
        if ours.shape != theirs.shape:  # without the background class
            theirs = theirs[..., 1:]
        theirs = theirs.astype(ours.dtype)
        passed = passed and ours.tobytes() == theirs.tobytes()
        difference = max(difference, float(np.abs(ours - theirs).max()))
        largest = max(largest, float(np.abs(theirs).max()))
    return Row("variables", (len(variables),), difference, golden.relative(difference, largest), passed)


def run_keras(model, images):
    """Every end point of a Keras model on some images, as numpy arrays by Slim's names."""
    outputs = feature_extractor(model, list(end_points(model))).predict_on_batch(images)
    return {name: np.asarray(output) for name, output in outputs.items()}


def compare_end_points(network, source, ours, theirs, tolerance=TOLERANCE):
    """A `VerifyReport` of two dicts from end points to arrays, over what both have, in our order."""
    rows, theirs = [], dict(theirs)
    for name in [name for name in ours if name in theirs]:
        a, b = np.asarray(ours[name], "float64"), np.asarray(theirs[name], "float64")
        if name in CLASS_END_POINTS and a.shape[-1] == b.shape[-1] - 1:
            b = theirs[name] = without_background(b, name in PREDICTIONS)
        difference = float(np.max(np.abs(a - b))) if a.shape == b.shape else float("inf")
        relative = golden.relative(difference, float(np.max(np.abs(b))))
        rows.append(Row(name, a.shape, difference, relative, relative <= tolerance))
    if not rows:
        raise UsageError(f"There is nothing to compare: {network} and {source} have no end point in common.")
    names = (*PREDICTIONS, *find_network(network).heads)  # the logits, where Slim has no predictions
    scores = next((name for name in names if name in ours and name in theirs), None)
    top5 = same_top5(ours[scores], theirs[scores], tolerance) if scores else None
    return VerifyReport(network, source, len(next(iter(ours.values()))), tolerance, tuple(rows), top5)


def without_background(scores, normalize):
    """Scores N×classes without class 0, summing to 1 again where asked."""
    scores = scores[..., 1:]
    return scores / scores.sum(axis=-1, keepdims=True) if normalize else scores


def same_top5(ours, theirs, tolerance=TOLERANCE):
    """Whether the five best classes are the same, in order; scores closer than the tolerance may change places."""
    ours, theirs = (np.reshape(scores, (-1, np.shape(scores)[-1])) for scores in (ours, theirs))
    for a, b in zip(ours, theirs):
        best_a, best_b = np.argsort(-a, kind="stable")[:5], np.argsort(-b, kind="stable")[:5]
        if np.any((best_a != best_b) & (np.abs(b[best_a] - b[best_b]) > tolerance * np.abs(b).max())):
            return False
    return True
