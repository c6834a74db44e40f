"""Networks built without memory for their weights."""

import functools

import pytest

from inception_tf.models.initialization import meta_init
from inception_tf.models.model import end_points
from inception_tf.models.registry import find_network
from inception_tf.zoo import create_model


@pytest.fixture(scope="session")
def meta():
    """A function from a network's name and options to its model without weights, built once."""

    @functools.cache
    def build(network, **options):
        with meta_init():
            return create_model(network, **options)

    return build


@pytest.fixture(scope="session")
def published(meta):
    """A function from a network's name to its model without weights, as it was published, with its auxiliary head."""

    def build(network):
        return meta(network, **({"aux_logits": True} if "aux_logits" in find_network(network).options else {}))

    return build


@pytest.fixture(scope="session")
def shapes(meta):
    """A function from a network's name and options to the shapes of its end points, without the batch."""

    def read(network, **options):
        return {name: tuple(tensor.shape[1:]) for name, tensor in end_points(meta(network, **options)).items()}

    return read
