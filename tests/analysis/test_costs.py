import math
import subprocess
import sys

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
