"""Writes inception_tf/models/costs.tsv: parameters and multiply-adds of every network, counted from its layers.

python tools/costs.py
"""

import dataclasses
from pathlib import Path

from inception_tf.analysis import costs
from inception_tf.files import atomic_write
from inception_tf.models.registry import networks
from inception_tf.quiet import start_keras


def main():
    start_keras()
    rows = [[field.name for field in dataclasses.fields(costs.Cost)]]
    rows += [map(str, dataclasses.astuple(costs.measure(network))) for network in networks()]
    with atomic_write(Path(costs.__file__).with_name("costs.tsv"), overwrite=True) as part:
        part.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
