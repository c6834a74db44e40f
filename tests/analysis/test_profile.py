"""Costs against Keras, TensorFlow's profiler and keras.applications; receptive fields against the published table and
against what a network answers to single bright pixels."""

import keras
import numpy as np
import pytest

from inception_tf.analysis import costs
from inception_tf.analysis.costs import table
from inception_tf.analysis.profile import profile, total
from inception_tf.errors import UsageError
from inception_tf.models.blocks import Conv2D, Conv2DSame, Mixed, Residual, SqueezedConv2D, avg_pool, max_pool
from inception_tf.models.initialization import meta_init
from inception_tf.models.model import end_points
from inception_tf.models.registry import networks
from inception_tf.zoo import create_model

SLOW = pytest.mark.slow
# From RECEPTIVE_FIELD_TABLE.md of github.com/google-research/receptive_field, which computed them from TF-Slim's
# graphs: by network, size and end point the receptive field, the stride and the padding ahead of the image.
PUBLISHED = {
    ("alexnet_v2", 224): {"conv1": (11, 4, 0), "conv2": (51, 8, 16), "conv5": (163, 16, 64), "pool5": (195, 32, 64)},
    ("vgg_16", 321): {"pool1": (6, 2, 2), "conv4/conv4_2": (76, 8, 34), "pool5": (212, 32, 90)},
    ("inception_v2", 224): {"Mixed_3b": (59, 8, 22), "Mixed_4a": (123, 16, 46), "Mixed_5c": (699, 32, 318)},
    ("inception_v2", 321): {"Conv2d_1a_7x7": (7, 2, 3), "Mixed_4a": (123, 16, 61), "Mixed_5c": (699, 32, 349)},
    ("inception_v3", 224): {"Mixed_5b": (63, 8, 18), "Mixed_6e": (927, 16, 442), "Mixed_7c": (1311, 32, 618)},
    ("inception_v4", 321): {"Mixed_4a": (47, 4, 14), "Mixed_6h": (1559, 16, 758), "Mixed_7d": (2071, 32, 998)},
    ("inception_resnet_v2", 224): {"PreAuxLogits": (2335, 16, 1146), "Conv2d_7b_1x1": (3039, 32, 1482)},
    ("resnet_v1_50", 224): {"block1": (35, 8, 15), "block4": (483, 32, 239)},
    ("resnet_v1_101", 321): {"block4": (1027, 32, 513)},
    ("resnet_v1_152", 224): {"block2": (163, 16, 79), "block4": (1507, 32, 751)},
    ("resnet_v2_50", 321): {"block1": (35, 8, 17), "block4": (483, 32, 241)},
}


def built(network, **options):
    with meta_init():
        return create_model(network, **options)


@pytest.mark.parametrize("network, size", PUBLISHED)
def test_receptive_fields_as_published(network, size):
    found = profile(built(network, include_top=False), (size, size)).end_points
    for name, (field, stride, padding) in PUBLISHED[network, size].items():
        x = found[name]
        assert (x.receptive_field, x.stride, x.low) == ((field,) * 2, (stride,) * 2, (-padding,) * 2), name


@pytest.mark.slow
def test_receptive_fields_of_inception_resnet_v2_with_aligned_maps():
    model = built("inception_resnet_v2", include_top=False, align_feature_maps=True)
    x = profile(model, (321, 321)).end_points["Conv2d_7b_1x1"]
    assert (x.receptive_field, x.low) == ((3039, 3039), (-1519, -1519))


def positive(model):
    """The model with weights by which a bright pixel brightens all it is a part of, and a constant stays what it is."""
    for weight in model.weights:
        value = np.ones(weight.shape) / np.prod(weight.shape[:-1]) if weight.name.endswith("kernel") else 0
        weight.assign(np.broadcast_to(value, weight.shape))
    return model


