"""What faults and load do to a server in a process of its own: wrong answers, lost requests, memory, versions.

MALFORMED=10000 python -m pytest -s tests/serving/test_faults.py     # as many requests, in place of 400

The same on TensorFlow Serving, as conftest.py says. What is asked of the local server alone: that it refuses a body of
100 MB unread, and more than 4096 rows; that its memory stays within 300 MB of what it was; that it ends with code 0.
"""

import asyncio
import base64
import contextlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from PIL import Image
from pngs import png
from random_weights import randomized
from servers import Process, states, tensorflow_serving, terminate

from inception_tf.exports.savedmodel import export_savedmodel
from inception_tf.exports.serving_files import jpegs
from inception_tf.serving.directories import versions_in
from inception_tf.zoo import create_model

pytestmark = pytest.mark.slow
FILES = jpegs()


def memory(server, which="VmRSS"):
    """Its memory in megabytes now, or the most so far, "VmHWM"."""
    return int(re.search(rf"{which}:\s+(\d+)", Path(f"/proc/{server.pid}/status").read_text())[1]) / 1024


def model(server):
    return f"{server.url}/v1/models/{server.base.name}"


def files(*instances):
    """The body of a request about image files, given as bytes, or as they are in JSON."""
    rows = [{"b64": base64.b64encode(one).decode()} if isinstance(one, bytes) else one for one in instances]
    return json.dumps({"signature_name": "predict_image_bytes", "instances": rows}).encode()


async def post(session, url, body):
    async with session.post(url, data=body) as response:
        return response.status, await response.json(loads=json.loads)


def same(answer, right):
    """Whether two answers are right and the same but for rounding."""
    if answer[0] != 200 or right[0] != 200:
        return False
    pairs = list(zip(answer[1]["predictions"], right[1]["predictions"], strict=True))
    scores = (np.allclose(one["scores"], other["scores"], rtol=1e-3, equal_nan=True) for one, other in pairs)
    return all(scores) and all(one["classes"] == other["classes"] for one, other in pairs)


async def stopped(server, clients, seconds=1):
    """SIGTERM under load, half of the clients with a connection for each request. A refused one was not accepted.

    Returns:
        A dict: answered; wrong, what became of the requests that were accepted and not answered right.
    """
    url, bodies, answers = f"{model(server)}:predict", list(map(files, FILES)), []
    kept, new = (aiohttp.TCPConnector(limit=0, force_close=close) for close in (False, True))
    kept, new = (aiohttp.ClientSession(connector=one, timeout=aiohttp.ClientTimeout(None)) for one in (kept, new))
    async with kept, new:
        expected = [await post(kept, url, body) for body in bodies]

        async def client(number):
            for i in itertools.count(number):
                try:
                    answer = await post((kept, new)[number % 2], url, bodies[i % len(bodies)])
                except aiohttp.ClientConnectorError:
                    return
                except (aiohttp.ClientError, OSError) as error:
                    answer = 0, repr(error)
                answers.append("" if same(answer, expected[i % len(bodies)]) else f"{answer!s:.200}")

        running = [asyncio.create_task(client(number)) for number in range(clients)]
        await asyncio.sleep(seconds)
        terminate(server)
        await asyncio.gather(*running)
    return {"answered": len(answers), "wrong": list(filter(None, answers))}


def black(width, height):
    """A PNG of one color: a few hundred kilobytes for gigabytes of pixels. It ends after 2,000 rows."""
    return png(width, height, rows=bytes(1 + 3 * width) * min(height, 2000))


def gif(side, frames):
    """A GIF of many frames of one color."""
    file = io.BytesIO()
    Image.new("P", (side, side)).save(file, "GIF")
    data = file.getvalue()
    return data[:-1] + frames * data[data.index(b",") : -1] + b";"


