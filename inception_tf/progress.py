"""Progress of long work, shown on a terminal and in notebooks."""

import contextlib
import sys
import time

REFRESH_SECONDS = 0.25  # the bar must not slow down what is measured


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
        shell = "IPython" in sys.modules and sys.modules["IPython"].get_ipython()
        notebook = hasattr(shell, "kernel")
        if self.shown and (sys.stderr.isatty() or notebook):
            with contextlib.suppress(ModuleNotFoundError):  # a worker that classifies exports may do without rich
                self.bar = _notebook_bar(self.unit) if notebook else _terminal_bar(self.unit)
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


def _terminal_bar(unit):
    from rich import console, progress

    return progress.Progress(
        *_columns(unit),
        console=console.Console(stderr=True),
        transient=True,
        refresh_per_second=1 / REFRESH_SECONDS,
        redirect_stdout=sys.stdout.isatty(),  # else what is printed to a file would land on the terminal
    )


def _notebook_bar(unit):
    """The same line as an output that is replaced in place: rich itself draws none without ipywidgets."""
    from IPython import display
    from rich import console, progress

    class Bar(progress.Progress):
        def line(self):
            with self.console.capture() as line:
                self.console.print(self.get_renderable())
            return display.Pretty(line.get().rstrip())

        def start(self):
            self.output, self.drawn = display.display(self.line(), display_id=True), 0

        def update(self, *args, **kwargs):
            super().update(*args, **kwargs)
            if time.monotonic() > self.drawn + REFRESH_SECONDS:
                self.drawn = time.monotonic()
                self.output.update(self.line())

        def stop(self):
            self.output.update(display.Pretty(""))

    return Bar(*_columns(unit), console=console.Console(force_jupyter=False, width=100, no_color=True))


def _columns(unit):
    from rich import progress

    class Speed(progress.ProgressColumn):
        def render(self, task):
            return f"{task.finished_speed or task.speed or 0:.1f} {unit}/s"

    counts = [progress.MofNCompleteColumn(), Speed()]
    if unit == "B":
        counts = [progress.DownloadColumn(), progress.TransferSpeedColumn()]
    label = progress.TextColumn("{task.description}", markup=False)
    return label, progress.BarColumn(), *counts, progress.TimeRemainingColumn()
