import dataclasses
from pathlib import Path

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


def test_recipes_with_a_name():
    assert Recipe.from_yaml("slim") == Recipe() and Recipe.from_yaml(Path("modern")).phases[0].ridge
    with pytest.raises(UsageError, match="Cannot read the recipe moderne"):
        Recipe.from_yaml("moderne")


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
    ("values", "fact"),
    [
        ({"batch_size": 0}, "batch_size .* above 0.*batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"optimizer": "adagrad"}, "optimizer .* rmsprop, sgd, adam, adamw, lion"),
        ({"schedule": "linear"}, "schedule .* constant, exponential, polynomial, cosine"),
        ({"label_smoothing": 1}, "label_smoothing .* below 1"),
        ({"ema": 1.0}, "ema .* None, .* below 1"),
        ({"l2": float("nan")}, "l2=nan"),
        ({"class_weights": "equal"}, 'class_weights .* None, .* "balanced"'),
        ({"size": 0}, "size=0"),
        ({"train_scale": 1.5}, "train_scale .* at most 1"),
        ({"crop_area": 0}, "crop_area .* above 0.*crop_area=0"),
        ({"augment": "slim"}, "augment .* fast, full, none"),
        ({"precision": "int8"}, "precision .* float32, mixed_bfloat16, mixed_float16"),
        ({"batch_norm": "off"}, "batch_norm .* None, .* frozen, train, recalibrate"),
        ({"seed": -1}, "seed=-1"),
        ({"phases": []}, r"phases=\(\)"),
        ({"phases": "heads"}, "phases='heads'"),
        ({"phases": [{"name": "a", "epochs": 1}] * 2}, "name of its own"),
        ({"phases": [{"name": "a"}]}, "needs epochs"),
        ({"phases": [{"name": "a", "epochs": 0}]}, "epochs=0"),
        ({"phases": [{"name": "a", "epochs": 1, "learning_rate": 0}]}, "learning_rate=0"),
        ({"phases": [{"name": "a", "epochs": 1, "augment": "slim"}]}, "augment .* fast, full, none"),
        ({"phases": [{"name": "a", "epochs": 1, "rate": 0}]}, "no rate. It has: name, epochs, train"),
        ({"freeze": [1]}, r"freeze=\(1,\)"),
        ({"batch": 8}, "no batch. It has: phases, batch_size"),
    ],
)
def test_values_out_of_range(values, fact):
    with pytest.raises(UsageError, match=fact):
        Recipe.from_dict(values)


def test_the_options_are_in_the_docstrings():
    for cls in (Phase, Recipe):
        for field in dataclasses.fields(cls):
            assert f"    {field.name}: " in cls.__doc__
    assert "    batch_size: images per step, over all devices and workers (32)\n" in Recipe.__doc__


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "just: words: twice", Path("absent.yaml")])
def test_what_is_no_recipe(text):
    with pytest.raises(UsageError, match="YAML|A recipe has no|Cannot read the recipe"):
        Recipe.from_yaml(text)
