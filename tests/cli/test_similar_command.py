"""`inception-tf embed` and `similar` on a folder with a copy in it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from inception_tf.errors import UsageError
from inception_tf.inference.embed import embed, load_vectors
from inception_tf.zoo import create_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """model.keras, a LeNet; photos of two classes, smooth ones and squares, with a copy of one."""
    folder, rng = tmp_path_factory.mktemp("similar"), np.random.default_rng(0)
    create_model("lenet", classes=2).save(folder / "model.keras")
    for i in range(8):
        for name, side in (("coarse", 2), ("fine", 14)):
            (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(noise).resize((56, 56)).save(folder / f"photos/{name}/{i}.png")
    shutil.copy(folder / "photos/fine/3.png", folder / "photos/fine/copy.png")
    return folder


def test_embed_names_what_it_cannot_read(folder, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    vectors, failures = embed(folder / "model.keras", [folder / "photos/fine", tmp_path / "bad.png"])
    assert vectors.values.shape == (9, 1024) and list(failures) == [str(tmp_path / "bad.png")]
    with pytest.raises(UsageError, match="Not one"):
        embed(folder / "model.keras", tmp_path)


def test_the_commands(folder, tmp_path, monkeypatch, command):
    monkeypatch.chdir(folder)
    file, sheet = tmp_path / "vectors.npz", tmp_path / "sheet.png"
    assert command("embed", "model.keras", "photos", "--out", file, "--quiet")[0] == 0
    assert len(load_vectors(file)) == 17
    code, out, _ = command("similar", file, "photos/fine/3.png", "--model", "model.keras", "--json", "--quiet")
    (found,) = json.loads(out)["images"]
    assert code == 0 and {one["image"].replace("\\", "/") for one in found["similar"][:2]} == {
        "photos/fine/3.png",
        "photos/fine/copy.png",
    }
    assert len(found["similar"]) == 5 and found["similar"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    pytest.importorskip("matplotlib")
    code, out, _ = command(
        "similar", file, "--duplicates", "--ratio", 0, "--threshold", 0.99999, "--out", sheet, "--json"
    )
    assert [sorted(pair["images"]) for pair in json.loads(out)["duplicates"]] == [
        [str(path) for path in map(load_vectors(file).paths.__getitem__, (11, 16))]
    ]
    assert Image.open(sheet).width > 900
    code, out, _ = command("similar", file, "--mislabeled")
    assert code == 0 and out.strip()
    for wrong in ([], ["--duplicates", "--mislabeled"], ["photos/fine/3.png"]):
        assert command("similar", file, *wrong)[0] == 2
