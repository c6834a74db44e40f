"""Published checkpoints from a mirror: downloaded, converted and cached; the archives are made of TF-Slim's graph."""

import tarfile

import numpy as np
import pytest
from slim_files import write_frozen

import inception_tf as itf
from inception_tf.errors import DownloadError, MismatchError, UsageError
from inception_tf.slim import archives, download
from inception_tf.slim.catalogue import find
from inception_tf.slim.checkpoint import open_checkpoint
from inception_tf.slim.names import model_variables

FORMATS = {"imagenet": "v1", "adv": "v2"}


@pytest.fixture
def mirror(slim_checkpoint, tmp_path, monkeypatch):
    """A directory with the archives of two published checkpoints, narrow ones, and an empty home beside it."""
    (tmp_path / "mirror").mkdir()
    for weights, format in FORMATS.items():
        published = find("inception_v3", weights)
        source = slim_checkpoint(format=format, classes=1001, aux_logits=True)
        with tarfile.open(tmp_path / "mirror" / published.archive, "w:gz") as tar:
            for file in source.parent.glob(source.name + "*"):
                tar.add(file, published.member.rstrip("*") + file.name.removeprefix(source.name))
    monkeypatch.setenv("INCEPTION_TF_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("INCEPTION_TF_HOME", str(tmp_path / "home"))
    return tmp_path / "mirror"


@pytest.mark.slow
@pytest.mark.parametrize("weights", FORMATS)
def test_downloaded_converted_once_and_cached(mirror, tmp_path, monkeypatch, weights):
    published = find("inception_v3", weights)
    model = itf.create_model("inception_v3", weights=weights)
    home = tmp_path / "home" / published.name
    names = {path.name for path in home.iterdir() if path.name[0] != "."}
    assert names == {published.archive, f"{published.archive}.sha256", f"{published.name}-1.keras"}
    checkpoint = open_checkpoint(mirror / published.archive)
    assert checkpoint.container == f"{published.format} in a tar archive"
    for name, variable in model_variables(model).items():
        np.testing.assert_array_equal(variable, checkpoint[f"InceptionV3/{name}"])
    assert model.output_shape == (None, 1001)

    # From here on the archive may be gone, and with it the mirror.
    monkeypatch.setattr(archives, "_unpack", None)
    (mirror / published.archive).unlink()
    again = itf.create_model("inception_v3", weights=weights)
    images = np.random.default_rng(0).uniform(-1, 1, (1, 299, 299, 3)).astype("float32")
    np.testing.assert_array_equal(again.predict(images, verbose=0), model.predict(images, verbose=0))

    flowers = itf.create_model("inception_v3", weights=weights, classes=5)
    assert flowers.output_shape == (None, 5)
    ours, theirs = model_variables(flowers), model_variables(model)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours if "Logits" not in name)
    assert ours["Logits/Conv2d_1c_1x1/weights"].shape[-1] == 5

    (home / published.archive).unlink()
    headless = itf.create_model("inception_v3", weights=weights, include_top=False, pooling="avg")
    assert headless.output_shape == (None, model.get_layer("Mixed_7c").output.shape[-1])


def test_background_dropped(mirror):
    model = itf.create_model("inception_v3", weights="imagenet", classes=1000, background="drop")
    assert model.output_shape == (None, 1000)
    with pytest.raises(UsageError, match="1001 classes, background first"):
        itf.create_model("inception_v3", weights="imagenet", classes=1000)


def test_what_the_mirror_lacks(mirror, tmp_path):
    with pytest.raises(DownloadError, match="mirror/ens3_adv_inception_v3_2017_08_18.tar.gz: No such file"):
        itf.create_model("inception_v3", weights="ens3_adv")
    with pytest.raises(UsageError, match="has published weights imagenet, adv, ens3_adv, ens4_adv"):
        itf.create_model("inception_v3", weights="imagenet21k")
    assert not list((tmp_path / "home").rglob("*.keras"))


def test_another_networks_checkpoint_leaves_nothing_in_the_cache(mirror, tmp_path):
    other = find("inception_v4", "imagenet")
    (mirror / find("inception_v3", "adv").archive).rename(mirror / other.archive)
    with pytest.raises(MismatchError, match="does not hold inception_v4"):
        itf.create_model("inception_v4", weights="imagenet")
    assert not list((tmp_path / "home").rglob("*.keras*"))


def test_a_frozen_graph_put_there_by_hand(mirror, tmp_path, monkeypatch):
    """The publisher has frozen graphs too: one in the home directory does as well as the checkpoint."""
    checkpoint = open_checkpoint(mirror / find("inception_v3", "adv").archive)
    home = tmp_path / "home/ens4_adv_inception_v3"
    home.mkdir(parents=True)
    write_frozen(home / "frozen.pb", checkpoint)
    monkeypatch.delenv("INCEPTION_TF_MIRROR")
    model = itf.create_model("inception_v3", weights="ens4_adv")
    name = "Mixed_7c/Branch_0/Conv2d_0a_1x1/weights"
    np.testing.assert_array_equal(model_variables(model)[name], checkpoint[f"InceptionV3/{name}"])
    assert download.locate(find("inception_v3", "ens4_adv")).name == "frozen.pb"
