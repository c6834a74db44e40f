import math

import pytest

from inception_tf.analysis.costs import cost_of, measure, table
from inception_tf.models.registry import networks


def test_the_table_is_of_the_networks():
    assert set(table()) <= set(networks()), "python -m inception_tf.analysis.costs writes it"


@pytest.mark.parametrize("name", sorted(set(networks()) - {"nin", "lenet"}))
def test_parameters_are_those_of_slims_variables(name, slim_variables):
    shapes = slim_variables(name).items()
    assert table()[name].parameters == sum(math.prod(shape) for n, shape in shapes if "/AuxLogits/" not in n)


def test_a_network_that_is_not_in_the_table_is_counted(monkeypatch):
    monkeypatch.setattr("inception_tf.analysis.costs.table", dict)
    assert cost_of("lenet") == measure("lenet")
