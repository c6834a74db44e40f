"""What a benchmark found: a table, Markdown, JSON, a bar chart."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import time
from pathlib import Path

from inception_tf import figures, tables
from inception_tf.benchmark.rounds import DISTURBED
from inception_tf.files import atomic_write, refuse_existing

HEADER = ("engine", "images/s", "ratio", "spread", "of sgemm", "peak memory", "first answer")
PACKAGES = (
    "inception-tf",
    "tensorflow",
    "keras",
    "jax",
    "onnxruntime",
    "openvino",
    "ai-edge-litert",
    "tf-slim",
    "torch",
    "numpy",
)


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of one model, or of one and its peers.

    Attributes:
        name: what was measured.
        multiply_adds: those of one image, None where they are not known.
        base: the name of the contestant that the ratios are to.
        machine: what `machine` gave before the first round.
        left_out: lines that say what could not be measured, and why.
        batches: a dict from batch sizes to companies: lists of the `Result`s of those that took turns, the base and
            "sgemm" in each, unless they were left out.
    """

    name: str
    multiply_adds: int | None
    base: str
    machine: dict
    left_out: list = dataclasses.field(default_factory=list)
    batches: dict = dataclasses.field(default_factory=dict)

    def data(self):
        """Everything as a JSON-like dict."""
        return {
            "model": self.name,
            "multiply_adds": self.multiply_adds,
            "machine": self.machine,
            "left_out": self.left_out,
            "batches": [self._batch(size, companies) for size, companies in self.batches.items()],
        }

    def _batch(self, size, companies):
        rows, limits = {}, []
        for company in companies:
            beside = {result.contestant.name: result for result in company}
            limit, base = beside.pop("sgemm", None), beside.get(self.base)
            if limit:
                limits.append(limit)
            for name, result in beside.items():
                rows.setdefault(name, self._row(result, base, limit))
        found = {"batch": size, "base": self.base, "engines": list(rows.values())}
        if limits:
            found["sgemm_gflops"] = statistics.median(speed for limit in limits for speed in limit.speeds)
            found["sgemm"] = [_turns(limit) for limit in limits]
        return found

    def _row(self, result, base, limit):
        ratios = result.ratios(base) if base else None
        row = {
            "engine": result.contestant.name,
            "images_per_second": result.speed,
            "ratio": None,
            "of_sgemm": None,
            "peak_memory": result.memory,
            "first_answer": result.first,
            **_turns(result),
            **result.facts,
        }
        if ratios:
            row["ratio"] = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        if limit and self.multiply_adds:
            shares = [share * 2 * self.multiply_adds / 1e9 for share in result.ratios(limit)]
            row["of_sgemm"] = statistics.median(shares)
        return row

    def text(self):
        """Tables for a terminal."""
        return "\n\n".join(
            [self._about()]
            + [
                f"{_title(batch)}\n" + tables.render(_rows(batch), HEADER, "<>>>>>>")
                for batch in self.data()["batches"]
            ]
            + ["\n".join(f"left out: {line}" for line in self.left_out)] * bool(self.left_out)
        )

    def markdown(self):
        """The same as Markdown."""
        parts = [self._about()]
        for batch in self.data()["batches"]:
            parts.append(f"**{_title(batch)}**\n\n" + tables.markdown(_rows(batch), HEADER))
        if self.left_out:
            parts.append("\n".join(f"- left out: {line}" for line in self.left_out))
        return "\n\n".join(parts) + "\n"

    def _about(self):
        machine, batches = self.machine, self.data()["batches"]
        rows = [row for batch in batches for row in (*batch["engines"], *batch.get("sgemm", ()))]
        versions = dict(machine["packages"])
        for row in rows:
            versions |= row.get("versions", {})  # of another Python's
        packages = ", ".join(f"{name} {version}" for name, version in versions.items())
        turns = sum(len(row["rounds"]) for row in rows)
        disturbed, repeated = (sum(row[key] for row in rows) for key in ("disturbed", "repeated"))
        text = f"{self.name}, {machine['date']}, {machine['processors']} × {machine['processor']}, "
        text += f"{machine['memory'] / 2**30:.0f} GiB, {machine['system']}, load {machine['load']:.2f} at the start.\n"
        text += f"{packages}.\n"
        text += f"{turns} turns; {repeated} repeated, and {disturbed} counted in spite of others on the machine "
        return text + f"(over {DISTURBED:.0%} of it). First answers are of one start each."

    def picture(self):
        """A matplotlib `Figure`: images a second by engine, a panel a batch size."""
        batches = self.data()["batches"]
        count = max(len(batch["engines"]) for batch in batches)
        figure = figures.figure(5 * len(batches), 1.2 + 0.32 * count)
        for i, batch in enumerate(batches):
            axes = figure.add_subplot(1, len(batches), i + 1)
            rows = batch["engines"][::-1]
            speeds = [row["images_per_second"] for row in rows]
            bars = axes.barh([row["engine"] for row in rows], speeds, color="#4878a8")
            axes.bar_label(bars, [f" {speed:.1f}  {row[1]}" for speed, row in zip(speeds, _rows(batch)[::-1])])
            top = max(speeds, default=0)
            if "sgemm_gflops" in batch and self.multiply_adds:
                limit = batch["sgemm_gflops"] * 1e9 / (2 * self.multiply_adds)
                axes.axvline(limit, color="#b04040", linestyle="--", linewidth=1)
                axes.text(limit, len(rows) - 0.45, "sgemm", color="#b04040", ha="center", va="bottom", fontsize=8)
                top = max(top, limit)
            axes.set_xlim(0, top * 1.3)
            axes.set_title(f"{self.name}, batch {batch['batch']}", fontsize=10, pad=14)
            axes.set_xlabel("images/s (ratio)")
            axes.spines[["top", "right"]].set_visible(False)
        return figure


def _turns(result):
    return {
        "rounds": result.speeds,
        "foreign": result.foreign,
        "disturbed": result.disturbed,
        "repeated": result.repeated,
    }


def _title(batch):
    text = f"Batch {batch['batch']}, ratios to {batch['base']}"
    return text + (f", sgemm {batch['sgemm_gflops']:.0f} GFLOP/s" if "sgemm_gflops" in batch else "")


def _rows(batch):
    return [
        (
            row["engine"],
            f"{row['images_per_second']:.1f}",
            f"{row['ratio']['median']:.2f}" if row["ratio"] else "",
            f"{row['ratio']['least']:.2f}–{row['ratio']['most']:.2f}" if row["ratio"] else "",
            "" if row["of_sgemm"] is None else f"{row['of_sgemm']:.0%}",
            f"{row['peak_memory'] / 1e9:.2f} GB",
            f"{row['first_answer']:.1f} s",
        )
        for row in batch["engines"]
    ]


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
    *texts, picture = paths_of(name)
    for path, text in zip(texts, (report.markdown(), json.dumps(report.data(), indent=1) + "\n")):
        with atomic_write(path, overwrite) as part:
            part.write_text(text, "utf-8")
    figures.save(report.picture(), picture, overwrite)


def machine(packages=PACKAGES):
    """The machine and what is installed on it, a JSON-like dict."""
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "processors": len(affinity(0)) if affinity else os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load": os.getloadavg()[0],
        "packages": versions,
    }


def _processor():
    """The processor's name, and the widest vectors that it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    vectors = next((flag for flag in ("avx512f", "avx2") if flag in facts.get("flags", "").split()), None)
    name = facts.get("model name", platform.processor())
    return f"{name} ({vectors})" if vectors else name
