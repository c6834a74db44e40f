import csv
import subprocess
import sys

import pytest

from inception_tf.errors import UsageError
from inception_tf.slim.catalogue import catalogue, find


def test_equals_the_reference(shared):
    lines = (shared / "reference/published_checkpoints.tsv").read_text().splitlines()
    rows = list(csv.DictReader((line for line in lines if not line.startswith("#")), delimiter="\t"))
    columns = ("name", "network", "archive", "member", "classes", "top1", "top5", "format")
    ours = [
        [getattr(entry, column) for column in columns] for entry in catalogue() if entry.network != "inception_2015"
    ]
    # The reference marks a format that it is not sure of: we do not state that one.
    expected = [row | {"format": "" if "?" in row["format"] else row["format"]} for row in rows]
    assert [["" if value is None else str(value) for value in row] for row in ours] == [
        [row[column] for column in columns] for row in expected
    ]


def test_finds_by_network_and_weights():
    imagenet, adv = find("inception_v3", "imagenet"), find("inception_v3", "adv")
    assert (
        imagenet.url == "https://storage.googleapis.com/download.tensorflow.org/models/inception_v3_2016_08_28.tar.gz"
    )
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
