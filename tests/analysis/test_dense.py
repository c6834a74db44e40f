"""Dense evaluation, against the network at its own size, and against separate crops where padding has no part."""

import keras
import numpy as np
import pytest
from random_weights import randomized

import inception_tf as itf
from inception_tf.analysis.dense import compare_with_crops, dense_model, resized, score_map, score_positions
from inception_tf.analysis.profile import profile
from inception_tf.errors import UsageError
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.models.initialization import meta_init
from inception_tf.slim.golden import deterministic_images


def answer(model, images):
    return np.asarray(model(images, training=False))


def logits(model, images):
    return np.asarray(keras.Model(model.inputs[0], model.logits)(images, training=False))


def narrow(network):
    """The network with a sixteenth of its channels and 10 classes, its positions as they are, for any image."""

    def fewer(layer):
        config = layer.get_config()
        return type(layer).from_config(config | {key: config[key] // 16 for key in ("filters",) if key in config})

    wide = itf.create_model(network, input_shape=(None, None, 3), spatial_squeeze=False, classes=160)
    model = keras.models.clone_model(wide, clone_function=fewer)
    model.card = wide.card
    return randomized(model)


@pytest.fixture(scope="module")
def alexnet():
    """AlexNet, and an image of 384×384."""
    return narrow("alexnet_v2"), deterministic_images(1, 384, 384)


@pytest.mark.parametrize(
    "network, options",
    [
        pytest.param("inception_v1", {"classes": 5}, marks=pytest.mark.slow),
        ("inception_v3", {"classes": 5, "depth_multiplier": 0.1, "aux_logits": True, "classifier_activation": None}),
        ("nin", {"layout": "cifar10", "input_shape": (32, 32, 1)}),
        pytest.param("resnet_v1_50", {"classes": 5, "input_shape": (97, 97, 3)}, marks=pytest.mark.slow),
        pytest.param("inception_v2", {"use_separable_conv": False}, marks=pytest.mark.slow),
        pytest.param("inception_v4", {"input_shape": (107, 107, 3)}, marks=pytest.mark.slow),
        pytest.param("inception_resnet_v2", {"input_shape": (107, 107, 3), "aux_logits": True}, marks=pytest.mark.slow),
        pytest.param("alexnet_v2", {}, marks=pytest.mark.slow),
    ],
)
def test_at_the_networks_own_size_it_says_the_same(network, options):
    """One position says what the model says; of several, as where nothing pools, the mean of the logits does."""
    model = randomized(itf.create_model(network, **options))
    images = deterministic_images(2, *model.input_shape[1:])
    dense = dense_model(model)
    scores = answer(dense, images)
    assert dense.input_shape == (None, None, None, model.input_shape[3]) and scores.ndim == 4
    wanted, found = logits(model, images), logits(dense, images)
    np.testing.assert_allclose(found.mean((1, 2)), wanted, rtol=0, atol=1e-5 * np.abs(found).max())
    if scores.shape[1:3] == (1, 1):
        np.testing.assert_allclose(scores[:, 0, 0], answer(model, images), rtol=1e-4, atol=1e-6)
    if options.get("classifier_activation", 1):
        np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    assert dense.card.labels is None and dense.card.preprocessing == model.card.preprocessing


@pytest.mark.slow
def test_a_window_of_inception_v3_is_that_of_its_pooling():
    """The scores are what the classifier says of the 8×8 means of Mixed_7c, every second position."""
    model = randomized(itf.InceptionV3(classes=3, depth_multiplier=0.1, classifier_activation=None))
    dense, images = dense_model(model), deterministic_images(1, 299 + 64, 299 + 128)
    last = answer(itf.feature_extractor(dense, "Mixed_7c"), images)
    layer = model.get_layer("Logits").layers[0]
    scores = answer(dense, images)
    assert scores.shape == (1, 2, 3, 3)
    for i, j in np.ndindex(2, 3):
        mean = last[:, 2 * i : 2 * i + 8, 2 * j : 2 * j + 8].mean((1, 2))
        wanted = mean @ layer.kernel.numpy()[0, 0] + layer.bias.numpy()
        np.testing.assert_allclose(scores[:, i, j], wanted, rtol=1e-4, atol=1e-5)


def test_crops_agree_where_padding_has_no_part(alexnet):
    """384×384 pixels, 36 crops of 224×224: the feature maps agree in the part of a crop that no zero reached, down to
    one position of pool5; the 5×5 of fc6 reach beyond it, so no score of a crop is free of padding."""
    model, image = alexnet
    free = {"conv1": 54, "pool1": 26, "conv2": 22, "pool2": 10, "conv3": 8, "conv4": 6, "conv5": 4, "pool5": 1}
    agree_on_crops(model, image, free, padded=("conv2", "pool5"))
    assert profile(model, (224, 224)).end_points["fc8"].without_padding((224, 224))[0] == range(0)
    found = compare_with_crops(model, image, 224, rounds=1)
    assert (found["crops"], found["side"], found["stride"]) == (36, 224, 32)
    assert found["free"] == 4 and 0 <= found["same_class"] <= 36
    assert found["score_difference"] > 0 and found["ratio"] == found["crops_seconds"] / found["pass_seconds"]
    # The pixels, less the fully connected layers, run 36 times in both.
    assert 8 < found["work"] < 36 * 224**2 / 384**2


def agree_on_crops(model, image, free, padded):
    """Compares feature maps of the whole image with those of its crops of 224×224.

    Args:
        free: a dict from end points to the sides of the square in the middle of a crop's map where they agree.
        padded: end points that differ outside it.
    """
    positions, features = profile(model, (224, 224)).end_points, itf.feature_extractor(model, list(free))
    whole = keras.tree.map_structure(np.asarray, features(image))
    for y, x in np.ndindex((image.shape[1] - 224) // 32 + 1, (image.shape[2] - 224) // 32 + 1):
        crop = features(image[:, 32 * y : 32 * y + 224, 32 * x : 32 * x + 224])
        for name, side in free.items():
            found, rows_columns = np.asarray(crop[name])[0], positions[name].without_padding((224, 224))
            assert [len(axis) for axis in rows_columns] == [side, side]
            i, j = (32 * corner // step for corner, step in zip((y, x), positions[name].stride))
            apart = np.abs(found - whole[name][0, i : i + found.shape[0], j : j + found.shape[1]])
            inside = np.zeros(found.shape[:2], bool)
            inside[np.ix_(*rows_columns)] = True
            assert apart[inside].max() < 1e-5 * np.abs(whole[name]).max()
            if name in padded:
                assert apart[~inside].max() > 1e-2 * np.abs(whole[name]).max()


def test_scores_agree_where_padding_has_no_part(alexnet):
    """The receptive field of fc8 is 323×323. Of the 6×6 scores of a 384×384 image the middle four have no padding in
    it: they are those of any other image that goes on differently beyond their pixels."""
    model, image = alexnet
    field = score_positions(model, (384, 384))
    assert field.receptive_field == (323, 323) and field.without_padding((384, 384)) == (range(2, 4),) * 2
    other = -image
    first, last = field.low[0] + 2 * 32, field.high[0] + 3 * 32
    other[:, first : last + 1, first : last + 1] = image[:, first : last + 1, first : last + 1]
    scores, others = logits(model, image)[0], logits(model, other)[0]
    assert scores.shape == (6, 6, 10)
    assert np.abs(scores - others)[2:4, 2:4].max() < 1e-5 * np.abs(scores).max()
    assert np.abs(scores - others)[0].max() > 1e-2 * np.abs(scores).max()


def test_without_padding_every_crop_agrees(alexnet):
    """AlexNet with VALID convolutions throughout: 323 pixels give one score, 387 nine, and all are those of crops."""
    model, _ = alexnet
    valid = keras.models.clone_model(model)
    valid.set_weights(model.get_weights())
    for name in ("conv2", "conv3", "conv4", "conv5"):
        valid.get_layer(name).padding = "valid"
    image = deterministic_images(1, 323 + 64, 323 + 64)
    scores = np.asarray(valid(image))[0]
    assert scores.shape[:2] == (3, 3) and np.ptp(scores[..., 0]) > 0
    for i, j in np.ndindex(3, 3):
        crop = np.asarray(valid(image[:, 32 * i : 32 * i + 323, 32 * j : 32 * j + 323]))[0, 0, 0]
        np.testing.assert_allclose(scores[i, j], crop, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_vgg_16():
    """The receptive field of its fc8 is 404×404: up to 384×384 none of the one pass's scores is free of padding."""
    model = narrow("vgg_16")
    fields = [score_positions(model, (side, side)) for side in (384, 416)]
    assert fields[0].receptive_field == (404, 404)
    assert [len(x.without_padding(x_size)[0]) for x, x_size in zip(fields, ((384, 384), (416, 416)))] == [0, 1]
    free = {"conv1/conv1_1": 222, "pool1": 110, "pool2": 52, "pool3": 22, "pool4": 8, "conv5/conv5_3": 2, "pool5": 1}
    agree_on_crops(model, deterministic_images(1, 256, 256), free, padded=free)
    assert compare_with_crops(model, deterministic_images(1, 256, 256), 224, rounds=1)["free"] == 0


def test_resized_images():
    """Not cropped: the rest is what the network's own preprocessing does."""
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    inception, vgg = Preprocessing("inception"), Preprocessing("vgg")
    assert np.array_equal(
        resized(inception, image, 120), Preprocessing("inception", (120, 180), central_fraction=None)(image)
    )
    assert np.array_equal(resized(vgg, image, (60, 90)), image[None] - np.float32([123.68, 116.78, 103.94]))
    cropped = Preprocessing("vgg", 120, resize_side=120)(image)
    np.testing.assert_allclose(resized(vgg, image, 120)[:, :, 30:150], cropped, atol=1e-4)


def test_a_score_map_of_a_photograph(tmp_path):
    model = randomized(itf.NetworkInNetwork(layout="cifar10", input_shape=(32, 32, 3), classes=4))
    dense = dense_model(model)
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    result = score_map(dense, image, ["a", "b", "c", "d"], side=64)
    assert result.scores.shape == (16, 23, 4) and result.inputs.shape == (1, 64, 90, 3)
    np.testing.assert_allclose(result.scores, answer(dense, result.inputs)[0], rtol=1e-5, atol=1e-7)
    best = result.best(2)
    assert best[0][2] >= best[1][2] and best[0][2] == pytest.approx(result.scores[..., best[0][0]].mean())
    result.save(tmp_path / "map.npz")
    data = np.load(tmp_path / "map.npz")
    assert np.array_equal(data["scores"], result.scores) and list(data["class_names"]) == ["a", "b", "c", "d"]
    assert data["stride"].tolist() == [4, 4] and data["photograph"].tolist() == [50, 70]


@pytest.mark.parametrize(
    "model, said",
    [
        (lambda: itf.LeNet(), "layers for images of one size"),
        (lambda: itf.NetworkInNetwork(input_shape=(32, 32, 3), fully_connected=True), "layers for images of one size"),
        (lambda: itf.InceptionV1(include_top=False), "include_top=False"),
    ],
)
def test_networks_that_cannot(model, said):
    with pytest.raises(UsageError, match=said):
        dense_model(model())


def test_sizes_that_do_not_fit(alexnet):
    model, _ = alexnet
    with pytest.raises(UsageError, match="at least 195×195 for a score. Received: 194×300"):
        score_positions(model, (194, 300))
    with pytest.raises(UsageError, match="smaller than a crop of 224×224"):
        compare_with_crops(model, deterministic_images(1, 200, 300), 224)
    with meta_init():
        resnet = itf.ResNetV1_50(spatial_squeeze=False, input_shape=(None, None, 3))
    with pytest.raises(UsageError, match="gives 3×3 scores for an image of 96×96"):
        compare_with_crops(resnet, deterministic_images(1, 128, 128), 96)
