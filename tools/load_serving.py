"""How the local server bears load and faults, on loopback: rates, latencies, lost requests, memory, as Markdown.

    python tools/load_serving.py [BASE]

BASE is the directory of an exported model's versions; without one a full-size Inception-v3 with random weights is
exported. Requests per second and latencies are measured on it, with and without batching, beside the bare network.
The faults are played on a LeNet, which answers fast enough for many of them: 64 clients while versions swap, clients
that are killed in the middle of a request, and malformed requests of every kind with good ones among them.
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
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

MEGABYTE = 2**20


class Server:
    """`inception-tf serve` in a process of its own, on free ports; its memory is watched. A context manager.

    Attributes:
        url, port, grpc: where it answers. peak: the most megabytes of memory it was seen with.
    """

    def __init__(self, directory, *options):
        self.command = [sys.executable, "-m", "inception_tf", "serve", str(directory), "--engine", "local", "--json"]
        self.command += ["--port", "0", "--grpc-port", "0", "--poll", "0.2", *options]

    def __enter__(self):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"The server did not start: {self.log.read()}")
        facts = json.loads(line)
        self.port, self.grpc = facts["port"], f"127.0.0.1:{facts['grpc_port']}"
        self.url = f"http://127.0.0.1:{self.port}"
        self.peak, self.watching = self.memory(), True
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.watching = False
        self.process.send_signal(signal.SIGTERM)
        self.code = self.process.wait(60)

    def memory(self):
        """Its memory in megabytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE

    def _watch(self):
        while self.watching:
            with contextlib.suppress(OSError, IndexError):
                self.peak = max(self.peak, self.memory())
            time.sleep(0.05)


def encoded(data):
    return {"b64": base64.b64encode(data).decode()}


def image_body(*files):
    return json.dumps({"signature_name": "predict_image_bytes", "instances": list(map(encoded, files))}).encode()


def bare(version, files, seconds, batches=(1, 8, 32)):
    """Images per second of predict_image_bytes in a loop in this process, by batch size."""
    from inception_tf.serving.servable import Servable

    servable, rates = Servable(version), {}
    for batch in batches:
        inputs = {"image_bytes": np.array([files[i % len(files)] for i in range(batch)], object)}
        servable.run("predict_image_bytes", inputs)
        start, runs = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            servable.run("predict_image_bytes", inputs)
            runs += 1
        rates[batch] = runs * batch / (time.perf_counter() - start)
    servable.close()
    return rates


async def throughput(url, model, files, concurrency, seconds):
    """Requests of one image each from `concurrency` clients, each of which waits for its answer.

    Returns:
        A dict: rate a second, p50 and p99 in milliseconds, failures.
    """
    import aiohttp

    bodies = itertools.cycle([image_body(data) for data in files])
    times, failures = [], 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(end):
            nonlocal failures
            while time.perf_counter() < end:
                start = time.perf_counter()
                async with session.post(f"{url}/v1/models/{model}:predict", data=next(bodies)) as response:
                    await response.read()
                    failures += response.status != 200
                times.append(time.perf_counter() - start)

        await asyncio.gather(*(client(time.perf_counter() + min(2, seconds)) for _ in range(concurrency)))  # warm
        times.clear()
        start = time.perf_counter()
        await asyncio.gather(*(client(start + seconds) for _ in range(concurrency)))
        elapsed = time.perf_counter() - start
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
    return {
        "rate": len(times) / elapsed,
        "p50": 1000 * cuts[49],
        "p99": 1000 * cuts[98],
        "failures": failures,
        "requests": len(times),
    }


async def swaps(server, base, files, count, clients=64):
    """`clients` ask without pause while `count` new versions come, each a copy of the first, and old ones go.

    Returns:
        A dict: requests, failures (of any kind, wrong answers too), the last version that answers.
    """
    import aiohttp

    model, first = base.name, min(base.iterdir(), key=lambda path: path.name)
    bodies = [image_body(data) for data in files]
    total, failures, done = 0, [], False
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(body):
            async with session.post(f"{server.url}/v1/models/{model}:predict", data=body) as response:
                return response.status, await response.json(loads=json.loads)

        right = [await ask(body) for body in bodies]

        async def client(i):
            nonlocal total
            for which in itertools.cycle(range(i % len(bodies), i % len(bodies) + len(bodies))):
                if done:
                    return
                which %= len(bodies)
                total += 1
                try:
                    answer = await ask(bodies[which])
                    if not same(answer, right[which]):
                        failures.append(str(answer)[:200])
                except (aiohttp.ClientError, OSError) as error:
                    failures.append(repr(error)[:200])

        async def versions():
            async with session.get(f"{server.url}/v1/models/{model}") as response:
                entries = (await response.json())["model_version_status"]
                return {int(entry["version"]): entry["state"] for entry in entries}

        running = [asyncio.create_task(client(i)) for i in range(clients)]
        for number in range(2, count + 2):
            part = base.parent / f".{number}"
            await asyncio.to_thread(shutil.copytree, first, part)
            part.rename(base / str(number))
            while (await versions()).get(number) != "AVAILABLE":
                await asyncio.sleep(0.05)
        while list((await versions()).values()).count("AVAILABLE") > 1:
            await asyncio.sleep(0.05)
        done = True
        await asyncio.gather(*running)
        last = max(number for number, state in (await versions()).items() if state == "AVAILABLE")
    return {"requests": total, "failures": failures, "swaps": count, "last": last}


