"""The original TF-Slim graph, run in a session: what a converted model is verified against.

The one file that imports TF-Slim.
"""

import contextlib
import functools
import importlib
import inspect
import sys
from unittest import mock

from inception_tf.errors import UsageError
from inception_tf.quiet import no_deprecations
from inception_tf.slim.names import scoped

MODULES = ("inception_v1", "inception_v2", "inception_v3", "resnet_v1", "resnet_v2", "vgg", "alexnet")

# Our options by the name TF-Slim's functions have for them.
ARGUMENTS = {"aux_logits": "create_aux_logits", "classes": "num_classes"}
NORM = ("scale", "epsilon", "decay")  # our options for batch norm's arguments are called batch_norm_scale, …


@functools.cache
def import_tf_slim():
    """Imports TF-Slim 1.1 on a TensorFlow that no longer has the legacy layers where it looks for them."""
    import tf_keras  # noqa: F401

    legacy = "tf_keras.src.legacy_tf_layers"
    for module in ("", ".base", ".convolutional", ".core", ".normalization", ".pooling"):
        sys.modules.setdefault("tf_keras.legacy_tf_layers" + module, importlib.import_module(legacy + module))
    return importlib.import_module("tf_slim")


def has_graph(network):
    """Whether TF-Slim on PyPI builds the network."""
    return bool(_function(network))


def _function(network):
    """TF-Slim's module and function for a network, or None."""
    import_tf_slim()
    modules = (importlib.import_module(f"tf_slim.nets.{module}") for module in MODULES)
    name = _slim_name(network)
    return next(((module, getattr(module, name)) for module in modules if hasattr(module, name)), None)


def _slim_name(network):
    """The name in TF-Slim; that of Inception-v3 for the network of 2015, which differs in a pooling."""
    return "inception_v3" if network == "inception_2015" else network


def build(network, images, options, scope):
    """Adds the TF-Slim graph of a network to the default graph.

    Args:
        network: its name.
        images: a float32 tensor N×H×W×3.
        options: a model's options, as its card holds them.
        scope: the variable scope.

    Returns:
        Slim's end points: a dict from names to tensors.
    """
    if not has_graph(network):
        raise UsageError(f"TF-Slim has no graph of {network}.")
    module, function = _function(network)
    # dir() finds add_arg_scope, the decorator, too.
    arg_scope = next(getattr(module, name) for name in dir(module) if name.endswith("_arg_scope") and name[:3] != "add")
    if not options.get("include_top", True):
        function = getattr(module, _slim_name(network) + "_base", function)
    accepted = inspect.signature(function).parameters
    # The graph of 2015 is Slim's v3 without the head that it has by default.
    options = {"aux_logits": False, **options} if network == "inception_2015" else options
    arguments = {ARGUMENTS.get(option, option): value for option, value in options.items()}
    if "spatial_squeeze" not in accepted:
        arguments["global_pool"] = options.get("spatial_squeeze", True)
    arguments = {name: value for name, value in arguments.items() if name in accepted}
    if "is_training" in accepted:
        arguments["is_training"] = False
    slim = import_tf_slim()
    first = _plain_convolution(slim) if options.get("use_separable_conv") is False else contextlib.nullcontext()
    last = _max_pool_in_7c(slim) if network == "inception_2015" else contextlib.nullcontext()
    evaluating = slim.arg_scope([slim.batch_norm, slim.dropout], is_training=False)
    with first, last, _arg_scope(slim, arg_scope, options), evaluating:
        end_points = function(images, scope=scope, **arguments)[1]
    if arguments.get("global_pool"):
        end_points.update(_pooled(end_points, scoped(scope, "")))
    end_points.update(_head_pooling(images.graph, f"{scoped(scope, '')}Logits/"))
    return end_points


@contextlib.contextmanager
def _arg_scope(slim, arg_scope, options):
    """A network's arg scope, `arg_scope()`, with the batch norm of the options; no arg scope where they have none.

    Not all of Slim's arg scopes take batch norm's arguments: they are set within it.
    """
    if not options.get("batch_norm", True):
        yield
        return
    given = {argument: options[f"batch_norm_{argument}"] for argument in NORM if f"batch_norm_{argument}" in options}
    scope = arg_scope()
    own = scope[slim.arg_scope_func_key(slim.conv2d)].get("normalizer_params")
    convolution = {"normalizer_params": {**own, **given}} if own else {}
    inner = slim.arg_scope([slim.conv2d], **convolution), slim.arg_scope([slim.batch_norm], **given)
    with slim.arg_scope(scope), inner[0], inner[1]:
        yield


