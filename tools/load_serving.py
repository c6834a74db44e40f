"""How the local server bears load and faults, on loopback: rates, latencies, lost requests, memory, as Markdown.

    python tools/load_serving.py [BASE]

BASE is the directory of an exported model's versions; without one a full-size Inception-v3 with random weights is
exported. The faults are played on a LeNet: 64 clients while versions swap, clients that are killed in the middle of a
request, and malformed requests of every kind with good ones among them.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import itertools
import json
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import aiohttp
import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from inception_tf.exports.savedmodel import export_savedmodel
from inception_tf.exports.serving_files import jpegs
from inception_tf.zoo import create_model

MEGABYTE = 2**20
FILES = jpegs()


class Server:
    """`inception-tf serve` of a model in a process of its own, on free ports. A context manager."""

    def __init__(self, base, *options):
        self.base = base
        self.command = [sys.executable, "-m", "inception_tf", "serve", str(base), "--engine", "local", "--json"]
        self.command += ["--port", "0", "--grpc-port", "0", "--poll", "0.2", *options]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        facts = json.loads(self.process.stdout.readline())
        self.port, self.grpc = facts["port"], f"127.0.0.1:{facts['grpc_port']}"
        self.url = f"http://127.0.0.1:{self.port}"
        self.model = f"{self.url}/v1/models/{self.base.name}"
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.code = self.process.wait(60)

    def memory(self, which="VmRSS"):
        """Its memory in megabytes now, or the most so far, "VmHWM"."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{which}:\s+(\d+)", status)[1]) / 1024


def encoded(data):
    return {"b64": base64.b64encode(data).decode()}


def image_body(*files):
    return json.dumps({"signature_name": "predict_image_bytes", "instances": list(map(encoded, files))}).encode()


async def post(session, url, body):
    async with session.post(url, data=body) as response:
        return response.status, await response.json(loads=json.loads)


async def throughput(server, clients, seconds):
    """Requests of one image each from clients that wait for their answers.

    Returns:
        A dict: requests, failures, rate a second, p50 and p99 in milliseconds.
    """
    bodies, times, failures = itertools.cycle(map(image_body, FILES)), [], 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        start = time.perf_counter()

        async def client():
            nonlocal failures
            sent = start
            while sent < start + seconds:  # at least once
                sent = time.perf_counter()
                status, _ = await post(session, f"{server.model}:predict", next(bodies))
                failures += status != 200
                times.append(time.perf_counter() - sent)

        await asyncio.gather(*(client() for _ in range(clients)))
        rate = len(times) / (time.perf_counter() - start)
    cuts = statistics.quantiles(times, n=100)
    return {"requests": len(times), "failures": failures, "rate": rate, "p50": 1e3 * cuts[49], "p99": 1e3 * cuts[98]}


async def swaps(server, count, clients=64):
    """Clients ask without pause while new versions come, each a copy of the first.

    Returns:
        A dict: requests; failures, wrong answers too; the version that answers at the end.
    """
    total, failures, done, body = 0, [], False, image_body(*FILES)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        right = await post(session, f"{server.model}:predict", body)

        async def client():
            nonlocal total
            while not done:
                total += 1
                try:
                    answer = await post(session, f"{server.model}:predict", body)
                    if not same(answer, right):
                        failures.append(str(answer)[:200])
                except (aiohttp.ClientError, OSError) as error:
                    failures.append(repr(error)[:200])

        async def answering():
            async with session.get(server.model) as response:
                versions = (await response.json())["model_version_status"]
            return [int(version["version"]) for version in versions if version["state"] == "AVAILABLE"]

        running = [asyncio.create_task(client()) for _ in range(clients)]
        for number in range(2, count + 2):
            part = server.base.parent / f".{number}"
            await asyncio.to_thread(shutil.copytree, server.base / "1", part)
            part.rename(server.base / str(number))
            while await answering() != [number]:
                await asyncio.sleep(0.05)
        done = True
        await asyncio.gather(*running)
    return {"requests": total, "failures": failures, "last": number}


def same(answer, right):
    """Whether two answers are right and the same but for rounding."""
    if answer[0] != 200 or right[0] != 200:
        return False
    pairs = list(zip(answer[1]["predictions"], right[1]["predictions"], strict=True))
    scores = (np.allclose(one["scores"], other["scores"], rtol=1e-3, equal_nan=True) for one, other in pairs)
    return all(scores) and all(one["classes"] == other["classes"] for one, other in pairs)


