import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from inception_tf.serving.batching import Batcher
from inception_tf.serving.refusal import Refusal


class Network:
    """Doubles its rows, when it is let; remembers the batches."""

    def __init__(self, held=False):
        self.batches, self.go = [], threading.Event()
        if not held:
            self.go.set()

    def __call__(self, inputs):
        self.go.wait(60)
        self.batches.append(len(inputs["x"]))
        if (inputs["x"] < 0).any():
            raise Refusal("INVALID_ARGUMENT", "below 0")
        return {"y": 2 * inputs["x"]}


def play(network, scene, **options):
    """Runs a coroutine function of a batcher."""

    async def run():
        with ThreadPoolExecutor() as executor:
            try:
                return await scene(Batcher(network, executor, **{"timeout": 0.02, **options}))
            finally:
                network.go.set()

    return asyncio.run(run())


def rows(*values):
    return {"x": np.array(values, float)}


def test_calls_that_come_together_share_a_batch():
    network = Network()

    async def scene(batcher):
        return await asyncio.gather(*(batcher(rows(*range(i))) for i in range(1, 5)))

    for i, outputs in enumerate(play(network, scene), 1):
        assert outputs["y"].tolist() == [2 * x for x in range(i)]
    assert network.batches == [10]


def test_a_batch_is_never_larger_than_the_most_and_a_larger_call_is_cut_up():
    network = Network()

    async def scene(batcher):
        return await asyncio.gather(batcher(rows(*range(10))), batcher(rows(1, 2, 3)), batcher(rows(7, 8)))

    ten, three, two = play(network, scene, most=4)
    assert (
        ten["y"].tolist() == list(range(0, 20, 2))
        and three["y"].tolist() == [2, 4, 6]
        and two["y"].tolist() == [14, 16]
    )
    assert max(network.batches) <= 4 and sum(network.batches) == 15


def test_batches_grow_while_all_threads_are_busy():
    network = Network(held=True)

    async def scene(batcher):
        first = asyncio.ensure_future(batcher(rows(0)))
        await asyncio.sleep(0.1)  # it runs, and is held
        others = [asyncio.ensure_future(batcher(rows(i))) for i in range(1, 20)]
        await asyncio.sleep(0.1)
        network.go.set()
        await asyncio.gather(first, *others)

    play(network, scene, timeout=0.001)
    assert network.batches == [1, 19]


def test_filled_up_to_a_size():
    network = Network()

    async def scene(batcher):
        return await asyncio.gather(batcher(rows(1, 2)), batcher(rows(3)))

    a, b = play(network, scene, sizes=[1, 8])
    assert a["y"].tolist() == [2, 4] and b["y"].tolist() == [6] and network.batches == [8]


def test_a_lone_call_waits_no_longer_than_the_timeout():
    async def scene(batcher):
        start = time.monotonic()
        await batcher(rows(1))
        return time.monotonic() - start

    assert 0.2 <= play(Network(), scene, timeout=0.2) < 30


def test_rows_of_other_shapes_run_apart():
    network = Network()

    async def scene(batcher):
        return await asyncio.gather(batcher({"x": np.ones((2, 3))}), batcher({"x": np.ones((1, 5))}))

    a, b = play(network, scene)
    assert a["y"].shape == (2, 3) and b["y"].shape == (1, 5) and sorted(network.batches) == [1, 2]


def test_no_rows():
    async def scene(batcher):
        return await batcher({"x": np.ones((0, 3))})

    assert play(Network(), scene, sizes=[4])["y"].shape == (0, 3)


def test_one_that_fails_does_not_fail_the_others():
    async def scene(batcher):
        calls = (batcher(rows(1)), batcher(rows(-1)), batcher(rows(2)))
        return await asyncio.gather(*calls, return_exceptions=True)

    one, bad, two = play(Network(), scene)
    assert one["y"] == [2] and two["y"] == [4] and isinstance(bad, Refusal)


def test_a_full_queue_refuses():
    network = Network(held=True)

    async def scene(batcher):
        calls = [asyncio.ensure_future(batcher(rows(i))) for i in range(10)]
        await asyncio.sleep(0.1)
        with pytest.raises(Refusal, match="queue.*full") as error:
            await batcher(rows(1, 2, 3))
        assert error.value.code == "UNAVAILABLE"
        network.go.set()
        assert len(await asyncio.gather(*calls)) == 10

    play(network, scene, most=1, queue=10, timeout=0)


def test_what_is_cancelled_does_not_run():
    network = Network(held=True)

    async def scene(batcher):
        calls = [asyncio.ensure_future(batcher(rows(i))) for i in range(5)]
        await asyncio.sleep(0.1)  # the first runs
        for call in calls[1:4]:
            call.cancel()
        network.go.set()
        await asyncio.gather(*calls, return_exceptions=True)
        assert calls[4].result()["y"] == [8]

    play(network, scene, most=1, timeout=0)
    assert network.batches == [1, 1]


def test_without_merging():
    network = Network()

    async def scene(batcher):
        await asyncio.gather(batcher(rows(*range(10))), batcher(rows(1)), batcher(rows(2)))

    play(network, scene, merge=False, most=4)
    assert sorted(network.batches) == [1, 1, 2, 4, 4]
