"""`inception-tf finetune`: what its options say, and what it answers to bad data."""

import json
import re

import pytest
from PIL import Image

from inception_tf.cli import finetune
from inception_tf.cli.main import main, parser
from inception_tf.errors import UsageError
from inception_tf.training.recipe import Phase, Recipe


def recipe(*options):
    return finetune._recipe(parser().parse_args(["finetune", "--data", "d", "--out", "o", *options]))


def test_options_make_the_recipe(tmp_path):
    assert recipe() == {} and recipe("--recipe", "slim") == Recipe()
    assert recipe("--seed", "4", "--size", "96") == {"seed": 4, "size": 96}  # these go with any recipe
    given = recipe("--epochs", "3,2", "--learning-rate", "0.1,0.01", "--bn", "train", "--freeze", "Conv2d_*,Mixed_5b")
    assert given.phases == (Phase("heads", 3, ("heads",), 0.1), Phase("all", 2, ("*",), 0.01))
    assert (given.batch_norm, given.freeze) == ("train", ("Conv2d_*", "Mixed_5b"))
    assert recipe("--epochs", "4").phases == (Phase("all", 4),)
    assert recipe("--epochs", "4,0", "--learning-rate", "0.1,1").phases == (Phase("heads", 4, ("heads",), 0.1),)
    assert recipe("--train", "Mixed_7*,heads").phases[1].train == ("Mixed_7*", "heads")
    assert [phase.augment for phase in recipe("--augment", "none,fast").phases] == ["none", "fast"]
    assert recipe("--augment", "full").augment == "full"
    assert recipe("--batch-norm-momentum", "0.5") == recipe("--bn-momentum", "0.5") == Recipe(batch_norm_momentum=0.5)
    assert recipe("--xla", "--decay-rate", "0.5", "--class-weights", "balanced").class_weights == "balanced"
    assert recipe("--epochs", "4", "--weights", "none").phases == (Phase("all", 4),)
    file = tmp_path / "recipe.yaml"
    file.write_text("batch_size: 8\nxla: true\nseed: 3\nphases: [{name: all, epochs: 2, augment: none}]\n")
    mixed = recipe("--recipe", str(file), "--seed", "4")
    assert (mixed.batch_size, mixed.xla, mixed.seed, mixed.phases[0].augment) == (8, True, 4, "none")
    mixed = recipe("--recipe", str(file), "--augment", "full")
    assert (mixed.augment, mixed.phases[0].augment) == ("full", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "1,2,3"), "--epochs has a value for each of the 2 phases"),
        (("--epochs", "few"), "--epochs is a number"),
        (("--learning-rate", "0.1"), "--learning-rate has a value for each of the 2 phases"),
        (("--epochs", "0,0"), "phases must be .* not empty"),
        (("--optimizer", "lbfgs"), "optimizer must be one of"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(UsageError, match=message):
        recipe(*options)


def folder(root, **classes):
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (32, 32), (20 * i, 100, 50)).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"a": 3}, "two or more|fewer than two|one class"),
        ({"a": 3, "b": 0}, "b"),
        ({"a/deep": 3, "b/deep": 3}, "deep"),
        ({"a": 3, "b": 3}, "A batch of 32 is more than the 4 training images"),
    ],
)
def test_bad_data_is_an_error_of_a_line_or_two(tmp_path, command, classes, message):
    data, out = folder(tmp_path / "data", **classes), tmp_path / "run"
    code, _, err = command("finetune", "--data", data, "--out", out, "--weights", "none", "--network", "lenet")
    assert code == 2 and re.search(message, err)
    assert not (out / "state.npz").exists()


def test_a_run_from_the_command_line(tmp_path, capsys):
    data, out = folder(tmp_path / "data", a=6, b=6), tmp_path / "run"
    arguments = ["finetune", "--data", str(data), "--out", str(out), "--weights", "none", "--network", "lenet"]
    assert main([*arguments, "--epochs", "1", "--batch-size", "4", "--optimizer", "adam", "--json"]) == 0
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["best"]["step"] == 2 and data["history"] == [data["best"]]
    assert "all 1/1: loss" in captured.err
    assert (out / "best.keras").is_file() and (out / "report" / "curves.png").is_file()