def malformed_requests(local):
    """Wrong requests: (kind, path, body, the status that is right, or several).

    Those whose cost is out of proportion to their size; test_apis.py has more kinds, and gRPC's. An image that cannot
    be read is answered.
    """
    image = np.zeros((28, 28, 1)).tolist()
    return [
        ("noise", ":predict", np.random.default_rng(0).bytes(5000), 400),
        ("nested", ":predict", b"[" * 200_000, 400),
        ("digits", ":predict", b'{"instances": ' + b"9" * 10_000 + b"}", 400),
        ("ragged", ":predict", json.dumps({"instances": [image, image[1:]]}).encode(), 400),
        ("shape", ":predict", json.dumps({"instances": [image[:20]]}).encode(), 400),
        ("base64", ":predict", files({"b64": "@@@"}), 400),
        ("many rows", ":predict", files(*[""] * 5000), 400 if local else (200, 400)),
        ("examples", ":classify", b'{"signature_name": "classify", "examples": [1]}', 400),
        ("version", "/versions/987654321:predict", files(*FILES), 404),
        ("broken JPEG", ":predict", files(FILES[0][:100]), 200),
        ("PNG bomb", ":predict", files(black(50_000, 50_000)), 200),
        ("PNG that ends early", ":predict", files(black(5000, 6000)), 200),
        ("GIF bomb", ":predict", files(gif(4000, 200)), 200),
    ]


async def malformed(server, count, huge=10, concurrency=16):
    """Malformed requests, `huge` of them of 100 MB, and a good one after every tenth.

    Returns:
        A dict: bad, good; wrong: those that were not refused as they should be, or whose good answer was not right.
    """
    wrong, good, numbers, lock = [], 0, iter(range(1, count + 1)), asyncio.Semaphore(2)
    kinds = itertools.cycle(malformed_requests(server.local))

    async def ask(kind, path, body, expected):
        try:
            status, answer = await post(session, model(server) + path, body)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:  # a body that is refused before it was read
            status, answer = (413, {"error": ""}) if kind == "100 MB" else (0, repr(error))
        allowed = expected if isinstance(expected, tuple) else (expected,)
        if status == 200 and 200 in allowed:  # the row says why there is no image; of a GIF the first frame is read
            refused = bool(answer["predictions"][0]["status"]) == (kind != "GIF bomb")
        else:
            refused = "error" in answer
        if status not in allowed or not refused:
            wrong.append(f"{kind}: {status} {answer!s:.200}")

    async def client():
        nonlocal good
        for i in numbers:
            if i % max(count // huge, 1) == 0:
                async with lock:  # so that the clients' own memory stays bounded
                    await ask("100 MB", ":predict", bytes(100 * 2**20), 413 if server.local else (400, 413))
            else:
                await ask(*next(kinds))
            if i % 10 == 0:
                answer, good = await post(session, f"{model(server)}:predict", files(*FILES)), good + 1
                if not same(answer, right):
                    wrong.append(f"a good request: {answer!s:.200}")

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None)) as session:
        right = await post(session, f"{model(server)}:predict", files(*FILES))
        await asyncio.gather(*(client() for _ in range(concurrency)))
    return {"bad": count, "good": good, "wrong": wrong}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    network = randomized(create_model("lenet", classes=10), 0)
    base = tmp_path_factory.mktemp("models") / "digits"
    return export_savedmodel(network, base, batch=(1, 8, 32), check=False).parent


@pytest.fixture(scope="module", params=["local server", "TensorFlow Serving"])
def server(request, base):
    """One for all tests of it, the last of which ends it."""
    with Process(base, "local") if request.param == "local server" else tensorflow_serving(base) as server:
        yield server


