"""Makes golden data with TF-Slim's own graphs: what they compute on deterministic weights and images.

    python tools/golden.py inception_v3 resnet_v1_50 --output DIR
    python tools/golden.py inception_v3 --size 107x139 --depth-multiplier 0.25 --output tests/golden --force

The recipe is that of inception_tf/slim/golden.py. The files in inception_tf/slim/golden_data, of the networks that
TF-Slim on PyPI does not have, were made by `case` and `write` below from the graphs of tensorflow/models
(research/slim) on tf_slim 1.1.0; each file says of which commit.
"""

import argparse
import json
import math
import sys
from importlib.metadata import version

from inception_tf.errors import InceptionTFError, UsageError
from inception_tf.files import atomic_write
from inception_tf.slim import golden, reference

# network: scope, size, classes
NETWORKS = {
    "inception_v1": ("InceptionV1", 224, 1001),
    "inception_v2": ("InceptionV2", 224, 1001),
    "inception_v3": ("InceptionV3", 299, 1001),
    **{f"resnet_v1_{depth}": (f"resnet_v1_{depth}", 224, 1000) for depth in (50, 101, 152)},
    **{f"resnet_v2_{depth}": (f"resnet_v2_{depth}", 299, 1001) for depth in (50, 101, 152)},
    "vgg_16": ("vgg_16", 224, 1000),
    "vgg_19": ("vgg_19", 224, 1000),
    "alexnet_v2": ("alexnet_v2", 224, 1000),
}
WITH_DEPTH_MULTIPLIER = ("inception_v2", "inception_v3")


def slim_graph(network, arguments):
    """A function, input tensor -> end points, that builds `network` as tf_slim.nets does."""
    return lambda inputs: reference.build(network, inputs, arguments, NETWORKS[network][0])


def run(build, shape):
    """Builds a graph, gives every variable its deterministic weights, and runs it on deterministic images.

    Args:
        build: a function from a float32 placeholder to a mapping of end point names to tensors.
        shape: (N, H, W, C) of the images.

    Returns:
        The end points as arrays, and the graph's variables: a dict, name -> shape.
    """
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        inputs = tf.compat.v1.placeholder(tf.float32, shape)
        tensors = build(inputs)
        variables = {variable.op.name: variable for variable in tf.compat.v1.global_variables()}
        values = {
            variable.initializer.inputs[1]: golden.deterministic_weights(name, variable.shape)
            for name, variable in variables.items()
        }
        session.run([variable.initializer for variable in variables.values()], values)
        end_points = session.run(dict(tensors), {inputs: golden.deterministic_images(*shape)})
    return end_points, {name: variable.shape.as_list() for name, variable in variables.items()}


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
    parser = argparse.ArgumentParser(description="Makes golden data with TF-Slim's own graphs.")
    parser.add_argument("networks", nargs="+", choices=NETWORKS, metavar="network", help=", ".join(NETWORKS))
    parser.add_argument("--output", required=True, metavar="DIR", help="where NETWORK.json goes")
    parser.add_argument("--size", metavar="HxW", help="of the images; default: the network's own")
    parser.add_argument("--depth-multiplier", type=float, help="for " + ", ".join(WITH_DEPTH_MULTIPLIER))
    parser.add_argument("--force", action="store_true", help="replace existing files")
    options = parser.parse_args()
    try:
        for network in options.networks:
            _, size, classes = NETWORKS[network]
            height, width = _size(options.size) if options.size else (size, size)
            arguments = {"num_classes": classes, "is_training": False}
            if options.depth_multiplier:
                if network not in WITH_DEPTH_MULTIPLIER:
                    raise UsageError(f"{network} has no depth multiplier; {', '.join(WITH_DEPTH_MULTIPLIER)} have one.")
                arguments["depth_multiplier"] = options.depth_multiplier
            cases = {"default": case(slim_graph(network, arguments), (1, height, width, 3), arguments)}
            path = f"{options.output}/{network}.json"
            write(path, network, {"graph": f"tf_slim.nets {network}"}, cases, options.force)
            print(path)
    except InceptionTFError as error:
        sys.exit(f"golden: {error}")


def _size(text):
    try:
        height, width = (int(number) for number in text.split("x"))
    except ValueError:
        raise UsageError(f"--size is HxW, such as 299x299. Received: {text}") from None
    return height, width


if __name__ == "__main__":
    main()
