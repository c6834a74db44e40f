"""Every network's variables beside the facts: names and shapes as TF-Slim's graphs have them."""

import itertools

import keras
import pytest

from inception_tf.models.registry import find_network, networks
from inception_tf.slim.names import model_variables, specification
from inception_tf.zoo import create_model


def published(network):
    """The options of the network as it was published, with its auxiliary head."""
    return {"aux_logits": True} if "aux_logits" in find_network(network).options else {}


@pytest.mark.parametrize("network", networks())
def test_variables_are_slims(slim_variables, network):
    try:
        facts = slim_variables(network)
    except FileNotFoundError:
        pytest.skip("no file of facts for it")
    scope = find_network(network).scope
    found = {f"{scope}/{name}": shape for name, shape in specification(network, **published(network)).items()}
    assert found == facts


def test_every_file_of_facts_has_its_network(request):
    files = (request.config.rootpath / "tests/models/slim_variables").glob("*.json")
    assert {file.stem for file in files} <= set(networks())


@pytest.mark.parametrize("network", networks())
def test_what_trains(network):
    """Batch norm's averages do not train, all else does; no two variables share a name."""
    with keras.StatelessScope(initialize_variables=False):
        model = create_model(network, **published(network))
    variables = model_variables(model)
    assert len(variables) == len(model.weights)
    moving = {name for name in variables if name.endswith(("/moving_mean", "/moving_variance"))}
    assert {name for name, variable in variables.items() if not variable.trainable} == moving


@pytest.mark.parametrize("network", networks())
def test_a_layer_is_an_end_point(network):
    """Layer names are Slim scopes: a variable's first scopes are the layer it is found in."""
    with keras.StatelessScope(initialize_variables=False):
        model = create_model(network, **published(network))
    for layer in model.layers:
        assert all(variable.path.split("/")[0] == layer.name for variable in layer.weights)
    names = [layer.name for layer in model.layers]
    assert names == list(dict.fromkeys(names)) and not any("_1_1" in a + b for a, b in itertools.pairwise(names))
