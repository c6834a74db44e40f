"""How the local server bears load and faults, on loopback: rates, latencies, lost requests, memory, as Markdown.

    python tools/load_serving.py

The model is a LeNet. Asked by 1, 8 and 64 clients; by 64 while new versions come; by clients that are killed in the
middle of a request; with malformed requests of every kind, good ones among them; and stopped under load.

TF_SERVING_URL and TF_SERVING_MODEL_PATH, as of tests/serving/conftest.py, name a TensorFlow Serving to ask instead:
it gets new versions under that path, and what needs its process or its metrics is left out.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import numpy as np

from inception_tf.exports.savedmodel import export_savedmodel
from inception_tf.exports.serving_files import jpegs
from inception_tf.zoo import create_model

FILES = jpegs()


class Server:
    """`inception-tf serve` of a model in a process of its own, on free ports. A context manager."""

    local = True

    def __init__(self, base, *options):
        self.base = base
        self.command = [sys.executable, "-m", "inception_tf", "serve", str(base), "--engine", "local", "--json"]
        self.command += ["--port", "0", "--grpc-port", "0", "--poll", "0.2", *options]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.port = json.loads(self.process.stdout.readline())["port"]
        self.url = f"http://127.0.0.1:{self.port}"
        self.model = f"{self.url}/v1/models/{self.base.name}"
        return self

    def __exit__(self, *_):
        self.stop()
        self.code = self.process.wait(60)

    def stop(self):
        self.stop = lambda: None  # a second one would end it at once
        self.process.send_signal(signal.SIGTERM)

    def memory(self, which="VmRSS"):
        """Its memory in megabytes now, or the most so far, "VmHWM"."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{which}:\s+(\d+)", status)[1]) / 1024


class Remote:
    """The TensorFlow Serving that TF_SERVING_URL names, with a model for images of 28×28×1."""

    local = False

    def __init__(self):
        self.url, self.base = os.environ["TF_SERVING_URL"].rstrip("/"), Path(os.environ["TF_SERVING_MODEL_PATH"])
        self.model = f"{self.url}/v1/models/{self.base.name}"


def files(*instances):
    """The body of a request about image files, given as bytes, or as they are in JSON."""
    rows = [{"b64": base64.b64encode(one).decode()} if isinstance(one, bytes) else one for one in instances]
    return json.dumps({"signature_name": "predict_image_bytes", "instances": rows}).encode()


async def post(session, url, body):
    async with session.post(url, data=body) as response:
        return response.status, await response.json(loads=json.loads)


async def load(server, clients, during):
    """Requests of one image each, from clients that wait for their answers, as long as the coroutine `during` runs.

    Returns:
        A dict: requests; failures, wrong answers too; rate a second; p50 and p99 in milliseconds.
    """
    url, bodies, times, failures = f"{server.model}:predict", list(map(files, FILES)), [], []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        expected = [await post(session, url, body) for body in bodies]
        start, running = time.perf_counter(), asyncio.create_task(during)

        async def client(number):
            for i in itertools.count(number):
                sent = time.perf_counter()
                try:
                    answer = await post(session, url, bodies[i % len(bodies)])
                    if not same(answer, expected[i % len(bodies)]):
                        failures.append(f"{answer!s:.200}")
                except (aiohttp.ClientError, OSError) as error:
                    failures.append(f"{error!r:.200}")
                times.append(time.perf_counter() - sent)
                if running.done():
                    break

        await asyncio.gather(running, *map(client, range(clients)))
        rate = len(times) / (time.perf_counter() - start)
    p50, p99 = 1e3 * np.percentile(times, (50, 99))
    return {"requests": len(times), "failures": failures, "rate": rate, "p50": p50, "p99": p99}


async def swap(server, count):
    """Adds versions, each a copy of the first, and waits until it is the one that answers."""
    async with aiohttp.ClientSession() as session:
        newest = max(int(path.name) for path in server.base.iterdir() if path.name.isdigit())
        for number in range(newest + 1, newest + count + 1):
            part, available = server.base / f".{number}", []
            await asyncio.to_thread(shutil.copytree, server.base / str(newest), part)
            part.rename(server.base / str(number))
            while available != [str(number)]:
                await asyncio.sleep(0.05)
                async with session.get(server.model) as response:
                    versions = (await response.json())["model_version_status"]
                available = [one["version"] for one in versions if one["state"] == "AVAILABLE"]


def same(answer, right):
    """Whether two answers are right and the same but for rounding."""
    if answer[0] != 200 or right[0] != 200:
        return False
    pairs = list(zip(answer[1]["predictions"], right[1]["predictions"], strict=True))
    scores = (np.allclose(one["scores"], other["scores"], rtol=1e-3, equal_nan=True) for one, other in pairs)
    return all(scores) and all(one["classes"] == other["classes"] for one, other in pairs)


