"""What faults and load do to a local server in a process of its own: wrong answers, lost requests, memory.

MALFORMED=3000 python -m pytest -s tests/serving/test_faults.py      # as many requests, in place of 200
"""

import asyncio
import base64
import io
import itertools
import json
import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from PIL import Image
from random_weights import randomized

from inception_tf.exports.savedmodel import export_savedmodel
from inception_tf.exports.serving_files import jpegs
from inception_tf.zoo import create_model

pytestmark = pytest.mark.slow
FILES = jpegs()


class Server:
    """`inception-tf serve` of a model in a process of its own, on free ports. A context manager."""

    def __init__(self, base):
        self.base = base

    def __enter__(self):
        command = [sys.executable, "-m", "inception_tf", "serve", str(self.base), "--engine", "local", "--json"]
        command += ["--port", "0", "--grpc-port", "0", "--poll", "0.2"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        port = json.loads(self.process.stdout.readline())["port"]
        self.model = f"http://127.0.0.1:{port}/v1/models/{self.base.name}"
        return self

    def __exit__(self, *_):
        self.stop()
        self.code = self.process.wait(600)

    def stop(self):
        self.stop = lambda: None  # a second one would end it at once
        self.process.send_signal(signal.SIGTERM)

    def memory(self, which="VmRSS"):
        """Its memory in megabytes now, or the most so far, "VmHWM"."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{which}:\s+(\d+)", status)[1]) / 1024


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
    url, bodies, answers = f"{server.model}:predict", list(map(files, FILES)), []
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
        server.stop()
        await asyncio.gather(*running)
    return {"answered": len(answers), "wrong": list(filter(None, answers))}


def png(width, height):
    """A PNG of one color: a few hundred kilobytes for gigabytes of pixels. It ends after 2,000 rows."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    data = zlib.compress(bytes(1 + 3 * width) * min(height, 2000), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def gif(side, frames):
    """A GIF of many frames of one color."""
    file = io.BytesIO()
    Image.new("P", (side, side)).save(file, "GIF")
    data = file.getvalue()
    return data[:-1] + frames * data[data.index(b",") : -1] + b";"


def malformed_requests():
    """Wrong requests: (kind, path, body, the status that is right). An image that cannot be read is answered.

    Those whose cost is out of proportion to their size; tests/serving has more kinds, and gRPC's.
    """
    image = np.zeros((28, 28, 1)).tolist()
    return [
        ("noise", ":predict", np.random.default_rng(0).bytes(5000), 400),
        ("nested", ":predict", b"[" * 200_000, 400),
        ("digits", ":predict", b'{"instances": ' + b"9" * 10_000 + b"}", 400),
        ("ragged", ":predict", json.dumps({"instances": [image, image[1:]]}).encode(), 400),
        ("shape", ":predict", json.dumps({"instances": [image[:20]]}).encode(), 400),
        ("base64", ":predict", files({"b64": "@@@"}), 400),
        ("too many rows", ":predict", files(*[""] * 5000), 400),
        ("examples", ":classify", b'{"signature_name": "classify", "examples": [1]}', 400),
        ("version", "/versions/99:predict", files(*FILES), 404),
        ("broken JPEG", ":predict", files(FILES[0][:100]), 200),
        ("PNG bomb", ":predict", files(png(50_000, 50_000)), 200),
        ("PNG that ends early", ":predict", files(png(5000, 6000)), 200),
        ("GIF bomb", ":predict", files(gif(4000, 200)), 200),
    ]


async def malformed(server, count, huge=10, concurrency=16):
    """Malformed requests, `huge` of them of 100 MB, and a good one after every tenth.

    Returns:
        A dict: bad, good; wrong: those that were not refused as they should be, or whose good answer was not right.
    """
    wrong, good, numbers, lock = [], 0, iter(range(1, count + 1)), asyncio.Semaphore(2)
    kinds = itertools.cycle(malformed_requests())

    async def ask(kind, path, body, expected):
        try:
            status, answer = await post(session, server.model + path, body)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:  # a body that is refused before it was read
            status, answer = (413, {"error": ""}) if expected == 413 else (0, repr(error))
        if expected == 200 == status:  # the row says why there is no image; of a GIF the first frame is read
            refused = bool(answer["predictions"][0]["status"]) == (kind != "GIF bomb")
        else:
            refused = "error" in answer
        if status != expected or not refused:
            wrong.append(f"{kind}: {status} {answer!s:.200}")

    async def client():
        nonlocal good
        for i in numbers:
            if i % max(count // huge, 1) == 0:
                async with lock:  # so that the clients' own memory stays bounded
                    await ask("100 MB", ":predict", bytes(100 * 2**20), 413)
            else:
                await ask(*next(kinds))
            if i % 10 == 0:
                answer, good = await post(session, f"{server.model}:predict", files(*FILES)), good + 1
                if not same(answer, right):
                    wrong.append(f"a good request: {answer!s:.200}")

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(None)) as session:
        right = await post(session, f"{server.model}:predict", files(*FILES))
        await asyncio.gather(*(client() for _ in range(concurrency)))
    return {"bad": count, "good": good, "wrong": wrong}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    model = randomized(create_model("lenet", classes=10), 0)
    return export_savedmodel(model, tmp_path_factory.mktemp("models") / "digits", batch=(1, 8, 32), check=False).parent


def test_malformed_requests(base):
    """Another round needs no more memory than the first, and the server has what it had before them."""
    count = int(os.environ.get("MALFORMED", 200))
    with Server(base) as server:
        start = server.memory()
        found = asyncio.run(malformed(server, count, huge=2))
        assert found["wrong"] == [] and found["good"] == count // 10
        before = server.memory()
        asyncio.run(malformed(server, 200, huge=2))
        print(f"{start:.0f} MB, after {count} {before:.0f} MB, at most {server.memory('VmHWM'):.0f} MB")
        assert server.memory() - before < 100  # MB: one such body that is kept would be seen
        assert server.memory() - start < 300  # of images of 90 MB, several at once, in float32 too


def test_sigterm_under_load_loses_no_accepted_request(base):
    with Server(base) as stopping:
        found = asyncio.run(stopped(stopping, 16))
    assert found["wrong"] == [] and found["answered"] > 16 and stopping.code == 0