def test_malformed_requests(server):
    """More of them need no more memory than the first fifth did."""
    count = int(os.environ.get("MALFORMED", 400))
    sizes, rounds = [memory(server)] if server.pid else [], (count // 5, count - count // 5)
    for number in rounds:
        found = asyncio.run(malformed(server, number, huge=2))
        assert found["wrong"] == [] and found["good"] == number // 10
        sizes += [memory(server)] if server.pid else []
    if not server.pid:
        pytest.skip("all were answered right; TF_SERVING_PID is not set, so that the memory is not known")
    start, before, after = sizes
    highest = memory(server, "VmHWM")
    print(f"{start:.0f} MB, after {rounds[0]} {before:.0f} MB, after {count} {after:.0f} MB, at most {highest:.0f} MB")
    assert after - before < 100  # MB: one such body that is kept would be seen
    assert after - start < 300 or not server.local  # of images of 90 MB, several at once, in float32 too


FAULTS = ["saved_model.pb", "variables/*.index", "variables/*.data*", "assets.extra/*requests", "garbage"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_version_that_is_broken_or_half_copied_leaves_the_old_one(server, rest, fault):
    """The file is cut in half, as while it is copied."""
    if not os.access(server.base, os.W_OK):
        pytest.skip(f"{server.base} cannot be written to")
    old, path = max(versions_in(server.base)), f"/v1/models/{server.base.name}"
    part, broken = server.base / f".{old + 1}", server.base / str(old + 1)
    right, seen = rest(server.url, f"{path}:predict", files(*FILES)), None
    shutil.copytree(server.base / str(old), part)
    (file,) = part.glob(fault if fault in FAULTS[:-1] else "saved_model.pb")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if fault in FAULTS[:-1] else b"<html>")
    part.rename(broken)
    try:
        end = time.monotonic() + 900
        while (state := states(server).get(old + 1)) != "END":  # Serving tries for minutes: five seconds are looked at
            assert state != "AVAILABLE" and time.monotonic() < end
            seen = seen or (state and time.monotonic())
            if seen and time.monotonic() > seen + 5 and not server.local:
                break
            assert same(rest(server.url, f"{path}:predict", files(*FILES)), right)
        assert states(server)[old] == "AVAILABLE" and same(rest(server.url, f"{path}:predict", files(*FILES)), right)
        assert rest(server.url, f"{path}/versions/{old + 1}:predict", files(*FILES))[0] == 404
    finally:
        shutil.rmtree(broken)


def test_sigterm_under_load_loses_no_accepted_request(server):
    """Of a bare tensorflow_model_server it does: that has no handler. In a container it is process 1, which the signal
    does not end: it answers on, until its grace period is over."""
    if not server.pid:
        pytest.skip("TF_SERVING_PID is not set: there is no process to end")
    found = asyncio.run(stopped(server, 16))
    assert found["wrong"] == [] and found["answered"] > 16
    if server.local:
        assert server.process.wait(600) == 0


@pytest.mark.parametrize("by", ["TF_SERVING_URL", "tensorflow_model_server"])
def test_these_tests_ask_tensorflow_serving(base, tmp_path, by):
    """With the local server in its place, in another process, which gets Serving's flags where it is on the PATH."""
    names = ("TF_SERVING_URL", "TF_SERVING_GRPC", "TF_SERVING_MODEL_PATH", "TF_SERVING_PID")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    shutil.copytree(base, tmp_path / "models/digits")
    with contextlib.ExitStack() as stack:
        if by == "TF_SERVING_URL":
            other = stack.enter_context(Process(tmp_path / "models/digits", "local"))
            environment |= zip(names, (other.url, other.grpc, str(other.base), str(other.pid)))
        else:
            command = tmp_path / "bin" / by
            command.parent.mkdir()
            words = shlex.join([sys.executable, str(Path(__file__).with_name("stand_in.py"))])
            command.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            command.chmod(0o755)
            environment["PATH"] = f"{command.parent}{os.pathsep}{environment['PATH']}"
        kinds = "TensorFlow and (sigterm or pb or rows)"
        files = [str(Path(__file__).with_name("test_apis.py")), __file__]  # SIGTERM ends the server: the last of all
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", kinds, *files]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "4 passed" in done.stdout and "skipped" not in done.stdout, done.stdout
