import json

import pytest

from inception_tf.cli.main import main
from inception_tf.models.registry import list_models
from inception_tf.slim.catalogue import catalogue


def rows(capsys, *arguments):
    assert main(["models", *arguments, "--json"]) == 0
    return {
        (e["network"], w["weights"])
        for e in json.loads(capsys.readouterr().out)
        for w in e["weights"] or [{"weights": None}]
    }


def test_all_networks_and_all_published_checkpoints(capsys):
    found = rows(capsys)
    assert {network for network, _ in found} == set(list_models())
    assert {pair for pair in found if pair[1]} == {(entry.network, entry.weights) for entry in catalogue()}
    assert len(catalogue()) == 19


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["resnet_v1_*"], {("resnet_v1_50", "imagenet"), ("resnet_v1_101", "imagenet"), ("resnet_v1_152", "imagenet")}),
        (["adv"], {("inception_v3", "adv"), ("inception_resnet_v2", "adv")}),
        (["ens_adv_inception_resnet_v2"], {("inception_resnet_v2", "ens_adv")}),
        (["inception_v3", "--weights", "ens*"], {("inception_v3", "ens3_adv"), ("inception_v3", "ens4_adv")}),
        (["*v3", "--weights", "imagenet"], {("inception_v3", "imagenet")}),
        (["[ln]*n*"], {("lenet", None), ("nin", None)}),
    ],
)
def test_filters(capsys, arguments, expected):
    assert rows(capsys, *arguments) == expected


def test_the_table_says_all(capsys):
    assert main(["models", "inception_v3"]) == 0
    first = capsys.readouterr().out.splitlines()[2].split()
    assert first[:10] == ["inception_v3", "imagenet", "1001", "299×299×3", "23.9", "M", "5.71", "G", "78.0", "93.9"]
    assert first[10] == "arXiv:1512.00567;"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["nothing*"], "'nothing*'"),
        (["lenet", "--weights", "adv"], "with weights 'adv'"),
    ],
)
def test_nothing_matches(capsys, arguments, said):
    assert main(["models", *arguments]) == 2
    assert said in capsys.readouterr().err