def same(answer, right):
    """Whether two answers are the same but for rounding: a batch of another size rounds otherwise."""
    if answer[0] != right[0] or answer[0] != 200:
        return False
    for one, other in zip(answer[1]["predictions"], right[1]["predictions"], strict=True):
        if one["status"] != other["status"] or not np.allclose(
            one["scores"], other["scores"], rtol=1e-3, equal_nan=True
        ):
            return False
        clear = np.abs(np.diff(other["scores"])).min(initial=1) > 1e-3
        if clear and one["classes"] != other["classes"]:
            return False
    return True


async def killed(server, model, files, count):
    """`count` clients that break off: after part of a request, or while its answer is under way.

    Returns:
        A dict: how many; REST requests that still count as under way afterwards; whether a good request is answered.
    """
    import aiohttp

    linger = struct.pack("ii", 1, 0)
    body = image_body(*files)
    head = f"POST /v1/models/{model}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    message = head + body
    generator = random.Random(0)

    async def kill():
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(message[: generator.choice([10, len(head), len(message) // 2, len(message)])])
        with contextlib.suppress(OSError):
            await writer.drain()
        await asyncio.sleep(generator.uniform(0, 0.02))
        # No goodbye: a reset, as of a client that died.
        writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    for start in range(0, count, 64):
        await asyncio.gather(*(kill() for _ in range(min(64, count - start))))
    await asyncio.sleep(1)
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{server.url}/v1/models/{model}:predict", data=image_body(files[0])) as response:
            answered = response.status == 200
        async with session.get(f"{server.url}/metrics") as response:
            lines = (await response.text()).splitlines()
    left = next(float(line.split()[1]) for line in lines if line.startswith("inception_tf_requests_in_flight "))
    return {"killed": count, "left": left, "answered": answered}


def png(width, height):
    """A PNG of one colour: a few hundred kilobytes for gigabytes of pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + 3 * width)) for _ in range(min(height, 2000))) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def gif(side, frames):
    """A GIF of many frames of one colour."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("P", (side, side)).save(file, "GIF")
    data = file.getvalue()
    frame = data[data.index(b",") : -1]
    return data[:-1] + frames * frame + b";"


def malformed_rest(files):
    """Requests that are wrong, endlessly, a kind after the other: (kind, method, path, body, statuses that are right).

    Of an image that cannot be read the status is 200, and the element's own status tells.
    """
    image = np.zeros((28, 28, 1)).tolist()
    generator = np.random.default_rng(0)
    signature = {"signature_name": "predict_image_bytes"}
    predict, bad, missing = ":predict", {400}, {404}
    kinds = [
        ("empty", predict, b"", bad),
        ("no JSON", predict, b"{'a': 1}", bad),
        ("nested", predict, b"[" * 200_000, bad),
        ("nested in instances", predict, b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}", bad),
        ("no object", predict, b"[1, 2]", bad),
        ("no inputs", predict, {}, bad),
        ("both forms", predict, {"instances": [image], "inputs": [image]}, bad),
        ("dtype", predict, {"instances": [[[["a"]] * 28] * 28]}, bad),
        ("null", predict, {"instances": [[[[None]] * 28] * 28]}, bad),
        ("shape", predict, {"instances": [image[:20]]}, bad),
        ("ragged", predict, {"instances": [image, image[1:]]}, bad),
        ("name", predict, {"instances": [{"pictures": image}]}, bad),
        ("signature", predict, {"signature_name": "nothing", "instances": [image]}, bad),
        ("signature's type", predict, {"signature_name": [], "instances": [image]}, bad),
        ("base64", predict, {**signature, "instances": [{"b64": "@@@"}]}, bad),
        ("base64's length", predict, {**signature, "instances": [{"b64": "abc"}]}, bad),
        ("bytes' rank", predict, {**signature, "instances": [[encoded(b"x")]]}, bad),
        ("too many rows", predict, {**signature, "instances": [""] * 5000}, bad),
        ("digits", predict, b'{"instances": ' + b"9" * 10_000 + b"}", bad),
        ("UTF-8", predict, b'{"instances": ["\xff\xfe"]}', bad),
        ("examples", ":classify", {"signature_name": "classify", "examples": [1]}, bad),
        ("no examples", ":classify", {"signature_name": "classify"}, bad),
        ("classify's signature", ":classify", {"examples": [{}]}, bad),
        ("version", "/versions/99:predict", {"instances": [image]}, missing),
        ("label", "/labels/nothing:predict", {"instances": [image]}, bad),
        ("verb", ":explain", {"instances": [image]}, bad),
        ("model", "-nothing:predict", {"instances": [image]}, missing),
        ("regress", ":regress", {}, {501}),
        ("broken JPEG", predict, image_body(files[0][:100]), {200}),
        ("PNG bomb", predict, image_body(png(50_000, 50_000)), {200}),
        ("PNG that ends early", predict, image_body(png(5000, 6000)), {200}),
        ("GIF bomb", predict, image_body(gif(4000, 200)), {200}),
    ]
    kinds = [
        (kind, path, body if isinstance(body, bytes) else json.dumps(body).encode(), right)
        for kind, path, body, right in kinds
    ]
    for i in itertools.count():
        yield kinds[i % len(kinds)]
        if i % 8 == 0:
            yield "noise", predict, generator.bytes(int(generator.integers(1, 5000))), bad


def malformed_grpc(model):
    """Messages that are wrong, endlessly: (kind, method, bytes, codes that are right)."""
    import tensorflow as tf
    from google.protobuf import text_format
    from tensorflow_serving.apis import classification_pb2, predict_pb2

    def message(signature="serving_default", name=model, **inputs):
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = name, signature
        for key, value in inputs.items():
            if isinstance(value, str):
                text_format.Parse(value, request.inputs[key])
            else:
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        return request.SerializeToString()

    shape = "tensor_shape { dim { size: %d } dim { size: 28 } dim { size: 28 } dim { size: 1 } }"
    zeros = np.zeros((1, 28, 28, 1), "float32")
    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.name, classify.model_spec.signature_name = model, "classify"
    wrong, predict = {"INVALID_ARGUMENT"}, "Predict"
    kinds = [
        ("no message", predict, b"\xff\xff\xff", wrong),
        ("nothing", predict, b"", wrong),
        ("dtype", predict, message(images=np.zeros((1, 28, 28, 1))), wrong),
        ("strings", predict, message(images=[b"x"]), wrong),
        ("shape", predict, message(images=zeros[:, 1:]), wrong),
        ("rank", predict, message(images=zeros[0]), wrong),
        ("content", predict, message(images=f"dtype: DT_FLOAT {shape % 1} tensor_content: 'short'"), wrong),
        ("broadcast", predict, message(images=f"dtype: DT_FLOAT {shape % 10**12} float_val: 1"), wrong),
        ("negative", predict, message(images=f"dtype: DT_FLOAT {shape % -5} float_val: 1"), wrong),
        ("unknown dtype", predict, message(images=f"dtype: 99 {shape % 1}"), wrong),
        ("input", predict, message(pictures=zeros), wrong),
        ("two inputs", predict, message(images=zeros, more=zeros), wrong),
        ("signature", predict, message("nothing", images=zeros), wrong),
        ("model", predict, message(name="nothing", images=zeros), {"NOT_FOUND"}),
        ("no examples", "Classify", classify.SerializeToString(), wrong),
        ("no example", "Classify", b"\n\x03abc", wrong),
        ("metadata", "GetModelMetadata", b"", wrong),
        ("method", "Explain", b"", {"UNIMPLEMENTED"}),
    ]
    yield from itertools.cycle(kinds)


async def malformed(server, model, files, count, huge=10, concurrency=16):
    """`count` malformed requests, a fourth of them by gRPC, and a good one after every tenth, `concurrency` at once.

    Args:
        huge: how many bodies and messages of 100 MB are among them.

    Returns:
        A dict: bad, good; wrong: those that were not refused as they should be, or whose good answer was not right;
        memory: megabytes before, at the end and at most.
    """
    import aiohttp
    import grpc

    wrong, good, before = [], 0, server.memory()
    server.peak = before
    path = f"{server.url}/v1/models/{model}"
    every_rest, every_grpc, lock = malformed_rest(files), malformed_grpc(model), asyncio.Semaphore(2)
    channel = grpc.aio.insecure_channel(server.grpc, [("grpc.max_send_message_length", -1)])

    async def by_rest(session, kind, where, body, right):
        try:
            async with session.post(path + where, data=body) as response:
                answer = await response.json(loads=json.loads)
                status = response.status
        except aiohttp.ClientError as error:  # of a body that is refused before it is read
            status, answer = (413, {"error": ""}) if 413 in right else (0, {"error": repr(error)})
        refused = status in right and ("error" in answer if status != 200 else is_told(kind, answer))
        if not refused:
            wrong.append(f"REST, {kind}: {status} {str(answer)[:200]}")

    async def by_grpc(kind, method, data, right):
        call = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
        try:
            await call(data)
            wrong.append(f"gRPC, {kind}: answered")
        except grpc.aio.AioRpcError as error:
            if error.code().name not in right:
                wrong.append(f"gRPC, {kind}: {error.code().name} {error.details()[:200]}")

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as session:

        async def ask():
            async with session.post(f"{path}:predict", data=image_body(*files)) as response:
                return response.status, await response.json(loads=json.loads)

        right = await ask()

        async def one(i):
            nonlocal good
            if i % max(count // huge, 1) == 0:
                async with lock:  # so that the clients' own memory stays bounded
                    if i % 2:
                        await by_grpc("100 MB", "Predict", bytes(100 * MEGABYTE), {"RESOURCE_EXHAUSTED"})
                    else:
                        await by_rest(session, "100 MB", ":predict", bytes(100 * MEGABYTE), {413})
            elif i % 4 == 0:
                await by_grpc(*next(every_grpc))
            else:
                await by_rest(session, *next(every_rest))
            if i % 10 == 0:
                answer = await ask()
                good += 1
                if not same(answer, right):
                    wrong.append(f"a good request: {str(answer)[:200]}")

        numbers = iter(range(1, count + 1))

        async def client():
            for i in numbers:
                await one(i)

        await asyncio.gather(*(client() for _ in range(concurrency)))
    await channel.close()
    memory = {"before": before, "after": server.memory(), "peak": server.peak}
    return {"bad": count, "good": good, "wrong": wrong, "memory": memory}


def is_told(kind, answer):
    """Whether the element says why it was not read. Of a GIF the first frame is read, whatever follows."""
    (row,) = answer["predictions"]
    return (row["status"] == "") == (kind == "GIF bomb")


def lenet(base):
    """Exports a LeNet that tells images apart, as the first version of `base`."""
    from inception_tf.export.savedmodel import export_savedmodel
    from inception_tf.zoo import create_model

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
    from inception_tf.export.savedmodel import export_savedmodel
    from inception_tf.export.warmup import jpegs
    from inception_tf.quiet import start_keras
    from inception_tf.serving.models import versions_in
    from inception_tf.zoo import create_model

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that its servers end with it
    start_keras()
    files = jpegs()
    with tempfile.TemporaryDirectory() as scratch:
        base = args.base
        if base is None:
            base = Path(scratch, "speed/inception_v3")
            export_savedmodel(create_model("inception_v3"), base, check=False)
        version = base / str(max(versions_in(base)))
        with ThreadPoolExecutor(1) as pool:  # the session's threads go with it
            rates = pool.submit(bare, version, files, args.seconds).result()
        print("| bare network | images/s |\n|---|---:|")
        for batch, rate in rates.items():
            print(f"| batch {batch} | {rate:.1f} |")
        print("\n| batching | clients | requests/s | p50 ms | p99 ms | failures |\n|---|---:|---:|---:|---:|---:|")
        for name, options in {"with": (), "without": ("--no-batching",)}.items():
            with Server(base, *options) as server:
                for clients in (1, 8, 64):
                    found = asyncio.run(throughput(server.url, base.name, files, clients, args.seconds))
                    print(
                        f"| {name} | {clients} | {found['rate']:.1f} | {found['p50']:.0f} | {found['p99']:.0f} "
                        f"| {found['failures']} |",
                        flush=True,
                    )
        base = Path(scratch, "faults/digits")
        lenet(base)
        with Server(base) as server:
            found = asyncio.run(swaps(server, base, files, args.swaps))
            print(f"\n{found['swaps']} swaps under 64 clients: {found['requests']} requests, ", end="")
            print(f"{len(found['failures'])} failed {found['failures'][:3] or ''}", flush=True)
            found = asyncio.run(killed(server, base.name, files, args.killed))
            print(f"{found['killed']} clients killed: {found['left']:.0f} requests left over, ", end="")
            print(f"answers afterwards: {found['answered']}", flush=True)
            start = time.perf_counter()
            found = asyncio.run(malformed(server, base.name, files, args.requests))
            memory = ", ".join(f"{name} {megabytes:.0f}" for name, megabytes in found["memory"].items())
            print(
                f"{found['bad']} malformed and {found['good']} good requests in {time.perf_counter() - start:.0f} s: "
            )
            print(f"{len(found['wrong'])} answered wrongly; the server's memory in MB: {memory}")
            print("\n".join(found["wrong"][:20]))
        print(f"stopped with {server.code}")


if __name__ == "__main__":
    main()
