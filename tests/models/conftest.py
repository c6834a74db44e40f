"""Networks built without memory for their weights."""

import keras
import pytest

from inception_tf.models.model import end_points
from inception_tf.models.registry import find_network


class Shapes:
    """From a network's name and options to the shapes of its end points, without the batch."""

    def __call__(self, network, **options):
        from inception_tf.zoo import create_model

        with keras.StatelessScope(initialize_variables=False):
            model = create_model(network, **options)
            return {name: tuple(tensor.shape[1:]) for name, tensor in end_points(model).items()}

    def build(self, network, input_shape, **options):
        """Builds the layers whatever the image's size, for TensorFlow to judge."""
        with keras.StatelessScope(initialize_variables=False):
            return find_network(network).build(keras.Input(input_shape), **options)


@pytest.fixture(scope="session")
def shapes():
    return Shapes()
