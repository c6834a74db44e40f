"""Jobs over any number of images: Arrow tables in, part files out, killed and resumed."""

import dataclasses
import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pngs import png

from inception_tf.cli.main import main
from inception_tf.errors import CheckpointError, ImageError, InceptionTFError, UsageError
from inception_tf.images.decoding import decode_image
from inception_tf.images.preprocessing import Preprocessing
from inception_tf.images.sources import open_examples
from inception_tf.images.streams import image_tables
from inception_tf.inference.classify import classify
from inception_tf.inference.embed import load_vectors
from inception_tf.inference.engines import open_engine
from inception_tf.inference.jobs import SETTINGS, Parts, run_job
from inception_tf.inference.pipeline import Pipeline
from inception_tf.inference.table import ANSWERS, TablePredictor

pa = pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")
pytest.importorskip("onnxruntime")
from pyarrow import csv, parquet  # noqa: E402

ODD = ("a b.jpg", "ü%20#?.jpg", "[x].jpg", "new\nline.jpg", "d::e.jpg", "sub/deep er/f.JPEG")


def encoded(seed, mode="RGB", kind="JPEG"):
    channels, buffer = {"RGB": 3, "CMYK": 4}[mode], io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, channels), np.uint8)
    Image.frombytes(mode, (8, 8), pixels.tobytes()).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An `.onnx` of LeNet, with features."""
    pytest.importorskip("tf2onnx")
    import inception_tf as itf

    path = tmp_path_factory.mktemp("model") / "digits.onnx"
    return str(itf.export(itf.create_model("lenet", classes=3), path, "onnx", features=True))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for seed, name in enumerate(ODD):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(seed))
    (folder / ".hidden.jpg").write_bytes(encoded(0))
    (folder / "notes.md").write_text("none")
    return folder


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    import fsspec

    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def rows(out):
    return sorted(parquet.read_table(out).to_pylist(), key=lambda row: row["path"])


def paths_of(*inputs, rows=256):
    return [path for table in image_tables(inputs, rows) for path in table["path"].to_pylist()]


@pytest.mark.parametrize("options", [{}, {"top": 2, "embed": True}, {"embed": True, "classify": False}])
def test_a_table_of_images(model, photos, options):
    files = sorted(map(str, photos.rglob("*.jpg")))
    table = pa.table(
        {"path": [*files, "a", "b", None], "bytes": pa.array([None] * len(files) + [encoded(7), b"", None])}
    )
    table = table.append_column("key", pa.array(range(len(table))))
    predictor = TablePredictor(model, threads=1, batch=4, **options)
    answers = pickle.loads(pickle.dumps(predictor))(table)
    assert pickle.loads(pickle.dumps(predictor))(table.to_batches()[0]).equals(answers)  # in another order of calls
    assert answers["path"].equals(table["path"]) and answers["key"].equals(table["key"])
    assert predictor(table.slice(0, 0)).schema == answers.schema
    errors = answers["error"].to_pylist()
    assert [bool(error) for error in errors] == [False] * (len(files) + 1) + [True] * 2 and "empty" in errors[-2]
    if options.get("classify", True):
        best, _ = classify(open_engine(model), files, options.get("top", 1))
        found = zip(*(answers[name].to_pylist() for name in ("class", "name", "score")))
        for (index, name, score), wanted in zip(found, best.values()):
            wanted = [list(column) for column in zip(*wanted)]
            assert [index, name] == (wanted if options else [column[0] for column in wanted])[:2]
            assert score == pytest.approx(wanted[2] if options else wanted[2][0], abs=1e-6)
        assert answers["class"].to_pylist()[-2:] == [None, None]
    else:
        assert "class" not in answers.column_names
    if options:
        pixels = np.concatenate([open_engine(model).preprocessing(file, decoder="pillow") for file in files])
        vectors = np.array(answers["embedding"].to_pylist()[: len(files)], np.float32)
        assert np.allclose(vectors, open_engine(model).embed(pixels), atol=1e-5)
        assert answers["embedding"].null_count == 2


def test_tables_that_are_none(model):
    for columns in ({"file": ["a"]}, {"path": ["a"], "class": [1]}):
        with pytest.raises(UsageError, match="path"):
            TablePredictor(model)(pa.table(columns))
    twice = [pa.table([["a"]] * len(names), names) for names in (["path", "path"], ["path", "n", "n"])]
    for table in ({"path": ["a"]}, pa.table({"path": [["a"]]}), *twice):
        with pytest.raises(UsageError, match="pyarrow.Table|path"):
            TablePredictor(model)(table)
    for options in ({"top": 0}, {"batch": 0}, {"threads": 0}, {"classify": False}):
        with pytest.raises(UsageError, match=next(iter(options))):
            TablePredictor(model, **options)


def test_other_types_of_columns(model):
    """Texts and bytes as Arrow holds them otherwise, and a path that is no text but is not a file's content either."""
    predictor, data = TablePredictor(model, threads=1), [encoded(1), None]
    wanted = predictor(pa.table({"path": ["a", ""], "bytes": pa.array(data, pa.binary())}))
    assert wanted["error"].to_pylist() == [None, "Its row has no path."]
    for text, binary in ((pa.large_string(), pa.large_binary()), (pa.binary(), pa.binary())):
        paths = pa.array(["a", ""]).cast(text)
        parts = pa.chunked_array([data[:1], data[1:]], binary)
        for columns in ([paths, pa.array(data, binary)], [paths.dictionary_encode(), parts]):
            found = predictor(pa.table(columns, ["path", "bytes"]))
            assert found.select(ANSWERS[:3]).equals(wanted.select(ANSWERS[:3]))


