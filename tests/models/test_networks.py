"""What holds for every network of the registry: its variables, its parts, its files, how it trains and compiles.

A network of a file of its own is in these tests by that alone. The deep ones, whose weights take time, are slow tests.
"""

import itertools

import keras
import numpy as np
import pytest
from run_networks import relative, with_weights

import inception_tf as itf
from inception_tf.models.fused import fuse_for_inference
from inception_tf.models.model import end_points
from inception_tf.models.registry import find_network, networks
from inception_tf.slim.golden import deterministic_images
from inception_tf.slim.names import model_variables, scoped, specification

# What proves the variables of the networks that TF-Slim on PyPI does not build, or never had.
OTHER_PROOFS = {
    "inception_2015": "TensorFlow's own run of a graph of its names: slim/test_graph_2015.py",
    "lenet": "golden data of research/slim's graph: test_plain_networks.py",
    "nin": "the sizes of its authors' Caffe networks: test_end_points.py",
}
# Networks with other layers by an option; the options beside those of CASES.
VARIANTS = {
    "inception_v2_plain": ("inception_v2", {"use_separable_conv": False}),
    "inception_resnet_v2_relu6": (
        "inception_resnet_v2",
        {"activation": "relu6", "activation_scales": (0.2, 0.1, 0.3), "align_feature_maps": True},
    ),
    "nin_cifar10": ("nin", {"layout": "cifar10", "fully_connected": True, "input_shape": (16, 16, 3)}),
    "vgg_16_backbone": ("vgg_16", {"include_top": False, "input_shape": (32, 32, 3)}),
}
# They repeat the units of a shallower network: their values, fusing and checkpoints are tested, and no more.
DEEPER = [*(f"resnet_{version}_{depth}" for version in ("v1", "v2") for depth in (101, 152)), "vgg_19"]
FAST = {"inception_v3", "lenet", "nin", "nin_cifar10", "vgg_16_backbone"}
STANDING_ALONE = {50: 17, 101: 34, 152: 51}  # batch norms of ResNet v2 before convolutions: one a unit, and the last


def each(*but, fast=FAST):
    """Runs a test on every network and variant but some, on a model with golden weights that its tests share."""
    names = [name for name in (*networks(), *VARIANTS) if name not in but]
    params = [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]
    return pytest.mark.parametrize("model", params, indirect=True)


@pytest.fixture(scope="module")
def model(request):
    network, options = VARIANTS.get(request.param, (request.param, {}))
    yield with_weights(network, classes=7, **options)
    keras.backend.clear_session()


@pytest.fixture(scope="module")
def fused(model):
    return fuse_for_inference(model)


@pytest.fixture(scope="module")
def images(model):
    return deterministic_images(2, *model.input_shape[1:])


def again(model, **changes):
    """The network with the same weights and other options, those it has; they leave its variables or drop some."""
    options = {"input_shape": model.input_shape[1:], **model.card.options}
    options |= {name: value for name, value in changes.items() if name in options}
    other = itf.create_model(model.card.network, **options)
    own = model_variables(model)
    for name, variable in model_variables(other).items():
        variable.assign(own[name])
    return other


def answers(model, images, tensors=None):
    """The logits of a model, or its feature maps; or other Keras tensors of it, a dict."""
    if tensors is None:
        tensors = model.logits if model.has_top else model.outputs[0]
    found = keras.Model(model.inputs[0], tensors)(images, training=False)
    return keras.tree.map_structure(lambda value: np.asarray(keras.ops.cast(value, "float32")), found)


def test_networks_without_facts_have_other_proofs(request):
    files = {file.stem for file in (request.config.rootpath / "tests/models/slim_variables").glob("*.json")}
    assert set(networks()) - files == set(OTHER_PROOFS) and files < set(networks())


