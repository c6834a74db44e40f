"""A small helping of the faults and the load that tools/load_serving.py serves."""

import asyncio

import load_serving as tool
import pytest

pytestmark = pytest.mark.slow  # a server in a process of its own


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("models") / "digits"
    tool.lenet(base)
    return base


def test_malformed_requests(base):
    """Another round needs no more memory than the first, and the server has what it had before them."""
    with tool.Server(base) as server:
        start = server.memory()
        found = asyncio.run(tool.malformed(server, 200, huge=2))
        assert found["wrong"] == [] and found["good"] == 20
        before = server.memory()
        asyncio.run(tool.malformed(server, 200, huge=2))
        assert server.memory() - before < 100  # MB: one such body that is kept would be seen
        assert server.memory() - start < 300  # of images of 90 MB, several at once, in float32 too


def test_sigterm_under_load_loses_no_accepted_request(base):
    with tool.Server(base) as stopping:
        found = asyncio.run(tool.stopped(stopping, 16))
    assert found["wrong"] == [] and found["answered"] > 16 and stopping.code == 0