def _plain_convolution(slim):
    """Separable convolutions become plain, as research/slim's `use_separable_conv=False`: PyPI's graph lacks that."""

    @slim.add_arg_scope
    def plain(inputs, filters, kernel, depth_multiplier, **arguments):
        return slim.conv2d(inputs, filters, kernel, **arguments)

    return mock.patch.object(slim.layers, "separable_conv2d", plain)


def _max_pool_in_7c(slim):
    """The average pooling of Mixed_7c becomes a max pooling, as the graph of 2015-12-05 has it."""
    import tensorflow.compat.v1 as tf

    layers = importlib.import_module("tf_slim.layers.layers")
    average = layers.avg_pool2d

    @slim.add_arg_scope
    def pool(*args, **arguments):
        is_last = tf.get_variable_scope().name.endswith("Mixed_7c/Branch_3")
        return (layers.max_pool2d if is_last else average)(*args, **arguments)

    return mock.patch.object(layers, "avg_pool2d", pool)


def _pooled(end_points, prefix):
    """The end points that research/slim's ResNets have at a pooled top, and those on PyPI not, from the same graph."""
    import tensorflow.compat.v1 as tf

    tops = {"predictions": end_points["predictions"], f"{prefix}spatial_squeeze": end_points[f"{prefix}logits"]}
    squeezed = {name: tf.squeeze(tensor, [1, 2]) for name, tensor in tops.items()}
    return {"global_pool": tf.get_default_graph().get_tensor_by_name(f"{prefix}pool5:0"), **squeezed}


def _head_pooling(graph, prefix):
    """The end point of the Inceptions' last pooling, as research/slim has it and PyPI not, from the same graph."""
    operations = (operation for operation in graph.get_operations() if operation.type == "AvgPool")
    names = {operation.name.removeprefix(prefix): operation for operation in operations}
    return {
        end_point: operation.outputs[0]
        for name, operation in names.items()
        for end_point in ("AvgPool_0a_7x7", "AvgPool_1a")
        if name.startswith(end_point)
    }


def run(network, images, options, scope, checkpoint, sources):
    """Runs the TF-Slim graph on a checkpoint's weights.

    Args:
        network, options, scope: as in `build`.
        images: float32 N×H×W×3.
        checkpoint: a `Checkpoint`; TensorFlow's own Saver restores it where it can.
        sources: a dict from the graph's variables (names without the scope) to the checkpoint's tensors.

    Returns:
        A dict from the end points' names, without the scope, to numpy arrays.

    Raises:
        UsageError: TF-Slim has no graph of the network.
    """
    import tensorflow.compat.v1 as tf

    # Read before the graph is entered: inside it a Keras model's variables have no values.
    values = {} if checkpoint.prefix else {source: checkpoint[source] for source in sources.values()}
    with no_deprecations(), tf.Graph().as_default(), tf.Session() as session:
        placeholder = tf.placeholder(tf.float32, images.shape)
        end_points = build(network, placeholder, options, scope)
        variables = {variable.op.name.removeprefix(scoped(scope, "")): variable for variable in tf.global_variables()}
        if not options.get("include_top", True):
            # A network that TF-Slim builds with its top only: the top is not compared.
            session.run([variable.initializer for name, variable in variables.items() if name not in sources])
            variables = {name: variable for name, variable in variables.items() if name in sources}
        pairs = {sources[name]: variable for name, variable in variables.items()}
        if checkpoint.prefix:
            stored = {checkpoint.stored(source): variable for source, variable in pairs.items()}
            tf.train.Saver(stored).restore(session, checkpoint.prefix)
        else:
            for source, variable in pairs.items():
                variable.load(values[source], session)
        arrays = session.run(end_points, {placeholder: images})
    return {name.removeprefix(scoped(scope, "")): array for name, array in arrays.items()}