@pytest.mark.parametrize("network", networks())
def test_variables_are_slims(slim_variables, published, network):
    """Names and shapes as TF-Slim's graphs have them. Batch norm's averages do not train, all else does."""
    scope, model = find_network(network).scope, published(network)
    variables = {scoped(scope, name): variable for name, variable in model_variables(model).items()}
    assert len(variables) == len(model.weights)
    if network not in OTHER_PROOFS:
        assert {name: tuple(variable.shape) for name, variable in variables.items()} == slim_variables(network)
    moving = {name for name in variables if name.endswith(("/moving_mean", "/moving_variance"))}
    assert {name for name, variable in variables.items() if not variable.trainable} == moving


@pytest.mark.parametrize("network", networks())
def test_a_layer_is_an_end_point(published, network):
    """Layer names are Slim scopes: a variable's first scope is the layer it is found in."""
    model = published(network)
    for layer in model.layers:
        assert all(variable.path.split("/")[0] == layer.name for variable in layer.weights)
    names = [layer.name for layer in model.layers]
    assert names == list(dict.fromkeys(names)) and not any("_1_1" in a + b for a, b in itertools.pairwise(names))


@pytest.mark.parametrize("network", networks())
def test_shapes_of_the_parts(published, meta, network):
    model, info = published(network), find_network(network)
    feature_map = tuple(model.backbone_output.shape)
    same_size = meta(network, include_top=False, input_shape=model.input_shape[1:])
    assert same_size.output_shape == tuple(same_size.backbone_output.shape) == feature_map
    points = {name: tensor.shape for name, tensor in end_points(model).items()}
    assert points.items() >= {name: tensor.shape for name, tensor in end_points(same_size).items()}.items()
    any_size = meta(network, include_top=False, pooling="avg")
    assert any_size.output_shape == (None, feature_map[-1])
    assert any_size.input_shape == (None, None, None, info.channels)
    assert tuple(any_size.backbone_output.shape) == (None, None, None, feature_map[-1])
    for headless in (same_size, any_size):
        assert not headless.has_top and not {*info.heads, *info.top} & set(end_points(headless))
    assert model.classifier.name == info.heads[0] and model.logits.shape == (None, info.classes)
    assert model.features is model.classifier.input and model.features.shape[0] is None


@each("vgg_16_backbone")
def test_values_of_the_parts(model, fused, images):
    """They are what their names say, in a network, in one without its top, and in a fused one."""
    names = ("backbone_output", "features", "logits")
    found, of_fused = (
        answers(m, images, {"outputs": m.outputs[0], **{name: getattr(m, name) for name in names}})
        for m in (model, fused)
    )
    assert all(relative(of_fused[name], found[name]) < 1e-5 for name in names)
    assert fused.classifier.name == model.classifier.name and fused.classifier in fused.layers
    logits = np.asarray(model.classifier(found["features"])).reshape(found["logits"].shape)
    assert relative(logits, found["logits"]) < 1e-5
    np.testing.assert_allclose(model.activation(found["logits"]), found["outputs"], rtol=1e-5, atol=1e-7)
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        headless = again(model, include_top=False, pooling=pooling, aux_logits=False)
        assert relative(answers(headless, images), reduce(found["backbone_output"], axis=(1, 2))) < 1e-5
        assert relative(answers(headless, images, headless.backbone_output), found["backbone_output"]) < 1e-5


@each()
def test_fused(model, fused, images):
    assert relative(answers(fused, images), answers(model, images)) < 1e-5
    left = sum("moving_mean" in variable.path for variable in fused.weights)
    is_v2 = model.card.network.startswith("resnet_v2")
    assert left == (STANDING_ALONE[int(model.card.network.rpartition("_")[2])] if is_v2 else 0)


@each(*DEEPER)
def test_plain(model, fused, images):
    """Of Keras's own layers alone, with and without fusing before. The networks left out have more of the same."""
    for own in (model, fused):
        plain = itf.to_plain_keras(own)
        assert {type(layer).__module__.partition(".")[0] for layer in plain.layers} == {"keras"}
        assert relative(np.asarray(plain(images)), np.asarray(own(images))) <= 1e-6