def test_the_receptive_field_is_of_the_pixels_that_brighten_a_position():
    """Every pixel of an image bright once: what padding, strides, dilation, branches and shortcuts do."""
    for height, width in ((36, 41), (37, 38)):
        layers = [
            Conv2D(2, (3, 4), strides=2, padding="same"),
            max_pool("pool", 3, strides=2),
            Mixed(
                [
                    [Conv2D(1, 1), Conv2D(1, (1, 5), padding="same"), Conv2D(1, (3, 1), strides=2, padding="same")],
                    [avg_pool("AvgPool", 3, strides=2)],
                ],
                name="Mixed",
            ),
            Residual([Conv2D(3, 3, padding="same", dilation_rate=2)], shortcut=max_pool("shortcut", 1), name="unit"),
            Conv2DSame(2, 3, strides=2, padding="same"),
            Conv2D(1, 2, padding="valid"),
        ]
        model = positive(keras.Sequential([keras.Input((height, width, 1)), *layers]))
        pixels = np.eye(height * width, dtype="float32").reshape(-1, height, width, 1)
        bright = model.predict(pixels, batch_size=256, verbose=0)[..., 0] > 0
        *_, x = profile(model).end_points.values()
        assert bright.shape[1:] == x.shape[:2]
        for i, j in np.ndindex(*bright.shape[1:]):
            seen = bright[:, i, j].reshape(height, width)
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            for k, (position, side, found) in enumerate(((i, height, rows), (j, width, columns))):
                first, last = x.low[k] + position * x.stride[k], x.high[k] + position * x.stride[k]
                assert (found[0], found[-1]) == (max(first, 0), min(last, side - 1))


@pytest.mark.parametrize(
    "name, options",
    [
        *((name, {}) for name in networks()),
        ("inception_v2", {"use_separable_conv": False, "input_shape": (97, 130, 3)}),
        ("inception_v3", {"aux_logits": True, "depth_multiplier": 0.25, "input_shape": (107, 112, 3)}),
        ("inception_resnet_v2", {"aux_logits": True, "input_shape": (139, 151, 3)}),
        ("inception_resnet_v2", {"include_top": False, "output_stride": 8, "input_shape": (139, 151, 3)}),
        ("resnet_v2_50", {"spatial_squeeze": False, "output_stride": 8, "input_shape": (97, 130, 3)}),
        ("vgg_16", {"input_shape": (224, 260, 3)}),
        ("nin", {"layout": "cifar10", "fully_connected": True, "convolutions_1x1": 1, "input_shape": (32, 40, 1)}),
    ],
)
def test_parameters_and_shapes_are_those_of_keras(name, options):
    model, cost = built(name, **options), table()[name]
    found = profile(model)
    assert total(found.layers, "parameters") == model.count_params()
    assert {end_point: x.shape for end_point, x in found.end_points.items()} == {
        end_point: tensor.shape[1:] for end_point, tensor in end_points(model, inner=False).items()
    }
    if not options:
        counted = total(found.layers, "parameters"), total(found.layers, "multiply_adds")
        assert counted == (cost.parameters, cost.multiply_adds), (
            "python -m inception_tf.analysis.costs writes the table"
        )
        assert (found.input, model.output_shape) == ((*(cost.input_size,) * 2, cost.channels), (None, cost.classes))


def test_a_network_that_is_not_in_the_table_is_counted(monkeypatch):
    assert set(costs.table()) <= set(networks()), "python -m inception_tf.analysis.costs writes it"
    monkeypatch.setattr(costs, "table", dict)
    assert costs.cost_of("lenet") == costs.measure("lenet")


def multiply_adds(graph):
    """What TensorFlow's profiler counts in a graph."""
    import tensorflow.compat.v1 as tf

    builder = tf.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().with_accounted_types([".*"]).build()
    found, nodes = {}, [tf.profiler.profile(graph, cmd="op", options=options)]
    while nodes:
        node = nodes.pop()
        found[node.name] = node.float_ops
        nodes += node.children
    return sum(found.get(kind, 0) for kind in ("Conv2D", "MatMul", "DepthwiseConv2dNative")) / 2


@pytest.mark.parametrize(
    "name", ["inception_v2", *(pytest.param(n, marks=SLOW) for n in ("inception_v1", "resnet_v2_50", "vgg_16"))]
)
def test_multiply_adds_are_those_of_slims_graph(name):
    import tensorflow.compat.v1 as tf
    from slim_files import build_slim

    cost = table()[name]
    with tf.Graph().as_default() as graph:
        build_slim(name, classes=cost.classes)
        assert multiply_adds(graph) == cost.multiply_adds


