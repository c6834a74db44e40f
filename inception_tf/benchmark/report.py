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
from inception_tf.files import refuse_existing, written_whole

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
        base: the name of the contestant that the ratios are to; None: the first.
        batches: a dict from batch sizes to the `Result`s, the contestant "sgemm" among them.
        machine: what `machine` gave before the first round.
    """

    name: str
    multiply_adds: int | None
    base: str | None
    batches: dict
    machine: dict

    def data(self):
        """Everything as a JSON-like dict."""
        return {
            "model": self.name,
            "multiply_adds": self.multiply_adds,
            "machine": self.machine,
            "batches": [self._batch(size, results) for size, results in self.batches.items()],
        }

    def _batch(self, size, results):
        engines = [result for result in results if result.contestant.name != "sgemm"]
        limit = next((result for result in results if result.contestant.name == "sgemm"), None)
        base = next((result for result in engines if result.contestant.name == self.base), engines[0])
        rows = []
        for result in engines:
            ratios = result.ratios(base)
            row = {
                "engine": result.contestant.name,
                "images_per_second": result.speed,
                "ratio": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
                "of_sgemm": None,
                "peak_memory": result.memory,
                "first_answer": result.first,
                "rounds": result.speeds,
                "foreign": result.foreign,
                "disturbed": result.disturbed,
                "repeated": result.repeated,
                **result.facts,
            }
            if limit and self.multiply_adds:
                shares = [share * 2 * self.multiply_adds / 1e9 for share in result.ratios(limit)]
                row["of_sgemm"] = statistics.median(shares)
            rows.append(row)
        found = {"batch": size, "base": base.contestant.name, "engines": rows}
        if limit:
            found["sgemm_gflops"] = limit.speed
        return found

    def text(self):
        """Tables for a terminal."""
        return "\n\n".join(
            [self._about()]
            + [
                f"{_title(batch)}\n" + tables.render(_rows(batch), HEADER, "<>>>>>>")
                for batch in self.data()["batches"]
            ]
        )

    def markdown(self):
        """The same as Markdown."""
        parts = [self._about()]
        for batch in self.data()["batches"]:
            lines = [HEADER, ("---",) + ("---:",) * (len(HEADER) - 1), *_rows(batch)]
            parts.append(f"**{_title(batch)}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
        return "\n\n".join(parts) + "\n"

    def _about(self):
        machine = self.machine
        packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
        data = self.data()["batches"]
        turns = sum(len(row["rounds"]) for batch in data for row in batch["engines"])
        disturbed, repeated = (
            sum(row[key] for batch in data for row in batch["engines"]) for key in ("disturbed", "repeated")
        )
        text = f"{self.name}, {machine['date']}, {machine['processors']} × {machine['processor']}, "
        text += f"{machine['memory'] / 2**30:.0f} GiB, {machine['system']}, load {machine['load']:.2f} at the start.\n"
        text += f"{packages}.\n"
        text += f"{turns} turns; {repeated} repeated, and {disturbed} counted in spite of others on the machine "
        return text + f"(over {DISTURBED:.0%} of it)."

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
            axes.bar_label(bars, [f" {row['images_per_second']:.1f}  ({row['ratio']['median']:.2f})" for row in rows])
            top = max(speeds)
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


def _title(batch):
    text = f"Batch {batch['batch']}, ratios to {batch['base']}"
    return text + (f", sgemm {batch['sgemm_gflops']:.0f} GFLOP/s" if "sgemm_gflops" in batch else "")


def _rows(batch):
    return [
        (
            row["engine"],
            f"{row['images_per_second']:.1f}",
            f"{row['ratio']['median']:.2f}",
            f"{row['ratio']['least']:.2f}–{row['ratio']['most']:.2f}",
            "" if row["of_sgemm"] is None else f"{row['of_sgemm']:.0%}",
            f"{row['peak_memory'] / 1e9:.2f} GB",
            f"{row['first_answer']:.1f} s",
        )
        for row in batch["engines"]
    ]


def check_out(name, overwrite=False):
    """Raises what would keep `write` from writing, before long work."""
    figures.check(f"{name}.png", overwrite)
    for suffix in (".md", ".json"):
        refuse_existing(f"{name}{suffix}", overwrite)


def write(report, name, overwrite=False):
    """Writes a report as `name`.md, .json and .png; returns their paths."""
    texts = {".md": report.markdown(), ".json": json.dumps(report.data(), indent=1) + "\n"}
    for suffix, text in texts.items():
        with written_whole(f"{name}{suffix}", overwrite) as part:
            part.write_text(text, "utf-8")
    figures.save(report.picture(), f"{name}.png", overwrite)
    return [Path(f"{name}{suffix}") for suffix in (*texts, ".png")]


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