@each("lenet", "nin_cifar10", "vgg_16_backbone", *DEEPER)
def test_any_size(model, images):
    """A model for images of any size answers as the one for a size, down to the smallest."""
    info = find_network(model.card.network)
    other = again(model, input_shape=(None, None, info.channels), aux_logits=False)
    assert relative(answers(other, images), answers(model, images)) < 1e-5
    scores = np.asarray(other(np.ones((3, info.min_size, info.min_size + 1, info.channels), "float32")))
    assert scores.shape == (3, 7) and np.allclose(scores.sum(-1), 1, atol=1e-5)


@each(*DEEPER, fast={*FAST, "inception_v2"})
def test_keras_file(model, images, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [variable.path for variable in loaded.weights] == [variable.path for variable in model.weights]
    assert loaded.card.to_dict() == model.card.to_dict() and type(loaded) is type(model) and loaded.name == model.name
    assert list(itf.end_points(loaded)) == list(itf.end_points(model))
    assert np.array_equal(answers(loaded, images), answers(model, images))


@each(fast={*FAST, "inception_v2"})
def test_slim_checkpoint(model, tmp_path):
    import tensorflow as tf

    network, given = model.card.network, model.card.options
    itf.save_slim(model, tmp_path / "model.ckpt")
    found = tf.train.load_checkpoint(str(tmp_path / "model.ckpt")).get_variable_to_shape_map()
    options = {"input_shape": model.input_shape[1:], **given}
    assert {name: tuple(shape) for name, shape in found.items()} == {
        scoped(model.card.scope, name): shape for name, shape in specification(network, **options).items()
    }
    not_read_off = ("include_top", "fully_connected", "activation", "activation_scales", "align_feature_maps")
    options = {name: given[name] for name in not_read_off if name in given}
    loaded = itf.create_model(network, tmp_path / "model.ckpt", input_shape=model.input_shape[1:], **options)
    assert loaded.card.options == given or not model.has_top
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True))


@each(*DEEPER)
def test_mixed_precision(model, images, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = again(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {variable.dtype for variable in mixed.weights} == {"float32"}
    *inner, last = [tensor for name, tensor in end_points(mixed).items() if "predictions" not in name.lower()]
    assert {tensor.dtype for tensor in (*inner, last)} == {"bfloat16"}
    assert mixed.outputs[0].dtype == ("float32" if model.has_top else "bfloat16")
    scores = answers(mixed, images)
    assert 0 < relative(scores, answers(model, images)) < 0.1
    mixed.save(tmp_path / "mixed.keras")
    assert np.array_equal(answers(keras.saving.load_model(tmp_path / "mixed.keras"), images), scores)


@each(*DEEPER)
def test_xla(model, images):
    import tensorflow as tf

    outputs = model.logits if model.has_top else model.outputs[0]
    compiled = tf.function(keras.Model(model.inputs[0], outputs), jit_compile=True)
    assert relative(np.asarray(compiled(images, training=False)), answers(model, images)) < 1e-5


@each("vgg_16_backbone", *DEEPER, fast={"inception_v3", "lenet", "nin"})
def test_trains(model, images):
    """A step moves every weight and average, the auxiliary head's too; dropout and batch norm act in training alone."""
    learner = again(model)
    before, scores = learner.get_weights(), answers(learner, images)
    assert np.array_equal(answers(learner, images), scores)
    assert not np.array_equal(learner(images, training=True), learner(images))
    heads = {"Logits": learner.logits, **{n: t for n, t in end_points(learner).items() if n == "AuxLogits"}}
    heads = keras.Model(learner.inputs[0], heads)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    heads.compile(keras.optimizers.SGD(0.1), dict.fromkeys(heads.output, loss), run_eagerly=True)
    heads.train_on_batch(images, dict.fromkeys(heads.output, np.array([0, 5])))
    moved = [not np.array_equal(a, b) for a, b in zip(before, learner.get_weights())]
    # Elsewhere a few weights may sit behind rectifiers that are all zero on these images.
    least = 1 if model.card.network == "inception_v3" else 0.9
    assert np.mean(moved) >= least, [v.path for v, m in zip(learner.weights, moved) if not m]
    assert not np.array_equal(answers(learner, images), scores)
