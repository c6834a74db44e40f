"""Makes golden data with TF-Slim's own graphs: what they compute on deterministic weights and images.

    python tools/golden.py inception_v3 resnet_v1_50 --output DIR
    python tools/golden.py inception_v3 --size 107x139 --depth-multiplier 0.25 --output tests/golden --force

The recipe is that of inception_tf/slim/golden.py. The files in inception_tf/slim/golden_data, of the networks that
TF-Slim on PyPI does not have, were made by `case` and `write` below from the graphs of tensorflow/models
(research/slim) on tf_slim 1.1.0; each file says of which commit.
"""

import contextlib
import json
import math
from importlib.metadata import version

from _tools import options, start

from inception_tf.cli.profile import size
from inception_tf.files import atomic_write
from inception_tf.models.registry import find_network
from inception_tf.quiet import no_deprecations
from inception_tf.slim import golden, reference


def slim_graph(network, arguments):
    """A function, input tensor -> end points, that builds `network` as tf_slim.nets does."""
    return lambda inputs: reference.build(network, inputs, arguments, find_network(network).scope)


@contextlib.contextmanager
def session_of(build, shape):
    """A context with a session of a graph whose variables have their deterministic weights.

    Args:
        build: a function from a float32 placeholder to a mapping of end point names to tensors.
        shape: (N, H, W, C) of the images.

    Yields:
        The session, the placeholder, the end points, and the variables: a dict from names to shapes.
    """
    import tensorflow.compat.v1 as tf

    with no_deprecations(), tf.Graph().as_default(), tf.Session() as session:
        inputs = tf.placeholder(tf.float32, shape)
        tensors = build(inputs)
        variables = {variable.op.name: variable for variable in tf.global_variables()}
        values = {
            variable.initializer.inputs[1]: golden.deterministic_weights(name, variable.shape)
            for name, variable in variables.items()
        }
        session.run([variable.initializer for variable in variables.values()], values)
        yield session, inputs, tensors, {name: variable.shape.as_list() for name, variable in variables.items()}


def run(build, shape):
    """The end points of a graph on deterministic images, as arrays, and its variables. Arguments as `session_of`."""
    with session_of(build, shape) as (session, inputs, tensors, variables):
        return session.run(dict(tensors), {inputs: golden.deterministic_images(*shape)}), variables


def case(build, shape, arguments, base=False, variable_shapes=False):
    """One case of a golden file: see `inception_tf.slim.golden.load` for its entries."""
    end_points, variables = run(build, shape)
    return {
        "arguments": arguments,
        "base": base,
        "images": list(shape),
        "variables": len(variables),
        "parameters": sum(math.prod(shape) for shape in variables.values()),
        **({"variable_shapes": variables} if variable_shapes else {}),
        "end_points": golden.record(end_points),
    }


def write(path, network, source, cases, overwrite=False):
    """Writes a golden file, a line an end point."""
    made_by = {"tensorflow": version("tensorflow"), "tf_slim": version("tf_slim")}
    data = {"network": network, "recipe": golden.RECIPE, "source": {**source, **made_by}, "cases": cases}
    with atomic_write(path, overwrite) as part:
        part.write_text(_dumps(data) + "\n")


def _dumps(value, indent=""):
    if not isinstance(value, dict) or not any(isinstance(item, dict) for item in value.values()):
        return json.dumps(value)
    deeper = indent + " "
    items = (f"{deeper}{json.dumps(key)}: {_dumps(item, deeper)}" for key, item in value.items())
    return "{\n" + ",\n".join(items) + f"\n{indent}}}"


def main():
    parser = options(__doc__)
    parser.add_argument("networks", nargs="+", metavar="network", help="names, such as inception_v3")
    parser.add_argument("--output", required=True, metavar="DIR", help="where NETWORK.json goes")
    parser.add_argument("--size", type=size, metavar="HxW", help="of the images; default: the network's own")
    parser.add_argument("--depth-multiplier", type=float, help="for networks that have one")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    start(parser, make)


def make(args):
    for network in args.networks:
        info = find_network(network)
        arguments = {"num_classes": info.classes, "is_training": False}
        if args.depth_multiplier:
            arguments["depth_multiplier"] = args.depth_multiplier
        shape = (1, *(args.size or (info.input_size, info.input_size)), info.channels)
        cases = {"default": case(slim_graph(network, arguments), shape, arguments)}
        write(f"{args.output}/{network}.json", network, {"graph": f"tf_slim.nets {network}"}, cases, args.force)


if __name__ == "__main__":
    main()
