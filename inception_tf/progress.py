"""Progress of long work, shown on a terminal and nowhere else."""

import sys
import time


class Progress:
    """A line on standard error that counts up: `label  42%  12.3 MB/s  0:07 left`.

    Use as a context manager and call `advance(n)`. Silent where standard error is not a terminal.

    Args:
        label: what is under way.
        total: the count at the end, or None when unknown.
        unit: what is counted; "B" prints sizes in MB.
    """

    def __init__(self, label, total=None, unit="", stream=None):
        self.label, self.total, self.unit = label, total, unit
        self.stream = stream or sys.stderr
        self.shown = self.stream.isatty()
        self.done = 0
        self.start = self.last = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.shown:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def advance(self, count=1):
        """Counts `count` more; redraws at most ten times a second."""
        self.done += count
        now = time.monotonic()
        if self.shown and (now - self.last > 0.1 or self.done == self.total):
            self.last = now
            self.stream.write("\r\x1b[K" + self._line(now))
            self.stream.flush()

    def _line(self, now):
        rate = self.done / max(now - self.start, 1e-9)
        scale, unit = (1e6, "MB") if self.unit == "B" else (1, self.unit)
        line = f"{self.label}  {self.done / scale:.{1 if scale > 1 else 0}f} {unit}".rstrip()
        if self.total:
            left = (self.total - self.done) / rate
            line += f"  {100 * self.done / self.total:.0f}%"
            line += f"  {rate / scale:.1f} {unit}/s  {int(left // 60)}:{int(left % 60):02d} left"
        return line
