"""Dynamic batching: requests that wait for the same network run as one batch."""

import asyncio
import collections
import time

import numpy as np

from inception_tf.serving.refusal import Refusal


class Batcher:
    """Merges calls of one signature of one version. To be called in one event loop.

    A batch starts when it is full, or when its oldest call has waited `timeout`, and a thread is free; while none is,
    calls gather, so that batches grow with the load. Only calls whose rows have the same shape share a batch. Where a
    batch fails, its calls are run one by one, so that none fails for another.

    Args:
        run: the function from a dict of arrays to a dict of arrays with as many rows each. It runs in `executor`.
        executor: the threads.
        threads: how many batches run at once.
        most: the most rows of a batch; a larger call is cut up.
        sizes: the sizes that batches are filled up to, by repeating the first row, or None.
        timeout: seconds.
        queue: the most rows that wait.
        observe: is told every batch's rows.
        merge: whether calls share batches at all; where not, large ones are cut up and the queue is kept nevertheless.
    """

    def __init__(
        self, run, executor, threads=1, most=32, sizes=None, timeout=0.002, queue=4096, observe=None, merge=True
    ):
        self.run, self.executor, self.threads, self.merge = run, executor, threads, merge
        self.most, self.sizes, self.timeout, self.queue = most, sizes or (), timeout, queue
        self.observe = observe or (lambda rows: None)
        self.waiting, self.tasks, self.timer = collections.deque(), set(), None

    async def __call__(self, inputs):
        """The outputs of inputs, both dicts of arrays with a row an example.

        Raises:
            Refusal: too many wait; what `run` raises.
        """
        rows = _rows(inputs)
        if rows + sum(call.rows for call in self.waiting) > self.queue:
            raise Refusal("UNAVAILABLE", "The batch scheduling queue to which this task was submitted is full")
        starts = range(0, max(rows, 1), self.most)
        outputs = await asyncio.gather(
            *(self._one({key: array[i : i + self.most] for key, array in inputs.items()}) for i in starts)
        )
        return {key: np.concatenate([part[key] for part in outputs]) for key in outputs[0]}

    async def _one(self, inputs):
        call = _Call(inputs)
        self.waiting.append(call)
        self._start()
        try:
            return await call.future
        finally:
            call.future.cancel()  # of a client that went away: it is skipped if it still waits

    def _start(self):
        while len(self.tasks) < self.threads and (batch := self._next()):
            task = asyncio.get_running_loop().create_task(self._answer(batch))
            self.tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task):
        self.tasks.discard(task)
        self._start()

    def _next(self):
        """The calls of the next batch, taken off the queue; none while they should wait for more."""
        while self.waiting and self.waiting[0].future.cancelled():
            self.waiting.popleft()
        if not self.waiting:
            return []
        if not self.merge:
            return [self.waiting.popleft()]
        batch, rows = [], 0
        for call in self.waiting:
            if call.shape == self.waiting[0].shape and not call.future.cancelled():
                if rows + call.rows > self.most:
                    break
                batch.append(call)
                rows += call.rows
        left = batch[0].since + self.timeout - time.monotonic()
        if left > 0 and rows < self.most and len(batch) == len(self.waiting):
            if self.timer is None:
                self.timer = asyncio.get_running_loop().call_later(left, self._time_is_up)
            return []
        taken = set(map(id, batch))
        self.waiting = collections.deque(call for call in self.waiting if id(call) not in taken)
        return batch

    def _time_is_up(self):
        self.timer = None
        self._start()

    async def _answer(self, batch):
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self.executor, self._merged, [call.inputs for call in batch])
        except Exception as error:
            if len(batch) > 1:
                for call in batch:
                    await self._answer([call])
                return
            results = [error]
        for call, result in zip(batch, results):
            if call.future.cancelled():
                continue
            if isinstance(result, Exception):
                call.future.set_exception(result)
            else:
                call.future.set_result(result)

    def _merged(self, calls):
        counts = [_rows(inputs) for inputs in calls]
        rows = sum(counts)
        size = next((size for size in self.sizes if size >= rows), rows)
        merged = {}
        for key in calls[0]:
            parts = [inputs[key] for inputs in calls]
            if rows and size > rows:
                parts.append(np.repeat(parts[0][:1], size - rows, axis=0))
            merged[key] = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self.observe(rows)
        outputs = self.run(merged)
        if size == rows and len(calls) == 1:
            return [outputs]
        ends = np.cumsum(counts)
        return [{key: output[end - count : end] for key, output in outputs.items()} for end, count in zip(ends, counts)]


class _Call:
    """One that waits: its inputs, the shape of a row, since when."""

    def __init__(self, inputs):
        self.inputs, self.rows = inputs, _rows(inputs)
        self.shape = sorted((key, array.shape[1:]) for key, array in inputs.items())
        self.future, self.since = asyncio.get_running_loop().create_future(), time.monotonic()


def _rows(inputs):
    return len(next(iter(inputs.values())))
