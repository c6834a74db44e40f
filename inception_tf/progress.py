"""Progress of long work, shown on a terminal and in notebooks."""

import contextlib
import sys


class Progress:
    """A bar on standard error: `label ━━━━━━━━ 42/100 5.6 images/s 0:00:07`. It disappears at the end.

    Use as a context manager and call `advance(n)`. `label` may change meanwhile. Silent where standard error is not a
    terminal, except in notebooks.

    Args:
        label: what is under way.
        total: the count at the end, or None when unknown.
        unit: what is counted; "B" shows sizes in MB.

    Attributes:
        shown: set on the class, whether bars are shown at all.
    """

    shown = True

    def __init__(self, label, total=None, unit=""):
        self.label, self.total, self.unit = label, total, unit
        self.bar = self._task = None

    def __enter__(self):
        if self.shown and (sys.stderr.isatty() or "ipykernel" in sys.modules):
            with contextlib.suppress(ModuleNotFoundError):  # a worker that classifies exports may do without rich
                self.bar = _rich_bar(self.unit)
                self._task = self.bar.add_task(self.label, total=self.total)
                self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def advance(self, count=1):
        """Counts `count` more."""
        if self.bar:
            self.bar.update(self._task, advance=count, description=self.label)


def _rich_bar(unit):
    from rich import console, progress

    class Speed(progress.ProgressColumn):
        def render(self, task):
            return f"{task.finished_speed or task.speed or 0:.1f} {unit}/s"

    counts = [progress.MofNCompleteColumn(), Speed()]
    if unit == "B":
        counts = [progress.DownloadColumn(), progress.TransferSpeedColumn()]
    label = progress.TextColumn("{task.description}", markup=False)
    return progress.Progress(
        *(label, progress.BarColumn(), *counts, progress.TimeRemainingColumn()),
        console=console.Console(stderr=True),
        transient=True,
        refresh_per_second=4,  # the bar must not slow down what is measured
        redirect_stdout=sys.stdout.isatty(),  # else what is printed to a file would land on the terminal
    )
