import dataclasses

import pytest

from inception_tf.errors import UsageError
from inception_tf.training.recipe import ONE_PHASE, TWO_PHASES, Phase, Recipe


def test_prints_as_yaml_and_loads_from_it(tmp_path):
    recipe = Recipe(
        phases=[Phase("head", 3, "Logits"), Phase("rest", 2, ("Mixed_7*", "heads"), 1e-3)],
        freeze="Conv2d_*",
        optimizer="adamw",
        optimizer_options={"weight_decay": 0.01},
        class_weights={"tulips": 2.0},
        size=(150, 200),
        ema=0.99,
    )
    text = str(recipe)
    assert "optimizer: adamw\n" in text and "- name: rest\n" in text
    # YAML has lists where we have tuples.
    assert str(Recipe.from_yaml(text)) == text
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    assert str(Recipe.from_yaml(file)) == text == str(Recipe.from_yaml(str(file)))
    assert Recipe.from_yaml("batch_size: 8\n") == Recipe(batch_size=8)
    assert Recipe.from_yaml("\n") == Recipe()


def test_slims_two_phases_are_the_default():
    heads, everything = Recipe().filled(images=800, pretrained=True).phases
    assert (heads.train, heads.learning_rate) == (("heads",), 0.01)
    assert (everything.train, everything.learning_rate) == (("*",), 0.0001)
    (only,) = Recipe(optimizer="adam").filled(images=800, pretrained=False).phases
    assert (only.train, only.learning_rate) == (("*",), 0.001)
    assert dataclasses.replace(heads, learning_rate=None, augment=None) == TWO_PHASES[0]
    assert dataclasses.replace(only, learning_rate=None, augment=None) == ONE_PHASE[0]


@pytest.mark.parametrize(
    ("images", "pretrained", "given", "mode"),
    [
        (4999, True, None, "frozen"),
        (5000, True, None, "train"),
        (10, False, None, "train"),
        (10, True, "recalibrate", "recalibrate"),
    ],
)
def test_batch_norm_by_the_size_of_the_data(images, pretrained, given, mode):
    assert Recipe(batch_norm=given).filled(images, pretrained).batch_norm == mode


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number above 0"),
        ({"batch_size": True}, "batch_size must be"),
        ({"optimizer": "adagrad"}, "optimizer must be one of rmsprop, sgd"),
        ({"schedule": "linear"}, "schedule must be one of constant"),
        ({"label_smoothing": 1}, "label_smoothing must be at least 0 and below 1"),
        ({"ema": 1.0}, "ema must be None, or a decay"),
        ({"l2": float("nan")}, "l2 must be a number of at least 0"),
        ({"class_weights": "equal"}, "class_weights must be None"),
        ({"size": 0}, "size must be None, a side above 0"),
        ({"augment": "slim"}, "augment must be one of fast, full, none"),
        ({"precision": "int8"}, "precision must be one of float32"),
        ({"batch_norm": "off"}, "batch_norm must be None, or one of frozen"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"phases": []}, "phases is a list that is not empty"),
        ({"phases": [{"name": "a"}]}, "A phase has name and epochs"),
        ({"phases": [{"name": "a", "epochs": 0}]}, "whole number of epochs above 0"),
        ({"phases": [{"name": "a", "epochs": 1, "learning_rate": 0}]}, "learning_rate must be a number above 0"),
        ({"phases": [{"name": "a", "epochs": 1, "augment": "slim"}]}, "augment must be one of fast, full, none"),
        ({"freeze": [1]}, "freeze is a list of scope globs"),
        ({"batch": 8}, "A recipe has no batch. It has: phases, batch_size"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(UsageError, match=message):
        Recipe.from_dict(values)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "just: words: twice"])
def test_no_yaml(text):
    with pytest.raises(UsageError, match="A recipe is YAML|A recipe has no"):
        Recipe.from_yaml(text)


def test_no_file(tmp_path):
    with pytest.raises(UsageError, match="Cannot read the recipe"):
        Recipe.from_yaml(tmp_path / "recipe.yaml")