async def killed(server, count):
    """Clients that break off: after part of a request, or while its answer is under way.

    Returns:
        A dict: requests that still count as under way afterwards; whether a good request is answered.
    """
    body, generator = image_body(*FILES), random.Random(0)
    head = f"POST /v1/models/{server.base.name}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    message = head.encode() + body

    async def kill():
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(message[: generator.choice([10, len(head), len(message) // 2, len(message)])])
        with contextlib.suppress(OSError):
            await writer.drain()
        await asyncio.sleep(generator.uniform(0, 0.02))
        # A reset, as of a client that died.
        reset = struct.pack("ii", 1, 0)
        writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.transport.abort()

    for start in range(0, count, 64):
        await asyncio.gather(*(kill() for _ in range(min(64, count - start))))
    async with aiohttp.ClientSession() as session:
        status, _ = await post(session, f"{server.model}:predict", body)
        for _ in range(100):
            async with session.get(f"{server.url}/metrics") as response:
                left = float(re.search(r"^inception_tf_requests_in_flight (\S+)", await response.text(), re.M)[1])
            if not left:
                break
            await asyncio.sleep(0.1)
    return {"left": left, "answered": status == 200}


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


def malformed_rest():
    """Wrong requests: (kind, path, body, the status that is right). An image that cannot be read is answered."""
    image = np.zeros((28, 28, 1)).tolist()
    noise = np.random.default_rng(0).bytes(5000)

    def files(*instances):
        return {"signature_name": "predict_image_bytes", "instances": list(instances)}

    return [
        ("empty", ":predict", b"", 400),
        ("noise", ":predict", noise, 400),
        ("no JSON", ":predict", b"{'a': 1}", 400),
        ("nested", ":predict", b"[" * 200_000, 400),
        ("nested in instances", ":predict", b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}", 400),
        ("no object", ":predict", [1, 2], 400),
        ("no inputs", ":predict", {}, 400),
        ("both forms", ":predict", {"instances": [image], "inputs": [image]}, 400),
        ("dtype", ":predict", {"instances": [[[["a"]] * 28] * 28]}, 400),
        ("null", ":predict", {"instances": [[[[None]] * 28] * 28]}, 400),
        ("shape", ":predict", {"instances": [image[:20]]}, 400),
        ("ragged", ":predict", {"instances": [image, image[1:]]}, 400),
        ("name", ":predict", {"instances": [{"pictures": image}]}, 400),
        ("signature", ":predict", {"signature_name": "nothing", "instances": [image]}, 400),
        ("signature's type", ":predict", {"signature_name": [], "instances": [image]}, 400),
        ("base64", ":predict", files({"b64": "@@@"}), 400),
        ("base64's length", ":predict", files({"b64": "abc"}), 400),
        ("bytes' rank", ":predict", files([encoded(b"x")]), 400),
        ("too many rows", ":predict", files(*[""] * 5000), 400),
        ("digits", ":predict", b'{"instances": ' + b"9" * 10_000 + b"}", 400),
        ("UTF-8", ":predict", b'{"instances": ["\xff\xfe"]}', 400),
        ("examples", ":classify", {"signature_name": "classify", "examples": [1]}, 400),
        ("no examples", ":classify", {"signature_name": "classify"}, 400),
        ("classify's signature", ":classify", {"examples": [{}]}, 400),
        ("version", "/versions/99:predict", {"instances": [image]}, 404),
        ("label", "/labels/nothing:predict", {"instances": [image]}, 400),
        ("verb", ":explain", {"instances": [image]}, 400),
        ("regress", ":regress", {}, 400),
        ("model", "-nothing:predict", {"instances": [image]}, 404),
        ("broken JPEG", ":predict", files(encoded(FILES[0][:100])), 200),
        ("PNG bomb", ":predict", files(encoded(png(50_000, 50_000))), 200),
        ("PNG that ends early", ":predict", files(encoded(png(5000, 6000))), 200),
        ("GIF bomb", ":predict", files(encoded(gif(4000, 200))), 200),
    ]


def malformed_grpc(model):
    """Wrong messages: (kind, method, bytes, the code that is right)."""

    def message(signature="serving_default", name=model, **inputs):
        request = PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = name, signature
        for key, value in inputs.items():
            if isinstance(value, str):
                text_format.Parse(value, request.inputs[key])
            else:
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        return request.SerializeToString()

    shape = "tensor_shape { dim { size: %d } dim { size: 28 } dim { size: 28 } dim { size: 1 } }"
    zeros = np.zeros((1, 28, 28, 1), "float32")
    return [
        ("no message", "Predict", b"\xff\xff\xff", "INVALID_ARGUMENT"),
        ("nothing", "Predict", b"", "INVALID_ARGUMENT"),
        ("dtype", "Predict", message(images=zeros.astype(float)), "INVALID_ARGUMENT"),
        ("strings", "Predict", message(images=[b"x"]), "INVALID_ARGUMENT"),
        ("shape", "Predict", message(images=zeros[:, 1:]), "INVALID_ARGUMENT"),
        ("rank", "Predict", message(images=zeros[0]), "INVALID_ARGUMENT"),
        ("content", "Predict", message(images=f"dtype: 1 {shape % 1} tensor_content: 'short'"), "INVALID_ARGUMENT"),
        ("broadcast", "Predict", message(images=f"dtype: 1 {shape % 10**12} float_val: 1"), "INVALID_ARGUMENT"),
        ("negative", "Predict", message(images=f"dtype: 1 {shape % -5} float_val: 1"), "INVALID_ARGUMENT"),
        ("unknown dtype", "Predict", message(images=f"dtype: 99 {shape % 1}"), "INVALID_ARGUMENT"),
        ("input", "Predict", message(pictures=zeros), "INVALID_ARGUMENT"),
        ("two inputs", "Predict", message(images=zeros, more=zeros), "INVALID_ARGUMENT"),
        ("signature", "Predict", message("nothing", images=zeros), "INVALID_ARGUMENT"),
        ("model", "Predict", message(name="nothing", images=zeros), "NOT_FOUND"),
        ("no examples", "Classify", message("classify"), "INVALID_ARGUMENT"),
        ("no example", "Classify", b"\n\x03abc", "INVALID_ARGUMENT"),
        ("metadata", "GetModelMetadata", b"", "INVALID_ARGUMENT"),
        ("method", "Explain", b"", "UNIMPLEMENTED"),
    ]


async def malformed(server, count, huge=10, concurrency=16):
    """Malformed requests, every fourth by gRPC, `huge` of them of 100 MB, and a good one after every tenth.

    Returns:
        A dict: bad, good; wrong: those that were not refused as they should be, or whose good answer was not right.
    """
    wrong, good, numbers, lock = [], 0, iter(range(1, count + 1)), asyncio.Semaphore(2)
    every_rest, every_grpc = itertools.cycle(malformed_rest()), itertools.cycle(malformed_grpc(server.base.name))

    async def by_rest(kind, path, body, right):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            status, answer = await post(session, server.model + path, body)
        except aiohttp.ClientError as error:  # a body that is refused before it was read
            status, answer = (413, {"error": ""}) if right == 413 else (0, repr(error))
        # The element itself says why it was not read; of a GIF the first frame is read, whatever follows.
        refused = (
            "error" in answer if right != 200 else bool(answer["predictions"][0]["status"]) == (kind != "GIF bomb")
        )
        if status != right or not refused:
            wrong.append(f"REST, {kind}: {status} {answer!s:.200}")

    async def by_grpc(kind, method, data, right):
        try:
            await channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")(data)
            wrong.append(f"gRPC, {kind}: answered")
        except grpc.aio.AioRpcError as error:
            if error.code().name != right:
                wrong.append(f"gRPC, {kind}: {error.code().name} {error.details():.200}")

    async def client():
        nonlocal good
        for i in numbers:
            if i % max(count // huge, 1) == 0:
                async with lock:  # so that the clients' own memory stays bounded
                    await by_rest("100 MB", ":predict", bytes(100 * MEGABYTE), 413)
                    await by_grpc("100 MB", "Predict", bytes(100 * MEGABYTE), "RESOURCE_EXHAUSTED")
            elif i % 4 == 0:
                await by_grpc(*next(every_grpc))
            else:
                await by_rest(*next(every_rest))
            if i % 10 == 0:
                answer, good = await post(session, f"{server.model}:predict", image_body(*FILES)), good + 1
                if not same(answer, right):
                    wrong.append(f"a good request: {answer!s:.200}")

    options = [("grpc.max_send_message_length", -1)]
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as session,
        grpc.aio.insecure_channel(server.grpc, options) as channel,
    ):
        right = await post(session, f"{server.model}:predict", image_body(*FILES))
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
    parser.add_argument("base", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=15, help="a measurement (15)")
    parser.add_argument("--requests", type=int, default=10_000, help="that are malformed (10000)")
    parser.add_argument("--swaps", type=int, default=5, help="of versions (5)")
    parser.add_argument("--killed", type=int, default=1000, help="clients (1000)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base = args.base
        if base is None:
            base = Path(scratch, "speed/inception_v3")
            export_savedmodel(create_model("inception_v3"), base, check=False)
        print("| clients | requests/s | p50 ms | p99 ms | failures |\n|---:|---:|---:|---:|---:|")
        with Server(base) as server:
            for clients in (1, 8, 64):
                asyncio.run(throughput(server, clients, 2))
                found = asyncio.run(throughput(server, clients, args.seconds))
                numbers = f"{found['rate']:.1f} | {found['p50']:.0f} | {found['p99']:.0f} | {found['failures']}"
                print(f"| {clients} | {numbers} |", flush=True)
        base = Path(scratch, "faults/digits")
        lenet(base)
        with Server(base) as server:
            found = asyncio.run(swaps(server, args.swaps))
            print(f"\n{args.swaps} swaps under 64 clients: {found['requests']} requests, ", end="")
            print(f"{len(found['failures'])} failed {found['failures'][:3] or ''}", flush=True)
            found = asyncio.run(killed(server, args.killed))
            print(f"{args.killed} clients killed: {found['left']:.0f} requests left over, ", end="")
            print(f"answers afterwards: {found['answered']}", flush=True)
            before, found = server.memory(), asyncio.run(malformed(server, args.requests))
            print(
                f"{found['bad']} malformed and {found['good']} good requests: {len(found['wrong'])} answered wrongly;"
            )
            peak = server.memory("VmHWM")
            print(f"the server's memory in MB: before {before:.0f}, after {server.memory():.0f}, at most {peak:.0f}")
            print("\n".join(found["wrong"][:20]))
        print(f"stopped with {server.code}")


if __name__ == "__main__":
    main()
