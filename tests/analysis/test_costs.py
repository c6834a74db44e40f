import math
import subprocess
import sys

import pytest

from inception_tf.analysis.costs import cost_of, measure, table
from inception_tf.models.registry import networks

SLIM = ["inception_v2", *(pytest.param(n, marks=pytest.mark.slow) for n in ("inception_v1", "resnet_v2_50", "vgg_16"))]


def test_the_table_has_every_network():
    assert list(table()) == list(networks()), "python tools/costs.py writes it anew"


@pytest.mark.parametrize("name", sorted(set(networks()) - {"nin", "lenet"}))
def test_parameters_are_those_of_slims_variables(name, slim_variables):
    shapes = slim_variables(name).items()
    assert table()[name].parameters == sum(math.prod(shape) for n, shape in shapes if "/AuxLogits/" not in n)


@pytest.mark.parametrize("name", SLIM)
def test_multiply_adds_are_those_tensorflows_profiler_counts_in_slims_graph(name):
    import tensorflow.compat.v1 as tf
    from slim_files import build_slim

    cost = table()[name]
    with tf.Graph().as_default() as graph:
        build_slim(name, classes=cost.classes)
        options = tf.profiler.ProfileOptionBuilder(tf.profiler.ProfileOptionBuilder.float_operation())
        options = options.with_empty_output().with_accounted_types([".*"]).build()
        profile = tf.profiler.profile(graph, cmd="op", options=options)
    found = {}

    def walk(node):
        for child in node.children:
            found[child.name] = child.float_ops
            walk(child)

    walk(profile)
    kinds = ("Conv2D", "MatMul", "DepthwiseConv2dNative")
    assert 2 * cost.multiply_adds == sum(found.get(kind, 0) for kind in kinds)


def test_a_network_that_is_not_in_the_table_is_counted(monkeypatch):
    monkeypatch.setattr("inception_tf.analysis.costs.table", dict)
    assert cost_of("lenet") == measure("lenet")


def test_the_list_of_models_needs_no_keras():
    code = (
        "import sys; from inception_tf.cli.main import main\n"
        "assert main(['models', 'adv*', '--max-parameters', '25M']) == 0\n"
        "print(sorted({'keras', 'tensorflow', 'numpy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    lines = out.splitlines()
    assert lines[-1] == "[]"
    assert [line.split()[:2] for line in lines[2:-1]] == [["inception_v3", "adv"]]
