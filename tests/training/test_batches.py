import numpy as np
import pytest

from inception_tf.errors import ImageError
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.images.sources import open_examples
from inception_tf.training import batches
from inception_tf.training.batches import Decoded, Order
from inception_tf.training.recipe import Recipe

PREPROCESSING = Preprocessing("inception", 24)


def arrays(data):
    return list(data.as_numpy_iterator())


def numbers(order, step, steps):
    """The examples of some steps, a row a step."""
    places = order.positions(step).take(steps * order.local_batch).map(order.index)
    return np.array(list(places.as_numpy_iterator())).reshape(steps, -1)


def test_every_epoch_is_a_permutation_of_its_own():
    order = Order(examples=23, batch_size=5, seed=3)
    assert order.steps_per_epoch == 4
    rows = numbers(order, 0, 12)
    epochs = [rows[i : i + 4].ravel() for i in (0, 4, 8)]
    for epoch in epochs:
        assert len(set(epoch)) == 20 and epoch.min() >= 0 and epoch.max() < 23
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert set(np.concatenate(epochs)) == set(range(23))  # none is left out for ever
    np.testing.assert_array_equal(numbers(order, 5, 3), rows[5:8])
    assert (numbers(Order(23, 5, seed=4), 0, 4) != rows[:4]).any()


def test_workers_share_every_batch():
    whole = numbers(Order(30, 6, seed=1), 0, 7)
    parts = [numbers(Order(30, 6, 1, worker, 3), 0, 7) for worker in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.fixture(scope="module")
def decoded(pictures):
    return Decoded(open_examples(pictures))


def training(decoded, recipe=None, factors=None):
    """A function from a step and a number of steps to the batches."""
    recipe = recipe or Recipe()
    targets = batches.Targets(decoded._examples.labels, 3, ("logits",), factors)
    inputs = batches.images(decoded, PREPROCESSING, recipe)
    data = batches.training_batches(inputs, targets, Order(len(decoded), 8, recipe.seed), recipe)
    return lambda step, steps: arrays(data(step).take(steps))


def test_a_step_is_the_same_wherever_the_run_begins(decoded):
    batch = training(decoded)
    through, later = batch(0, 6), batch(4, 2)
    for (images, targets, _), (again, targets_again, _) in zip(through[4:], later, strict=True):
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(targets["logits"], targets_again["logits"])
    images, targets, weights = through[0]
    assert images.shape == (8, 24, 24, 3) and images.dtype == np.float32
    assert targets["logits"].shape == (8, 3) and (targets["logits"].sum(1) == 1).all()
    assert (weights["logits"] == 1).all()
    # Augmentation differs from step to step: the same picture is not the same twice.
    assert all((a[0] != b[0]).any() for a, b in zip(through[:4], through[1:]))


def test_without_augmentation_the_images_are_those_of_classify(decoded):
    order = Order(len(decoded), 8)
    (images, targets, _), *_ = training(decoded, Recipe(augment="none"))(0, 1)
    indices = numbers(order, 0, 1)[0]
    np.testing.assert_allclose(images, PREPROCESSING([decoded.image(i) for i in indices]), atol=1e-5)
    np.testing.assert_array_equal(targets["logits"].argmax(1), decoded._examples.labels[indices])


def test_class_weights_weigh_the_images(decoded):
    factors = np.array([1, 2, 5], np.float32)
    for _, targets, weights in training(decoded, factors=factors)(0, 3):
        np.testing.assert_array_equal(weights["logits"], factors[targets["logits"].argmax(1)])


def test_mixup_blends_images_and_labels_alike(decoded):
    plain = training(decoded, Recipe(augment="none"))(0, 3)
    mixed = training(decoded, Recipe(augment="none", mixup=0.4))(0, 3)
    fractions = []
    for (images, targets, _), (blend, soft, _) in zip(plain, mixed, strict=True):
        images, targets = np.asarray(images), targets["logits"]
        difference = images - images[::-1]
        fraction = float(((blend - images[::-1]) * difference).sum() / (difference**2).sum())
        fractions.append(fraction)
        np.testing.assert_allclose(blend, fraction * images + (1 - fraction) * images[::-1], atol=1e-4)
        np.testing.assert_allclose(soft["logits"], fraction * targets + (1 - fraction) * targets[::-1], atol=1e-4)
    assert len({round(fraction, 4) for fraction in fractions}) == 3 and all(
        0 <= fraction <= 1 for fraction in fractions
    )


def test_validation_counts_every_image_once(decoded):
    labels = decoded._examples.labels
    targets = batches.Targets(labels, 3, ("logits",))
    rows = arrays(batches.validation_batches(batches.images(decoded, PREPROCESSING), targets, Order(36, 8)))
    assert [len(images) for images, *_ in rows] == [8] * 5
    weights = np.concatenate([w["logits"] for *_, w in rows])
    targets = np.concatenate([t["logits"] for _, t, _ in rows])
    np.testing.assert_array_equal(weights, [1] * 36 + [0] * 4)
    np.testing.assert_array_equal(targets[:36].argmax(1), labels)


def test_features_come_in_the_order_of_the_images(decoded):
    order, labels = Order(36, 8, 5), decoded._examples.labels
    features = batches.features({"logits": np.arange(36, dtype=np.float32)[:, None]})
    data = batches.training_batches(features, batches.Targets(labels, 3, ("logits",)), order, Recipe(seed=5))
    for row, (inputs, targets, _) in zip(numbers(order, 2, 4), arrays(data(2).take(4)), strict=True):
        np.testing.assert_array_equal(inputs["logits"][:, 0], row)
        np.testing.assert_array_equal(targets["logits"].argmax(1), labels[row])


def test_decoded_images_stay_within_the_limit(pictures):
    decoded = Decoded(open_examples(pictures), limit=2 * 32 * 32 * 3)
    first = [decoded.image(i) for i in range(4)]
    assert [decoded.image(i) is image for i, image in enumerate(first)] == [True, True, False, False]


def test_a_file_that_vanishes_is_named(tmp_path, pictures):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(pictures, copy)
    decoded = Decoded(open_examples(copy))
    (copy / "checked" / "3.png").unlink()
    index = decoded._examples.names.index("checked/3.png")
    with pytest.raises(ImageError, match="checked/3.png"):
        decoded.image(index)
