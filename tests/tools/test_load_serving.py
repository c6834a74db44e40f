"""A small helping of the load and the faults that tools/load_serving.py serves."""

import asyncio
import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # a server in a process of its own


@pytest.fixture(scope="module")
def tool():
    path = Path(__file__).resolve().parents[2] / "tools" / "load_serving.py"
    spec = importlib.util.spec_from_file_location("load_serving", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(tool, tmp_path_factory):
    base = tmp_path_factory.mktemp("models") / "digits"
    tool.lenet(base)
    with tool.Server(base) as server:
        yield server
    assert server.code == 0


@pytest.mark.parametrize("clients", [1, 8, 64])
def test_load(tool, server, clients):
    found = asyncio.run(tool.load(server, clients, asyncio.sleep(1)))
    assert found["requests"] >= clients and found["failures"] == [] and found["p50"] <= found["p99"]


def test_64_clients_while_versions_swap(tool, server):
    found = asyncio.run(tool.load(server, 64, tool.swap(server, 1)))
    assert found["failures"] == [] and found["requests"] > 64


def test_killed_clients(tool, server):
    assert tool.killed(server, 128) == {"left": 0, "answered": True}


def test_malformed_requests(tool, server):
    """Another round needs no more memory than the first, and the server has what it had before them."""
    with tool.Server(server.base) as server:
        start = server.memory()
        found = asyncio.run(tool.malformed(server, 200, huge=2))
        assert found["wrong"] == [] and found["good"] == 20
        before = server.memory()
        asyncio.run(tool.malformed(server, 200, huge=2))
        assert server.memory() - before < 100  # MB: one such body that is kept would be seen
        assert server.memory() - start < 300  # of images of 90 MB, several at once, in float32 too


def test_sigterm_under_load_loses_no_accepted_request(tool, server):
    with tool.Server(server.base) as stopping:
        found = asyncio.run(tool.stopped(stopping, 16))
    assert found["lost"] == [] and found["answered"] > 16 and stopping.code == 0