@pytest.mark.parametrize(
    "name, options",
    [
        ("lenet", {}),
        ("nin", {"input_shape": (75, 64, 3)}),
        pytest.param("inception_v3", {"input_shape": (107, 112, 3)}, marks=SLOW),
        pytest.param("inception_v4", {}, marks=SLOW),
        pytest.param("resnet_v1_50", {"input_shape": (193, 224, 3)}, marks=SLOW),
    ],
)
def test_multiply_adds_are_those_of_our_graph(name, options):
    import tensorflow as tf

    model = create_model(name, **options)
    spec = tf.TensorSpec((1, *model.input_shape[1:]))
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec).graph
    assert multiply_adds(graph) == total(profile(model).layers, "multiply_adds")


def test_a_model_of_keras_itself():
    """keras.applications has the network made of other layers, under other names."""
    with meta_init():
        theirs = keras.applications.InceptionV3(weights=None)
    found, ours = profile(theirs), profile(built("inception_v3", classes=1000))
    assert found.end_points["mixed10"] == ours.end_points["Mixed_7c"]
    assert total(found.layers, "multiply_adds") == total(ours.layers, "multiply_adds")
    assert total(found.layers, "parameters") == theirs.count_params() == total(ours.layers, "parameters")
    assert not found.blocks


def test_memory_is_that_of_the_outputs():
    found = profile(built("inception_v3"))
    mixed = [layer for layer in found.layers if layer.path.startswith("Mixed_5b/")]
    outputs = [64, 48, 64, 64, 96, 96, 192, 32]  # channels, as the network's file lists them
    assert [layer.activation_bytes for layer in mixed] == [4 * 35 * 35 * channels for channels in outputs]
    assert found.end_points["PreLogits"].receptive_field == (1311 + 7 * 32,) * 2


def test_counts_each_kind_of_layer():
    layers = [
        keras.Input((9, 9, 3)),
        Conv2DSame(4, 3, strides=2, padding="same"),  # 5×5
        keras.layers.SeparableConv2D(6, 3, padding="valid", depth_multiplier=2),  # 3×3
        SqueezedConv2D(7, 2, padding="valid"),  # 2×2 before the squeeze
        keras.layers.Dense(11),
    ]
    found = profile(keras.Sequential(layers)).layers
    assert [layer.kind for layer in found] == ["3×3", "3×3 separable", "2×2", "fully connected"]
    parts = [25 * 27 * 4, 9 * (9 * 4 * 2 + 8 * 6), 4 * 4 * 6 * 7, 7 * 11]
    assert [layer.multiply_adds for layer in found] == parts


def test_zero_padding_and_groups():
    """A convolution in two groups, and padding as a layer of its own."""
    model = keras.Sequential(
        [
            keras.Input((10, 12, 4)),
            keras.layers.ZeroPadding2D(((1, 2), (3, 0))),
            keras.layers.Conv2D(6, 3, groups=2),
            keras.layers.DepthwiseConv2D((1, 3), depth_multiplier=2),
        ]
    )
    found = profile(model)
    assert [layer.kind for layer in found.layers] == ["other", "3×3", "1×3 depthwise"]
    assert [layer.multiply_adds for layer in found.layers] == [0, 11 * 13 * 9 * 2 * 6, 11 * 11 * 3 * 12]
    x = list(found.end_points.values())[-1]
    assert (x.low, x.high, x.receptive_field) == ((-1, -3), (1, 1), (3, 5))


def shared_layer():
    inputs = keras.Input((8, 8, 3))
    conv = keras.layers.Conv2D(3, 1)
    return keras.Model(inputs, conv(conv(inputs)))


@pytest.mark.parametrize(
    "model, size, said",
    [
        (lambda: keras.Sequential([keras.Input((9, 3)), keras.layers.Conv1D(2, 3)]), None, "a model of images"),
        (lambda: keras.Sequential([keras.Input((9, 9, 3)), keras.layers.UpSampling2D()]), None, "UpSampling2D are not"),
        (lambda: keras.Sequential([keras.Input((9, 9, 3)), keras.layers.Dense(4)]), None, "a Dense on a feature map"),
        (shared_layer, None, "chain of layers"),
        (lambda: built("lenet", include_top=False), None, "of any size: say of which"),
        (lambda: built("inception_v3", include_top=False), (60, 60), "cannot take images of 60×60"),
        (lambda: built("lenet"), (32, 32), "takes images of 28×28. Received: 32×32"),
    ],
)
def test_refuses_what_it_cannot_count(model, size, said):
    with pytest.raises(UsageError, match=said):
        profile(model(), size)
