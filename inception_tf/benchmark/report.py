"""What a benchmark found: a table, Markdown, JSON, a bar chart."""

import dataclasses
import json
from pathlib import Path

from inception_tf import figures, tables
from inception_tf.benchmark.rounds import DISTURBED
from inception_tf.files import atomic_write, refuse_existing
from inception_tf.machine import machine


@dataclasses.dataclass
class Report:
    """The results of a benchmark.

    Attributes:
        name: what was measured.
        multiply_adds: those of one image, None where they are not known.
        machine: what `machine` gave before the first round; "device" in it is the GPU's name.
        left_out: lines that say what could not be measured, and why.
        sections: the measured `harness.Section`s.
    """

    name: str
    multiply_adds: int | None = None
    machine: dict = dataclasses.field(default_factory=machine)
    left_out: list = dataclasses.field(default_factory=list)
    sections: list = dataclasses.field(default_factory=list)

    def data(self):
        """Everything as a JSON-like dict."""
        return {
            "model": self.name,
            "multiply_adds": self.multiply_adds,
            "machine": self.machine,
            "left_out": self.left_out,
            "batches": [section.data() for section in self.sections],
        }

    def text(self):
        """Tables for a terminal."""
        return self._document("{}\n{}", lambda rows, header: tables.render(rows, header, "<" + ">" * len(header)), "")

    def markdown(self):
        """The same as Markdown."""
        return self._document("**{}**\n\n{}", tables.markdown, "- ") + "\n"

    def _document(self, form, table, bullet):
        found = self.data()["batches"]
        parts = [self._about(found)]
        for section, data in zip(self.sections, found):
            title, limit = f"{section.title}, ratios to {data['base']}", section.limit and section.limit.name
            if f"{limit}_gflops" in data:
                title += f", {limit} {data[f'{limit}_gflops']:.0f} GFLOP/s"
            header = ("engine", "images/s", "ratio", "spread", *[f"of {limit}"] * bool(limit), "peak memory")
            rows = [_cells(row, limit) for row in data["engines"]]
            parts.append(form.format(title, table(rows, (*header, "first answer"))))
        if not all(row["in_turns"] for data in found for row in data["engines"]):
            parts.append("† not in turns with the one that the ratios are to")
        if self.left_out:
            parts.append("\n".join(f"{bullet}left out: {line}" for line in self.left_out))
        return "\n\n".join(parts)

    def _about(self, found):
        machine = self.machine
        rows = [row for data in found for key in ("engines", "sgemm", "matmul") for row in data.get(key, ())]
        packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
        turns = sum(len(row["rounds"]) for row in rows)
        disturbed, repeated = (sum(row[key] for row in rows) for key in ("disturbed", "repeated"))
        text = f"{self.name}, {machine['date']}, " + (f"{machine['device']}, " if machine.get("device") else "")
        text += f"{machine['processors']} × {machine['processor']}, {machine['memory'] / 2**30:.0f} GiB, "
        text += f"{machine['system']}, load {machine['load']:.2f} at the start.\n{packages}.\n"
        text += f"{turns} turns; {repeated} repeated, and {disturbed} counted in spite of others on the machine "
        return text + f"(over {DISTURBED:.0%} of it). First answers are of one start each."

    def picture(self):
        """A matplotlib `Figure`: images a second by engine, a panel a section."""
        columns = min(3, len(self.sections))
        lines = -(-len(self.sections) // columns)
        count = max(len(section.candidates) for section in self.sections)
        figure = figures.figure(5 * columns, (1.2 + 0.32 * count) * lines)
        for i, section in enumerate(self.sections):
            axes, data = figure.add_subplot(lines, columns, i + 1), section.data()
            rows = data["engines"][::-1]
            speeds = [row["images_per_second"] for row in rows]
            bars = axes.barh([row["engine"] for row in rows], speeds, color="#4878a8")
            axes.bar_label(bars, [f" {speed:.1f}  {_ratio(row)}" for speed, row in zip(speeds, rows)])
            top, name = max(speeds), section.limit and section.limit.name
            if f"{name}_gflops" in data and section.gflop:
                limit = data[f"{name}_gflops"] / section.gflop
                axes.axvline(limit, color="#b04040", linestyle="--", linewidth=1)
                axes.text(limit, len(rows) - 0.45, name, color="#b04040", ha="center", va="bottom", fontsize=8)
                top = max(top, limit)
            axes.set_xlim(0, top * 1.3)
            axes.set_title(f"{self.name}, {section.title}", fontsize=10, pad=14)
            axes.set_xlabel("images/s (ratio)")
            axes.spines[["top", "right"]].set_visible(False)
        return figure


def _cells(row, limit):
    ratio, fraction = row["ratio"], row.get(f"of_{limit}")
    return (
        row["engine"],
        f"{row['images_per_second']:.1f}",
        _ratio(row),
        f"{ratio['least']:.2f}–{ratio['most']:.2f}" if ratio else "",
        *["" if fraction is None else f"{fraction:.0%}"] * bool(limit),
        f"{row['peak_memory'] / 1e9:.2f} GB",
        f"{row['first_answer']:.1f} s",
    )


def _ratio(row):
    return f"{row['ratio']['median']:.2f}" + ("" if row["in_turns"] else " †") if row["ratio"] else ""


def paths_of(name):
    """Where `write` writes: `name`.md, .json and .png."""
    return [Path(f"{name}{suffix}") for suffix in (".md", ".json", ".png")]


def check_out(name, overwrite=False):
    """Raises what would keep `write` from writing, before long work."""
    *texts, picture = paths_of(name)
    figures.check(picture, overwrite)
    for path in texts:
        refuse_existing(path, overwrite)


def write(report, name, overwrite=False):
    """Writes a report to `paths_of(name)`."""
    *texts, chart = paths_of(name)
    for path, text in zip(texts, (report.markdown(), json.dumps(report.data(), indent=1) + "\n")):
        with atomic_write(path, overwrite) as part:
            part.write_text(text, "utf-8")
    figures.save(report.picture(), chart, overwrite)
