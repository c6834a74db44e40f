"""Slim's variable names: the rule between them and Keras paths, and what else a checkpoint holds."""

import fnmatch
import functools
import re

from inception_tf.errors import UsageError
from inception_tf.models.initialization import meta_init
from inception_tf.models.registry import find_network

# A Keras variable's last word, and Slim's. Words not listed (beta, gamma, moving_mean, …) are the same in both.
WORDS = {
    "kernel": "weights",
    "bias": "biases",
    "depthwise_kernel": "depthwise_weights",
    "pointwise_kernel": "pointwise_weights",
}

EMA = "/ExponentialMovingAverage"
SLOT = re.compile(r"/(RMSProp|Momentum|Adam|Adagrad|Adadelta|Ftrl|AdaMax|Lion|LARS|LAMB)\w*(_\d+)?$")
BOOKKEEPING = [
    (re.compile(r"(^|/)global_step$"), "training step"),
    (re.compile(r"(^|/)beta[12]_power(_\d+)?$"), "optimizer state"),
    (re.compile(r"/(biased|local_step)$"), "moving average bookkeeping"),
    (re.compile(r"(^|/)(learning_rate|current_loss_scale|good_steps|save_counter)$"), "training state"),
    (re.compile(r"(^|/)_CHECKPOINTABLE_OBJECT_GRAPH$"), "object graph"),
]


def slim_name(path):
    """The name in a Slim checkpoint, without the scope, of the Keras variable with this path.

    `Mixed_5c/Branch_1/Conv_1_0c_5x5/kernel` gives `Mixed_5c/Branch_1/Conv_1_0c_5x5/weights`.
    """
    parent, _, word = path.rpartition("/")
    return f"{parent}/{WORDS.get(word, word)}"


def model_variables(model):
    """The variables of a Keras model by Slim name, without the scope."""
    return {slim_name(variable.path): variable for variable in model.weights}


def scoped(scope, name):
    """`name` under the variable scope `scope`, which may be empty."""
    return f"{scope}/{name}" if scope else name


def shape_text(shape):
    """A tensor's shape for a message: 3×3×3×32, "scalar", or "missing" for None."""
    return "missing" if shape is None else "×".join(map(str, shape)) or "scalar"


def scope_matcher(globs, scope, names, option):
    """A function from a variable's name to whether it lies in one of several scopes.

    Args:
        globs: patterns of scopes such as "Mixed_7*", with or without the network's own `scope` in front; a list, or a
            string with commas between them.
        scope: the network's own.
        names: the variables there are, without the scope.
        option: what the globs are called where the user gives them.

    Raises:
        UsageError: a glob that matches none of `names`.
    """
    patterns = globs.split(",") if isinstance(globs, str) else list(globs)

    def matches(name, pattern):
        pattern = pattern.rstrip("/")
        candidates = [name, scoped(scope, name)]
        return any(fnmatch.fnmatchcase(c, p) for c in candidates for p in (pattern, pattern + "/*"))

    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            tops = ", ".join(dict.fromkeys(name.split("/")[0] for name in names))
            raise UsageError(f"{option}: nothing matches {pattern!r}. The scopes are: {tops}.")
    return lambda name: any(matches(name, pattern) for pattern in patterns)


def bookkeeping(name, others=()):
    """What a tensor of a checkpoint is for, when it is not a weight of a network; else None.

    Args:
        name: the tensor's.
        others: the names beside it. Under the name of another tensor lie its optimizer slots, whatever they are called.
    """
    plain = name.removesuffix(EMA)
    if SLOT.search(plain) or plain.rpartition("/")[0] in others:
        return "optimizer slot"
    if name.endswith(EMA):
        return "moving average of a weight"
    return next((reason for pattern, reason in BOOKKEEPING if pattern.search(name)), None)


@functools.lru_cache(maxsize=64)
def specification(network, **options):
    """The variables of a network by Slim name, without the scope, with their shapes. Takes no memory for them.

    Args:
        network: its name.
        **options: as its constructor takes them.

    Returns:
        A dict, which is cached: it must not be changed.
    """
    from inception_tf.models.model import build_model  # here, since it loads Keras

    with meta_init():
        model = build_model(find_network(network), **options)
        return {name: tuple(variable.shape) for name, variable in model_variables(model).items()}
