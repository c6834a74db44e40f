"""Converts a checkpoint of every network, compares each with its reference, and prints the results as Markdown.

    python tools/report_networks.py
    python tools/report_networks.py 'inception*' lenet

The checkpoints are made here: variables of TF-Slim's own graph, written by TensorFlow's Saver, where TF-Slim on PyPI
has the graph, else those of our model; with the auxiliary head; their values are `deterministic_weights`.
"""

import math
import tempfile
from pathlib import Path

from _tools import options, start
from golden import session_of

from inception_tf import tables
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
    parser = options(__doc__)
    parser.add_argument("networks", nargs="*", default=["*"], help="names or wildcards (all)")
    start(parser, run, arguments)


def run(args):
    start_keras()
    print(tables.markdown([], HEADER), flush=True)
    for name in (name for pattern in args.networks for name in list_models(pattern)):
        print(f"| {' | '.join(row(name))} |", flush=True)


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
    import tensorflow.compat.v1 as tf

    info = find_network(name)
    aux = {"aux_logits": True} if "aux_logits" in info.options else {}
    if reference.has_graph(name):
        shape, options = (1, info.input_size, info.input_size, info.channels), info.options_for(**aux)
        with session_of(lambda images: reference.build(name, images, options, info.scope), shape) as (session, *_):
            tf.train.Saver().save(session, str(path), write_meta_graph=False)
    else:
        model = create_model(name, **aux)
        for variable_name, variable in model_variables(model).items():
            variable.assign(golden.deterministic_weights(scoped(info.scope, variable_name), variable.shape))
        save_slim(model, path)


if __name__ == "__main__":
    main()
