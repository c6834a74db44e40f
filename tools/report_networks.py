"""Converts a checkpoint of every network, compares each with its reference, and prints the results as Markdown.

    python tools/report_networks.py
    python tools/report_networks.py 'inception*' lenet

The checkpoints are made here: variables of TF-Slim's own graph, written by TensorFlow's Saver, where TF-Slim on PyPI
has the graph, else those of our model; with the auxiliary head; their values are `deterministic_weights`.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

from golden import session_of

from inception_tf.errors import InceptionTFError, UsageError
from inception_tf.exports.convert import convert
from inception_tf.models.registry import find_network, list_models
from inception_tf.quiet import start_keras
from inception_tf.slim import golden, reference
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.names import model_variables, scoped
from inception_tf.slim.save import save_slim
from inception_tf.zoo import create_model

HEADER = ("network", "variables", "parameters", "worst relative difference", "reference", "convert, s", "verify, s")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["*"], help="names or wildcards (all)")
    networks = [name for pattern in parser.parse_args(arguments).networks for name in list_models(pattern)]
    if not networks:
        parser.error("there is no such network")
    start_keras()
    print(markdown(HEADER), markdown(["---", *["---:"] * 3, "---", "---:", "---:"]), sep="\n", flush=True)
    try:
        for name in networks:
            print(markdown(row(name)), flush=True)
    except InceptionTFError as error:
        sys.exit(f"report_networks: {name}: {error}")


def markdown(cells):
    return f"| {' | '.join(cells)} |"


def row(name):
    """The cells of a network's row.

    Raises:
        MismatchError: it differs from its reference.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.ckpt")
        write_checkpoint(name, path)
        shapes = open_checkpoint(path).shapes.values()
        check = reference.has_graph(name) or name in golden.networks()
        result = convert(path, Path(folder, "model.keras"), check=check)
    verified, seconds = result.verified, result.seconds
    return [
        name,
        str(len(shapes)),
        f"{sum(map(math.prod, shapes)):,}",
        f"{verified.worst:.1e}" if verified else "–",
        verified.reference.split(" on ")[0] if verified else "none has it",
        f"{seconds['read'] + seconds['write']:.1f}",
        f"{seconds['verify']:.1f}" if verified else "–",
    ]


def write_checkpoint(name, path):
    """Writes a checkpoint of the published form of a network, with deterministic weights."""
    info = find_network(name)
    aux = {"aux_logits": True} if "aux_logits" in info.options else {}
    try:
        write_slim_graph(info, info.options_for(**aux), path)
    except UsageError:  # TF-Slim on PyPI has no graph of it
        model = create_model(name, **aux)
        for variable_name, variable in model_variables(model).items():
            variable.assign(golden.deterministic_weights(scoped(info.scope, variable_name), variable.shape))
        save_slim(model, path)


def write_slim_graph(info, options, path):
    import tensorflow.compat.v1 as tf

    shape = (1, info.input_size, info.input_size, info.channels)
    with session_of(lambda images: reference.build(info.name, images, options, info.scope), shape) as (session, *_):
        tf.train.Saver().save(session, str(path), write_meta_graph=False)


if __name__ == "__main__":
    main()
