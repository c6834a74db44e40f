import gzip
import hashlib
import http.server
import io
import os
import random
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from inception_tf.errors import DownloadError
from inception_tf.slim import download
from inception_tf.slim.archives import extract_checkpoint
from inception_tf.slim.catalogue import find

pytestmark = pytest.mark.filterwarnings("ignore:No checksum")
PUBLISHED = find("inception_v3", "imagenet")
FAST = {"timeout": 2.0, "tries": 3, "pause": 0.01}


def archive(*contents):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for data in contents:
            info = tarfile.TarInfo(PUBLISHED.member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


# Incompressible bytes that end as a V1 checkpoint does.
ARCHIVE, CHANGED = (archive(random.Random(i).randbytes(300_000) + bytes.fromhex("57fb808b247547db")) for i in (0, 1))
EMPTY = archive()


class Server(http.server.ThreadingHTTPServer):
    """Serves `data` at every path; `plan` says for each coming request in turn how to misbehave.

    `log` keeps the Range header of every request, and the path of the last is in `path`.
    """

    def __init__(self):
        self.data, self.plan, self.log, self.path = ARCHIVE, [], [], None
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/models"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.log.append(asked)
        server.path = self.path
        how = server.plan.pop(0) if server.plan else "right"
        if isinstance(how, int):
            return self.send_error(how)
        if how in ("hang", "slow"):
            time.sleep(1.5 if how == "hang" else 0.5)
        data = {"page": b"<html>Please log in</html>" * 50, "no checkpoint": EMPTY}.get(how, server.data)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and "no ranges" not in how else None
        if start is not None and start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            return self.end_headers()
        self.send_response(200 if start is None else 206)
        if start is not None:
            shift = 7 if how == "wrong part" else 0
            self.send_header("Content-Range", f"bytes {start + shift}-{len(data) - 1}/{len(data)}")
        body = data[start or 0 :]
        if how != "no length":
            lie = 1000 if "longer" in how else -1000 if how == "shorter" else 0
            self.send_header("Content-Length", str(len(body) + lie))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if how in ("break", "reset") else body)
        if how == "reset":
            self.wfile.flush()
            time.sleep(0.1)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
        return None


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("INCEPTION_TF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def server(home, monkeypatch):
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("INCEPTION_TF_MIRROR", server.url)
        yield server
        server.shutdown()
        thread.join()


def files(folder):
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock" and path.suffix != ".sha256")
    return sorted(str(path.relative_to(folder)) for path in paths)


TARGET = f"inception_v3/{PUBLISHED.archive}"


def assert_whole(home, path, data=ARCHIVE):
    assert path == home / TARGET
    assert path.read_bytes() == data
    assert files(home) == [TARGET]


def test_downloads_once(server, home):
    assert_whole(home, download.fetch(PUBLISHED, **FAST))
    assert server.path == f"/models/{PUBLISHED.archive}"
    assert_whole(home, download.fetch(PUBLISHED, **FAST))
    assert server.log == [None]
    assert len(extract_checkpoint(home / TARGET, home / "out")) == 1


def part_of(home, data):
    (home / "inception_v3").mkdir(parents=True)
    (home / f"{TARGET}.part").write_bytes(data)


@pytest.mark.parametrize(
    ("plan", "requests"),
    [
        (["break", "break"], 3),
        (["reset", "break"], 3),
        (["break", "no ranges"], 2),  # the rest is not to be had: it starts again
        (["break", "wrong part"], 3),
        (["longer"], 2),  # asked for the rest, the server says that there is none
        (["no length"], 1),
        ([500, 500], 3),
        ([429], 2),
        (["hang"], 2),
    ],
)
def test_a_server_that_fails_for_a_while(server, home, plan, requests):
    server.plan = list(plan)
    assert_whole(home, download.fetch(PUBLISHED, **FAST | {"timeout": 1.0}))
    assert len(server.log) == requests
    if plan == ["break", "break"]:  # resumed where it broke off
        assert server.log == [None, *(f"bytes={len(ARCHIVE) * part // 4}-" for part in (2, 3))]


@pytest.mark.parametrize(
    ("how", "requests", "message"),
    [
        (404, 1, "HTTP 404"),
        (500, FAST["tries"], "HTTP 500"),
        ("longer, no ranges", FAST["tries"], "the connection ended after [0-9,]+ of [0-9,]+ bytes"),
        ("shorter", 1, "truncated"),
        ("page", 1, "is not what was published"),
        ("no checkpoint", 1, "is not what was published"),
    ],
)
def test_a_server_that_never_has_it(server, home, how, requests, message):
    server.plan = [how] * 9
    with pytest.raises(DownloadError, match=message):
        download.fetch(PUBLISHED, **FAST)
    assert len(server.log) == requests
    assert files(home) == ([f"{TARGET}.part"] if how == "longer, no ranges" else [])
    server.plan = []
    assert_whole(home, download.fetch(PUBLISHED, **FAST))


def test_resumes_in_a_later_call(server, home):
    server.plan = ["break"] + [503] * 9
    with pytest.raises(DownloadError, match="503"):
        download.fetch(PUBLISHED, **FAST)
    have = (home / f"{TARGET}.part").stat().st_size
    assert have == len(ARCHIVE) // 2
    server.plan, server.log = ["break"] * 8, []
    assert_whole(home, download.fetch(PUBLISHED, **FAST))
    assert server.log[0] == f"bytes={have}-"
    assert len(server.log) == 9 > FAST["tries"]  # as long as every attempt adds something


def test_a_finished_part_needs_nothing_more(server, home):
    part_of(home, ARCHIVE)
    assert_whole(home, download.fetch(PUBLISHED, **FAST))
    assert server.log == [f"bytes={len(ARCHIVE)}-"]


@pytest.mark.parametrize("unpack", [bytes, gzip.decompress])  # gzip's checksum tells two halves apart, tar has none
def test_starts_again_when_the_file_has_changed(server, home, unpack):
    part_of(home, unpack(ARCHIVE)[:5000])
    server.data = unpack(CHANGED)
    assert_whole(home, download.fetch(PUBLISHED, **FAST), server.data)
    assert server.log == ["bytes=5000-", None]


def test_checksum(server, home):
    with pytest.raises(DownloadError, match=f"its MD5 is {hashlib.md5(ARCHIVE).hexdigest()}, not 0000"):
        download.fetch(replace(PUBLISHED, md5="0000"), **FAST)
    assert TARGET not in files(home)
    assert_whole(home, download.fetch(replace(PUBLISHED, md5=hashlib.md5(ARCHIVE).hexdigest()), **FAST))


@pytest.mark.filterwarnings("always::UserWarning")
def test_the_first_download_holds_for_the_later_ones(server, home):
    """No checksum is known: that is said once, and the file's own is kept."""
    pin, digest = home / f"{TARGET}.sha256", hashlib.sha256(ARCHIVE).hexdigest()
    with pytest.warns(UserWarning, match=f"No checksum of {PUBLISHED.archive} is known.*{digest}"):
        download.fetch(PUBLISHED, **FAST)
    assert pin.read_text() == f"{digest}  {PUBLISHED.archive}\n"
    (home / TARGET).write_bytes(CHANGED)
    with pytest.raises(DownloadError, match=f"SHA-256 is {hashlib.sha256(CHANGED).hexdigest()}, not {digest}.*Delete"):
        download.fetch(PUBLISHED, **FAST)
    (home / TARGET).unlink()
    server.data = CHANGED
    with pytest.raises(DownloadError, match=f"changed since.*delete {re.escape(str(pin))}"):
        download.fetch(PUBLISHED, **FAST)
    assert TARGET not in files(home)
    server.data = ARCHIVE
    assert_whole(home, download.fetch(PUBLISHED, **FAST))
    (home / TARGET).unlink()
    pin.unlink()
    server.data = CHANGED
    md5 = hashlib.md5(CHANGED).hexdigest()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_whole(home, download.fetch(replace(PUBLISHED, md5=md5), **FAST), CHANGED)


def test_offline(home, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        mirror = f"http://127.0.0.1:{probe.getsockname()[1]}/models"
        monkeypatch.setenv("INCEPTION_TF_MIRROR", mirror)
        with pytest.raises(DownloadError) as failure:
            download.fetch(PUBLISHED, timeout=2.0, pause=600)  # not waited for
    unreachable, advice = str(failure.value).splitlines()
    assert f"{mirror}/{PUBLISHED.archive}: Connection refused" in unreachable
    assert str(home / TARGET) in advice and "INCEPTION_TF_HOME" in advice and "INCEPTION_TF_MIRROR" in advice
    # What it says to do works.
    (home / TARGET).write_bytes(ARCHIVE)
    assert download.fetch(PUBLISHED) == home / TARGET


@pytest.mark.parametrize("mirror", ["http://127.0.0.1:port/", "http://a..b/", "nowhere", "ftp://127.0.0.1/x"])
def test_a_mirror_that_is_none(home, monkeypatch, mirror):
    monkeypatch.setenv("INCEPTION_TF_MIRROR", mirror)
    with pytest.raises(DownloadError, match=re.escape(mirror)):
        download.fetch(PUBLISHED, **FAST)


@pytest.mark.parametrize("form", [str, Path.as_uri])
def test_a_directory_as_mirror(home, tmp_path, monkeypatch, form):
    place = tmp_path / "mirror place"
    place.mkdir()
    monkeypatch.setenv("INCEPTION_TF_MIRROR", form(place))
    with pytest.raises(DownloadError, match="inception_v3_2016.*: No such file"):
        download.fetch(PUBLISHED)
    (place / PUBLISHED.archive).write_bytes(ARCHIVE[:-100])
    with pytest.raises(DownloadError, match="truncated"):
        download.fetch(PUBLISHED)
    (place / PUBLISHED.archive).write_bytes(ARCHIVE)
    assert_whole(home, download.fetch(PUBLISHED))


@pytest.mark.parametrize(
    ("placed", "found"),
    [
        (PUBLISHED.archive, PUBLISHED.archive),
        (TARGET, TARGET),
        ("inception_v3.ckpt", "inception_v3.ckpt"),
        ("inception_v3.ckpt.index", "inception_v3.ckpt"),
        ("inception_v3/inception_v3.ckpt", "inception_v3/inception_v3.ckpt"),
        ("inception_v3/model.ckpt-5.index", "inception_v3/model.ckpt-5"),
    ],
)
def test_what_the_user_put_there_is_taken(server, home, placed, found):
    (home / placed).parent.mkdir(parents=True)
    (home / placed).write_bytes(b"anything")
    assert download.fetch(PUBLISHED) == home / found
    assert server.log == []


def test_another_checkpoint_is_not_taken_for_it(home):
    home.mkdir()
    (home / "ens3_adv_inception_v3.ckpt.index").touch()
    (home / "inception_v3.ckpt-100").touch()
    assert download.locate(PUBLISHED) is None
    assert download.locate(find("inception_v3", "adv")) is None
    assert download.locate(find("inception_v3", "ens3_adv")) == home / "ens3_adv_inception_v3.ckpt"


def test_three_processes_download_once(server, home):
    server.plan = ["slow"] * 3
    code = "from inception_tf.slim.download import *; from inception_tf.slim.catalogue import find"
    code += "; print(fetch(find('inception_v3', 'imagenet')))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == [f"{home / TARGET}\n"] * 3
    assert server.log == [None]
    assert_whole(home, home / TARGET)


def test_a_place_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("INCEPTION_TF_HOME", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="Cannot write .*INCEPTION_TF_HOME"):
        download.fetch(PUBLISHED, **FAST)
    assert server.log == []


def test_home(tmp_path, monkeypatch):
    root = Path(download.__file__).parents[2]
    monkeypatch.delenv("INCEPTION_TF_HOME", raising=False)
    if (root / "setup.cfg").exists():
        assert download.home() == root / "checkpoints"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(download.resources, "files", lambda _: tmp_path / "site-packages/inception_tf/checkpoints")
    assert download.home() == tmp_path / ".cache/inception_tf"
    monkeypatch.setenv("INCEPTION_TF_HOME", "~/models")
    assert download.home() == tmp_path / "models"


def test_converts_once(server, home):
    calls = []

    def build(target):
        calls.append(target.suffix)
        target.write_bytes(download.fetch(PUBLISHED, **FAST).read_bytes()[::-1])

    for _ in range(2):
        path = download.cached_conversion(PUBLISHED, build)
        assert path == home / "inception_v3/inception_v3-1.keras"
        assert path.read_bytes() == ARCHIVE[::-1]
    assert calls == [".keras"]

    # A newer archive, by hand, and with an old date as unpacking gives.
    time.sleep(0.02)
    (home / TARGET).write_bytes(CHANGED)
    (home / f"{TARGET}.sha256").unlink()
    os.utime(home / TARGET, (1e9, 1e9))
    assert download.cached_conversion(PUBLISHED, build).read_bytes() == CHANGED[::-1]

    # The converted model is enough.
    (home / TARGET).unlink()
    assert download.cached_conversion(PUBLISHED, build).read_bytes() == CHANGED[::-1]
    assert len(calls) == 2 and server.log == [None]