def killed(server, count):
    """Clients that break off: after part of a request, or while its answer is computed.

    Returns:
        A dict: requests that still count as in flight afterwards; whether a good request is answered.
    """
    body, generator, address = files(*FILES), random.Random(0), urllib.parse.urlsplit(server.url)
    head = f"POST /v1/models/{server.base.name}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    message = head.encode() + body

    def kill(length, seconds):
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(message[:length])
            time.sleep(seconds)
            # A reset, as of a client that died.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    lengths = generator.choices([10, len(head), len(message) // 2, len(message)], k=count)
    with ThreadPoolExecutor(64) as pool:
        list(pool.map(kill, lengths, [generator.uniform(0, 0.02) for _ in lengths]))
    with urllib.request.urlopen(f"{server.model}:predict", body, timeout=60) as response:
        answered = response.status == 200
    left = 0
    for _ in range(100 if server.local else 0):
        with urllib.request.urlopen(f"{server.url}/metrics") as response:
            left = float(re.search(rb"\ninception_tf_requests_in_flight (\S+)", response.read())[1])
        if not left:
            break
        time.sleep(0.1)
    return {"left": left, "answered": answered}


async def stopped(server, clients, seconds=1):
    """SIGTERM under load, half of the clients with a connection for each request. A refused one was not accepted.

    Returns:
        A dict: answered; lost, what became of the requests that were accepted and not answered right.
    """
    url, bodies, lost, answered = f"{server.model}:predict", list(map(files, FILES)), [], 0
    connectors = [aiohttp.TCPConnector(limit=0, force_close=close) for close in (False, True)]
    async with (
        aiohttp.ClientSession(connector=connectors[0]) as kept,
        aiohttp.ClientSession(connector=connectors[1]) as new,
    ):
        expected = [await post(kept, url, body) for body in bodies]

        async def client(number):
            nonlocal answered
            session = (kept, new)[number % 2]
            for i in itertools.count(number):
                try:
                    answer = await post(session, url, bodies[i % len(bodies)])
                except aiohttp.ClientConnectorError:
                    return
                except (aiohttp.ClientError, OSError) as error:
                    answer = 0, repr(error)
                answered += 1
                if not same(answer, expected[i % len(bodies)]):
                    lost.append(f"{answer!s:.200}")

        running = [asyncio.create_task(client(number)) for number in range(clients)]
        await asyncio.sleep(seconds)
        server.stop()
        await asyncio.gather(*running)
    return {"answered": answered, "lost": lost}


def png(width, height):
    """A PNG of one color: a few hundred kilobytes for gigabytes of pixels. It ends after 2,000 rows."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + 3 * width)) for _ in range(min(height, 2000))) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def gif(side, frames):
    """A GIF of many frames of one color."""
    from PIL import Image

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
    kinds = itertools.cycle(kind for kind in malformed_requests() if server.local or kind[0] != "too many rows")

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
            if i % max(count // huge, 1) == 0 and server.local:
                async with lock:  # so that the clients' own memory stays bounded
                    await ask("100 MB", ":predict", bytes(100 * 2**20), 413)
            else:
                await ask(*next(kinds))
            if i % 10 == 0:
                answer, good = await post(session, f"{server.model}:predict", files(*FILES)), good + 1
                if not same(answer, right):
                    wrong.append(f"a good request: {answer!s:.200}")

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as session:
        right = await post(session, f"{server.model}:predict", files(*FILES))
        await asyncio.gather(*(client() for _ in range(concurrency)))
    return {"bad": count, "good": good, "wrong": wrong}


def lenet(base):
    """Exports a LeNet that tells images apart, as the first version of `base`."""
    model, generator = create_model("lenet", classes=10), np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(generator.normal(0, 0.1, variable.shape))
    return export_savedmodel(model, base, batch=(1, 8, 32), check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15, help="a measurement (15)")
    parser.add_argument("--requests", type=int, default=10_000, help="that are malformed (10000)")
    parser.add_argument("--swaps", type=int, default=5, help="of versions (5)")
    parser.add_argument("--killed", type=int, default=1000, help="clients (1000)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        if "TF_SERVING_URL" in os.environ:
            server = Remote()
        else:
            base = Path(scratch, "digits")
            lenet(base)
            server = stack.enter_context(Server(base))
        print("| clients | requests/s | p50 ms | p99 ms | failures |\n|---:|---:|---:|---:|---:|")
        for clients in (1, 8, 64):
            found = asyncio.run(load(server, clients, asyncio.sleep(args.seconds)))
            numbers = f"{found['rate']:.1f} | {found['p50']:.0f} | {found['p99']:.0f} | {len(found['failures'])}"
            print(f"| {clients} | {numbers} |", flush=True)
        found = asyncio.run(load(server, 64, swap(server, args.swaps)))
        print(f"\n{args.swaps} new versions under 64 clients: {found['requests']} requests, ", end="")
        print(f"{len(found['failures'])} failed {found['failures'][:3] or ''}", flush=True)
        found = killed(server, args.killed)
        print(f"{args.killed} clients killed: {found['left']:.0f} requests left over, ", end="")
        print(f"answers afterwards: {found['answered']}", flush=True)
        for done in range(0, args.requests, 2000):
            if server.local:
                print(f"after {done} malformed requests: {server.memory():.0f} MB", flush=True)
            found = asyncio.run(malformed(server, min(2000, args.requests - done), huge=2))
            print(f"{found['bad']} and {found['good']} good ones: {len(found['wrong'])} answered wrongly")
            print("\n".join(found["wrong"][:20]), end="")
        if server.local:
            print(f"at the end {server.memory():.0f} MB, at most {server.memory('VmHWM'):.0f} MB")
            found = asyncio.run(stopped(server, 64))
            print(f"SIGTERM under 64 clients: {found['answered']} answered, {len(found['lost'])} lost")


if __name__ == "__main__":
    main()