def test_where_images_come_from(photos, memory, tmp_path, monkeypatch):
    wanted = sorted(f"{photos}/{name}" for name in ODD)
    assert sorted(paths_of(photos)) == wanted and len(list(image_tables(photos, 4))) == 2
    assert sorted(paths_of(f"{photos}/*.jpg")) == [path for path in wanted if path.endswith(".jpg")]
    assert paths_of(f"{photos}/[x].jpg", f"{photos}/notes.md") == [f"{photos}/[x].jpg", f"{photos}/notes.md"]
    assert sorted(paths_of(f"file://{photos}")) == [f"file://{path}" for path in wanted]

    for number in range(3):
        memory.pipe(f"/bucket/{number}/{number}.jpg", encoded(number))
    memory.pipe({"/bucket/.x/3.jpg": b"", "/bucket/notes.md": b""})
    assert sorted(paths_of("memory://bucket/")) == [f"memory:///bucket/{n}/{n}.jpg" for n in range(3)]
    assert paths_of("memory://bucket/*/1.jpg") == ["memory:///bucket/1/1.jpg"]
    assert paths_of("memory://bucket/[01]") == ["memory:///bucket/0/0.jpg", "memory:///bucket/1/1.jpg"]
    assert paths_of("memory://bucket/*/**") == [f"memory:///bucket/{n}/{n}.jpg" for n in range(3)]
    assert paths_of(f"{photos}/sub/**") == paths_of(f"{photos}/s*") == [f"{photos}/{ODD[-1]}"]

    manifest = tmp_path / "list.csv"
    csv.write_csv(
        pa.table({"Label": ["x", "y", "z"], "file": ["photos/a b.jpg", "memory://bucket/1/1.jpg", "photos/a b.jpg"]}),
        manifest,
    )
    (table,) = image_tables(manifest)
    listed = [f"{photos}/a b.jpg", "memory://bucket/1/1.jpg", f"{photos}/a b.jpg"]
    assert table.to_pydict() == {"path": listed, "Label": ["x", "y", "z"]}
    parquet.write_table(pa.table({"path": ["1/1.jpg", "s3://b/c.jpg"], "n": [1, 2]}), tmp_path / "list.parquet")
    memory.pipe("/bucket/list.parquet", (tmp_path / "list.parquet").read_bytes())
    (table,) = image_tables("memory://bucket/list.parquet")
    assert table.to_pydict() == {"path": ["memory://bucket/1/1.jpg", "s3://b/c.jpg"], "n": [1, 2]}
    (tmp_path / "list.txt").write_text("photos/a b.jpg\n\n/else/b.jpg\n")
    assert paths_of(tmp_path / "list.txt") == [f"{photos}/a b.jpg", "/else/b.jpg"]
    images = [{"bytes": data, "path": path} for data, path in ((b"1", "one.jpg"), (b"2", None), (None, "b.jpg"))]
    parquet.write_table(pa.table({"image": images, "label": [0, 1, 2]}), tmp_path / "hub.parquet")
    (table,) = image_tables(tmp_path / "hub.parquet")
    assert table.to_pydict() == {
        "path": [f"{tmp_path}/hub.parquet:0:one.jpg", f"{tmp_path}/hub.parquet:1", f"{tmp_path}/b.jpg"],
        "label": [0, 1, 2],
        "bytes": [b"1", b"2", None],
    }
    for name, sizes in (("sizes.csv", ["3", "4"]), ("sizes.parquet", [3, 4])):  # not what the files hold
        sized = pa.table({"path": ["a.jpg", None], "bytes": sizes})
        (csv.write_csv if name.endswith("csv") else parquet.write_table)(sized, tmp_path / name)
        (table,) = image_tables(tmp_path / name)
        assert table["path"][0].as_py() == f"{tmp_path}/a.jpg" and table.column_names == ["path"]

    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, data in {"a/1.jpg": b"one", "a/1.cls": b"3", "2.json": b"{}", "3.png": b"three"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (tmp_path / "broken.tar").write_bytes(b"no tar")
    memory.put_file(str(tmp_path / "shard.tar"), "/bucket/shard.tar")
    zipped = gzip.compress((tmp_path / "shard.tar").read_bytes())
    (tmp_path / "shard.tar.gz").write_bytes(zipped)
    for shard in (f"{tmp_path}/shard.tar", f"{tmp_path}/shard.tar.gz", "memory://bucket/shard.tar"):
        (table,) = image_tables([shard])
        assert table["path"].to_pylist() == [f"{shard}:a/1", f"{shard}:3"]
        assert table["bytes"].to_pylist() == [b"one", b"three"]
    (table,) = image_tables(f"{tmp_path}/broken.tar")
    assert "no tar file" in table["error"][0].as_py() and table["bytes"].null_count == 1
    (tmp_path / "cut.tgz").write_bytes(zipped[: len(zipped) // 2])
    (tmp_path / "cut.tar").write_bytes((tmp_path / "shard.tar").read_bytes()[:514])  # in the first image
    for cut, rows in (("cut.tgz", 1), ("cut.tar", 2)):
        (table,) = image_tables(f"{tmp_path}/{cut}")
        assert table["error"].null_count == 0 and len(table) == rows

    (tmp_path / "none").mkdir()
    (tmp_path / "no.csv").write_text("name,size\nx,1\n")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    (tmp_path / "taken.csv").write_text("path,error\nx,1\n")
    for nothing in ("none", "none.jpg", "x*.jpg", "no.csv", "bad.parquet", "taken.csv"):
        with pytest.raises(UsageError, match=nothing.replace("*", r"\*")):
            paths_of(f"{tmp_path}/{nothing}")
    for nothing in ("memory://nowhere/", "nothing://x/y"):
        with pytest.raises(UsageError, match=nothing):
            paths_of(nothing)


def test_a_folder_of_a_bucket_that_cannot_be_listed(memory, monkeypatch):
    memory.pipe({f"/bucket/{name}/1.jpg": b"1" for name in "abc"})
    listing = memory.ls

    def ls(path, **options):
        if path.endswith("/b"):
            raise PermissionError("Access Denied")
        return listing(path, **options)

    monkeypatch.setattr(type(memory), "ls", staticmethod(ls))
    with pytest.raises(UsageError, match="cannot be listed.*Access Denied"):
        paths_of("memory://bucket/")
    memory.pipe({"/run/part": b"1"})
    monkeypatch.setattr(type(memory), "ls", lambda *arguments, **options: ls("/b"))
    with pytest.raises(InceptionTFError, match="Access Denied"):
        Parts("memory://run", {})


def test_an_address_that_is_none_has_its_row(model):
    answers = TablePredictor(model, threads=1)(pa.table({"path": ["ttps://x/y.jpg"]}))
    assert "ttps://x/y.jpg" in answers["error"][0].as_py()


def test_records(tmp_path):
    tf = pytest.importorskip("tensorflow")
    shard = tmp_path / "train-00000-of-00001"
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for image in (b"one", None):
            example = tf.train.Example()
            if image:
                example.features.feature["image/encoded"].bytes_list.value.append(image)
            writer.write(example.SerializeToString())
    (table,) = image_tables(shard)
    assert table["path"].to_pylist() == [f"{shard}:0", f"{shard}:1"] and table["bytes"].to_pylist() == [b"one", None]
    assert "image/encoded" in table["error"][1].as_py()


def test_every_image_has_a_row(model, photos, tmp_path, capsys):
    bad = {"cut": encoded(8)[:200], "empty": b"", "text": b"text", "huge": png(50_000, 50_000)}
    good = {"cmyk": encoded(8, "CMYK"), "truth": encoded(9)}
    for name, data in (bad | good).items():
        (photos / f"{name}.jpg").write_bytes(data)
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(photos / "sixteen.png")
    Path(os.fsdecode(os.fsencode(photos) + b"/no text \xff.jpg")).write_bytes(encoded(10))
    out, again = str(tmp_path / "out"), [model, str(photos), "--threads", "1", "--json"]
    assert main(["classify", *again, "--out", out, "--embed"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert (summary["images"], summary["failed"]) == (len(ODD) + 8, 4) and summary["before"] == 0
    found = rows(out)
    assert {Path(row["path"]).stem for row in found if row["error"]} == set(bad)
    assert all((row["class"] is None) == (row["embedding"] is None) == bool(row["error"]) for row in found)
    best, _ = classify(open_engine(model), photos / "cmyk.jpg", 1)
    (row,) = (row for row in found if row["path"].endswith("cmyk.jpg"))
    assert (row["class"], row["name"]) == next(iter(best.values()))[0][:2]
    assert any("\\udcff" in row["path"] for row in found)

    assert main(["classify", *again, "--out", out, "--embed"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["images"], summary["before"]) == (0, len(found)) and rows(out) == found
    assert main(["classify", *again, "--out", out]) == 2
    assert "embed" in capsys.readouterr().err and rows(out) == found


def test_paths_that_come_twice(model, photos, tmp_path):
    manifest, predictor = tmp_path / "list.txt", TablePredictor(model, threads=1)
    names = [f"photos/{name}" for name in ODD if "\n" not in name]
    manifest.write_text("\n".join([*names, *names[:2]]))
    for last in (3, None):  # a first run that comes to three rows, and one that goes on
        tables = (table for table in list(image_tables(manifest, 1))[:last])
        summary = run_job(tables, predictor, Parts(tmp_path / "out", predictor.settings, rows=2))
    assert summary.before == 3 and summary.images == len(names) - 1
    wanted = sorted(str(tmp_path / name) for name in [*names, *names[:2]])
    assert [row["path"] for row in rows(tmp_path / "out")] == wanted


def test_json_lines_at_a_url(model, photos, memory, capsys):
    with (photos / "a b.jpg").open("rb") as file:
        memory.pipe({"/bucket/1.jpg": file.read(), "/bucket/2.jpg": b"text"})
    arguments = ["classify", model, "memory://bucket/", "--threads", "1", "--out", "memory://run/1", "--top", "2"]
    assert main([*arguments, "--format", "jsonl"]) == main([*arguments, "--format", "jsonl", "--quiet"]) + 1 == 1
    settings, part = sorted(memory.find("/run"))
    assert settings.endswith(SETTINGS) and part.endswith(".jsonl")
    first, second = sorted(map(json.loads, memory.cat_file(part).splitlines()), key=lambda row: row["path"])
    assert len(first["class"]) == 2 and first["error"] is None and second["class"] is None
    assert "Not an image" in second["error"]
    assert main(arguments) == 2 and "format" in capsys.readouterr().err


def test_when_parts_are_written(tmp_path, monkeypatch):
    """After ten seconds, then twenty, and so on up to five minutes; or when they are full."""
    now, written = 0, []
    monkeypatch.setattr("inception_tf.inference.jobs.time.monotonic", lambda: now)
    parts = Parts(tmp_path / "out", {}, rows=250)
    for now in range(1, 1000):
        parts.write(pa.table({"path": [str(now)], "error": ["none"]}))
        if parts.written > sum(written):
            written.append(parts.written - sum(written))
    assert written == [10, 20, 40, 80, 160, 250, 250]


@pytest.mark.slow
def test_s3(model, monkeypatch, capsys):
    """From a bucket to a bucket, and goes on there."""
    server, s3fs = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
    server = server.ThreadedMotoServer(port=0)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    names = "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
    for name, value in zip(names, (endpoint, "us-east-1", "none", "none")):
        monkeypatch.setenv(name, value)
    try:
        s3 = s3fs.S3FileSystem(use_listings_cache=False)
        s3.mkdir("bucket")
        s3.pipe({f"bucket/photos/{i % 2}/{i}.jpg": encoded(i) for i in range(9)})
        command = "classify", model, "--threads", "1", "--json", "--out"
        for data, images, before in (("photos/0/", 5, 0), ("", 4, 5)):
            capsys.readouterr()
            assert main([*command, "s3://bucket/run/", f"s3://bucket/{data}"]) == 0
            summary = json.loads(capsys.readouterr().out)
            assert (summary["images"], summary["before"]) == (images, before)
        found = parquet.read_table("bucket/run", filesystem=s3)
        assert sorted(found["path"].to_pylist()) == sorted(f"s3://bucket/photos/{i % 2}/{i}.jpg" for i in range(9))
        assert main([*command, "s3://none/run/", "s3://bucket/"]) == 1 and not s3.exists("none")
    finally:
        server.stop()


def test_what_cannot_be_written_to_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InceptionTFError, match="cannot be listed: Not a directory"):
        Parts(tmp_path / "file" / "out", {})
    parts = Parts(tmp_path / "file.out" / "out", {})
    (tmp_path / "file.out").write_text("")
    with pytest.raises(InceptionTFError, match="Cannot write"):
        parts.write(pa.table({"path": ["a"], "error": ["none"]}))


def test_what_may_not_be_written_to(model, photos, tmp_path):
    predictor = TablePredictor(model)
    with pytest.raises(UsageError, match="not empty"):
        Parts(photos, predictor.settings)
    with pytest.raises(UsageError, match="parquet or jsonl"):
        Parts(tmp_path / "out", {}, "csv")
    parts = Parts(tmp_path / "out", predictor.settings)
    with parts:
        parts.write(pa.table({"path": ["a"], "error": ["none"]}))
    other = tmp_path / "other.onnx"
    other.write_bytes(Path(model).read_bytes() + b" ")
    with pytest.raises(UsageError, match="model: "):
        Parts(tmp_path / "out", TablePredictor(other).settings)
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(Path(model).read_bytes())
    assert len(Parts(tmp_path / "out", TablePredictor(copy).settings)) == 1  # the same weights by another name
    next((tmp_path / "out").glob("*.parquet")).write_bytes(b"broken")
    with pytest.raises(InceptionTFError, match="remove it"):
        Parts(tmp_path / "out", predictor.settings)


def test_a_full_disk(model, photos, tmp_path, full_disk):
    """The second part does not fit: the first stays, nothing of the second does, and with room the job goes on."""
    predictor = TablePredictor(model, threads=1)

    def parts():
        return Parts(tmp_path / "out", predictor.settings, rows=3)

    tables = list(image_tables(photos, 3))
    tables[1] = tables[1].append_column("noise", pa.array([os.urandom(100_000).hex() for _ in range(3)]))
    with pytest.raises(InceptionTFError, match="Cannot write .*File too large"):
        run_job(iter(tables), predictor, parts())
    assert len(rows(tmp_path / "out")) == 3 and len(list((tmp_path / "out").iterdir())) == 2
    run_job(image_tables(photos, 3), predictor, parts())
    assert len(rows(tmp_path / "out")) == len(ODD)


@pytest.mark.parametrize("error", [KeyboardInterrupt, CheckpointError])
def test_an_interrupt_keeps_what_was_done(model, photos, tmp_path, error):
    def tables():
        yield from list(image_tables(photos, 2))[:2]
        raise error

    predictor = TablePredictor(model, threads=1)
    with pytest.raises(error):
        run_job(tables(), predictor, Parts(tmp_path / "out", predictor.settings))
    assert len(rows(tmp_path / "out")) == 4


def test_a_run_that_is_killed_goes_on(model, tmp_path):
    """kill -9 in the middle; then the rest, every image once."""
    out, count = tmp_path / "out", 100
    (tmp_path / "photos").mkdir()
    for number in range(count):
        (tmp_path / f"photos/{number}.jpg").write_bytes(encoded(number))
    program = """
import sys, time
from inception_tf.images.streams import image_tables
from inception_tf.inference.jobs import Parts, run_job
from inception_tf.inference.table import TablePredictor
predictor = TablePredictor(sys.argv[1], threads=1)
def tables():
    for number, table in enumerate(image_tables(sys.argv[2], 8)):
        if number == int(sys.argv[4]):
            time.sleep(3600)
        yield table
run_job(tables(), predictor, Parts(sys.argv[3], predictor.settings, rows=16, seconds=(900, 900)))
"""
    command = [sys.executable, "-c", program, model, str(tmp_path / "photos"), str(out)]
    with subprocess.Popen([*command, "7"]) as child:
        while len(list(out.glob("*.parquet"))) < 3 and child.poll() is None:
            time.sleep(0.05)
        child.kill()
    assert len(rows(out)) == 48  # and 8 that were answered are lost
    subprocess.run([*command, "-1"], check=True)
    assert [row["path"] for row in rows(out)] == sorted(f"{tmp_path}/photos/{number}.jpg" for number in range(count))


def test_labels_of_the_manifest_are_compared(model, photos, tmp_path):
    paths, predictor = sorted(str(photos / name) for name in ODD), TablePredictor(model, threads=1)
    truth = predictor(pa.table({"path": paths}))
    for top, column in ((1, "class"), (1, "name"), (2, "name")):
        label = [None, "no" if column == "name" else 7, *truth[column].to_pylist()[2:]]
        parquet.write_table(pa.table({"path": paths, "label": label}), tmp_path / "list.parquet")
        some = TablePredictor(model, threads=1, top=top)
        parts = Parts(tmp_path / f"{column}{top}", some.settings)
        summary = run_job(image_tables(tmp_path / "list.parquet"), some, parts)
        assert (summary.labeled, summary.right) == (len(paths) - 1, len(paths) - 2) and "80.0 %" in str(summary)
        assert parquet.read_table(parts.root)["label"].to_pylist() == label
    truth = predictor(pa.table({"path": [str(photos / "a b.jpg")]}))["class"][0]
    (tmp_path / "list.csv").write_text(f"path,label\nphotos/a b.jpg,{truth}\nphotos/[x].jpg,\n")
    summary = run_job(image_tables(tmp_path / "list.csv"), predictor, Parts(tmp_path / "csv", predictor.settings))
    assert (summary.images, summary.labeled, summary.right) == (2, 1, 1)


def test_the_command_says_what_is_missing(model, photos, tmp_path, capsys, monkeypatch):
    assert main(["classify", model, str(photos), "--embed"]) == 2 and "--out" in capsys.readouterr().err
    out = ["--out", str(tmp_path / "none")]
    for options in (["--format", "jsonl"], ["--threads", "0"], [*out, "--threads", "0"], [*out, "--ray-workers", "2"]):
        assert main(["classify", model, str(photos), *options]) == 2
        assert options[-2].strip("-") in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["classify", model, str(photos), "--out", str(tmp_path / "out")]) == 2
    assert "inception-tf[data]" in capsys.readouterr().err
    assert main(["classify", model, str(photos), "--top", "1"]) == 0


def test_vectors_of_a_folder(model, photos, tmp_path, capsys):
    assert main(["embed", model, str(photos), "--out", f"{tmp_path}/vectors/", "--threads", "1"]) == 0
    found = rows(tmp_path / "vectors")
    assert set(found[0]) == {"path", "embedding", "error"} and len(found) == len(ODD)
    (photos / "bad.jpg").write_bytes(b"")
    assert main(["embed", model, str(photos), "--out", f"{tmp_path}/vectors", "--threads", "1"]) == 1
    vectors = load_vectors(tmp_path / "vectors")
    assert sorted(vectors.paths) == [row["path"] for row in found] and vectors.values.shape == (len(ODD), 1024)


def test_ten_crops(photos, tmp_path):
    """The windows are those of Pillow's crops; of Inception's, of the image itself, before it is resized."""
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    for kind, sides in (("inception", (36, 42)), ("lenet", (28, 28))):
        prepare = Preprocessing(kind, (28, 28), **({"channels": 3} if kind == "lenet" else {}))
        found = prepare.crops(image)
        assert found.shape == (10, 28, 28, 3) and np.array_equal(found[0], prepare(image)[0])
        assert np.array_equal(found[5:], found[:5, :, ::-1]) and np.array_equal(prepare.crops(image, 1), found[:1])
        plain = dataclasses.replace(prepare, central_fraction=1.0) if kind == "inception" else prepare
        corners = [image[y:, x:][: sides[0], : sides[1]] for y in (0, 40 - sides[0]) for x in (0, 48 - sides[1])]
        for view, corner in zip(found[1:5], corners):
            assert np.allclose(view, plain(corner)[0], atol=1e-6)


def test_the_mean_of_ten_crops(model, photos):
    engine, files = open_engine(model), sorted(map(str, photos.glob("*.jpg")))
    answers = TablePredictor(model, threads=1, crops=10, top=3)(pa.table({"path": files}))
    for file, order, scores in zip(files, answers["class"].to_pylist(), answers["score"].to_pylist()):
        wanted = engine(engine.preprocessing.crops(decode_image(Path(file).read_bytes(), decoder="pillow"))).mean(0)
        assert np.allclose(wanted[order], scores, atol=1e-6) and list(np.argsort(-wanted, kind="stable")) == order
    with pytest.raises(UsageError, match="crops"):
        TablePredictor(model, crops=3)(pa.table({"path": files}))


def test_large_jpegs_scaled_down(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).resize((1600, 1200)).save(tmp_path / "large.jpg")
    resizing = open_engine(model)
    resizing.preprocessing = Preprocessing("inception", (28, 28), channels=1)  # LeNet's own cuts and does not resize
    predictors = [TablePredictor(model, embed=True, classify=False, fast_decode=fast) for fast in (False, True)]
    assert predictors[0].settings != predictors[1].settings
    found = []
    for predictor in predictors:
        predictor._pipe = Pipeline(resizing, fast_decode=predictor.fast_decode)
        found.append(np.array(predictor(pa.table({"path": [str(tmp_path / "large.jpg")]}))["embedding"].to_pylist()))
    image = decode_image((tmp_path / "large.jpg").read_bytes(), decoder="pillow", scaled_for=resizing.preprocessing)
    wanted = resizing.embed(resizing.preprocessing.crops(image, 1))
    assert (
        image.shape[0] < 1200
        and np.allclose(found[1], wanted, atol=1e-5)
        and not np.allclose(found[0], wanted, atol=1e-5)
    )


def test_evaluate_reads_images_behind_urls(photos, memory, tmp_path):
    memory.pipe("/bucket/1.jpg", encoded(1))
    (tmp_path / "list.csv").write_text("path,label\nmemory://bucket/1.jpg,a\nphotos/a b.jpg,b\nmemory://none,b\n")
    examples = open_examples(tmp_path / "list.csv")
    assert examples.read(0) == encoded(1) and examples.read(1) == encoded(0)
    with pytest.raises(ImageError, match="memory://none"):
        examples.read(2)
