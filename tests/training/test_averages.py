"""Moving averages of the weights beside a training, which must not notice them."""

import dataclasses

import pytest

from inception_tf.training.finetune import finetune
from inception_tf.training.recipe import Phase, Recipe

RECIPE = Recipe(phases=[Phase("all", 2, ("*",), 1e-3)], optimizer="adam", batch_size=8, dropout=0.0)


def trained(data, out, recipe):
    return finetune(None, data, recipe=recipe, out=out, network="lenet", report=False, log=lambda line: None)


@pytest.mark.slow
def test_averages_leave_the_training_alone(pictures, tmp_path):
    plain = trained(pictures, tmp_path / "plain", RECIPE)
    averaged = trained(pictures, tmp_path / "averaged", dataclasses.replace(RECIPE, ema=0.5))
    for one, other in zip(plain.history, averaged.history, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["val_loss"] != pytest.approx(one["val_loss"], rel=1e-5)
