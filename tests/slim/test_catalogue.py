import csv
import subprocess
import sys
from pathlib import Path

import pytest

from inception_tf.errors import UsageError
from inception_tf.slim.catalogue import catalogue, find

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared/reference/published_checkpoints.tsv"


def test_equals_the_reference():
    if not REFERENCE.exists():
        pytest.skip("no ../shared/reference/published_checkpoints.tsv")
    lines = [line for line in REFERENCE.read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines, delimiter="\t"))
    ours = [
        {
            "name": entry.name,
            "network": entry.network,
            "archive": entry.archive,
            "member": entry.member,
            "classes": str(entry.classes),
            "top1": "" if entry.top1 is None else str(entry.top1),
            "top5": "" if entry.top5 is None else str(entry.top5),
            "format": entry.format or "",
        }
        for entry in catalogue()
    ]
    # The reference marks a format that it is not sure of: we do not state that one.
    assert ours == [row | {"format": "" if "?" in row["format"] else row["format"]} for row in rows]


def test_finds_by_network_and_weights():
    imagenet, adv = find("inception_v3", "imagenet"), find("inception_v3", "adv")
    assert imagenet.url == "http://download.tensorflow.org/models/inception_v3_2016_08_28.tar.gz"
    assert (imagenet.classes, imagenet.top1, imagenet.format) == (1001, 78.0, "V1")
    assert (adv.name, adv.archive, adv.top1) == ("adv_inception_v3", "adv_inception_v3_2017_08_18.tar.gz", None)
    assert find("inception_resnet_v2", "imagenet").md5 == "9e0f18e1259acf943e30690460d96123"


def test_names_and_provenance():
    entries = catalogue()
    assert len({entry.name for entry in entries}) == len({entry.archive for entry in entries}) == len(entries)
    assert all(entry.provenance.startswith("arXiv:") for entry in entries)


def test_unknown_weights_list_those_there_are():
    with pytest.raises(UsageError, match="imagenet, adv, ens3_adv, ens4_adv.*path.*Received: weights='notop'"):
        find("inception_v3", "notop")
    with pytest.raises(UsageError, match="nin has no published weights"):
        find("nin", "imagenet")


def test_needs_no_tensorflow():
    code = "import sys, inception_tf.slim.catalogue, inception_tf.slim.download; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
