"""What a network costs: its parameters and multiply-adds, read off the table `costs.tsv`, which needs no Keras.

`python -m inception_tf.analysis.costs` writes the table, counted from the networks' layers.
"""

import functools
from importlib import resources
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """What a network costs as it was published: its default options, with the classifier, without the auxiliary head.

    Attributes:
        network: its name.
        input_size, channels, classes: of the published network.
        parameters: the numbers in its weights, batch norm's moving averages included, as `keras.Model.count_params`.
        multiply_adds: those of its convolutions and fully connected layers on one image. Half of the "FLOPs" that
            count a multiplication and an addition as two.
    """

    network: str
    input_size: int
    channels: int
    classes: int
    parameters: int
    multiply_adds: int


def cost_of(network):
    """The `Cost` of a network: off the table, or counted where the table does not have it."""
    return table().get(network) or measure(network)


@functools.cache
def table():
    """The table `costs.tsv`, a dict from the networks' names to their `Cost`."""
    text = resources.files("inception_tf.analysis").joinpath("costs.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return {network: Cost(network, *map(int, numbers)) for network, *numbers in rows}


def measure(network):
    """The `Cost` of a network, counted from its layers: a second or two. Takes no memory for the weights."""
    from inception_tf.analysis.profile import profile, total
    from inception_tf.models.initialization import meta_init
    from inception_tf.models.model import build_model
    from inception_tf.models.registry import find_network

    info = find_network(network)
    with meta_init():
        model = build_model(info)
        counts = model.count_params(), total(profile(model).layers, "multiply_adds")
    return Cost(network, info.input_size, info.channels, info.classes, *counts)


def main():
    """Writes `costs.tsv`."""
    from inception_tf.files import atomic_write
    from inception_tf.models.registry import list_models
    from inception_tf.quiet import start_keras

    start_keras()
    rows = [Cost._fields, *(map(str, measure(network)) for network in list_models())]
    with atomic_write(Path(__file__).with_name("costs.tsv"), overwrite=True) as part:
        part.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
