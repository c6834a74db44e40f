"""Benchmarks: candidates in one or more settings, such as batch sizes, measured and reported."""

import dataclasses
import re
import statistics

from inception_tf.benchmark.report import write
from inception_tf.benchmark.rounds import BenchmarkError, Candidate, groups, run

OUT_OF_MEMORY = re.compile("out of memory|RESOURCE_EXHAUSTED|exit status -9$", re.IGNORECASE)


@dataclasses.dataclass
class Section:
    """Candidates in one setting.

    Attributes:
        setting: a dict, such as {"batch": 8}.
        candidates: `Candidate`s; the first is the base that the others are compared to.
        limit: the `Candidate` of what no other can exceed: a product of matrices, in GFLOP/s. It takes turns with all.
        gflop: what one image takes of that. None where it is not known.
        together: how many processes there may be at a time; see `groups`.
        results: once it is measured, a dict from names to `Result`s for each group.
    """

    setting: dict
    candidates: list
    limit: Candidate | None = None
    gflop: float | None = None
    together: int | None = None
    results: list = dataclasses.field(default_factory=list)

    @property
    def title(self):
        return ", ".join(f"batch {value}" if name == "batch" else str(value) for name, value in self.setting.items())

    def measure(self, rounds, seconds, log):
        """Fills `results`. Where memory is short for a group, those left out run alone, after the others."""
        always = [candidate for candidate in (self.limit, self.candidates[0]) if candidate]
        waiting, measured = groups(always, self.candidates[1:], self.together), set()
        while waiting:
            group, reasons = waiting.pop(0), []
            self.results.append({result.name: result for result in run(group, rounds, seconds, log=reasons.append)})
            measured |= self.results[-1].keys()
            if len(group) > 1 and any(map(OUT_OF_MEMORY.search, reasons)):
                waiting += [[candidate] for candidate in group if candidate.name not in measured]
            else:
                for reason in reasons:
                    log(f"{self.title}: {reason}")

    def data(self):
        """What was measured, JSON-like: of every candidate its first result."""
        base, first, rows = self.candidates[0].name, {}, []
        for group in self.results[::-1]:
            first |= group
        for candidate in self.candidates:
            group = next((group for group in self.results if candidate.name in group), None)
            if group:
                beside = first | group
                rows.append(self._row(group[candidate.name], beside.get(base), base in group, beside))
        found = {**self.setting, "base": base, "engines": rows}
        limits = [group[self.limit.name] for group in self.results if self.limit and self.limit.name in group]
        if limits:
            median = statistics.median(speed for limit in limits for speed in limit.speeds)
            found |= {f"{self.limit.name}_gflops": median, self.limit.name: [_turns(limit) for limit in limits]}
        return found

    def _row(self, result, base, in_turns, beside):
        ratios = result.ratios(base) if base else None
        row = {
            "engine": result.name,
            "images_per_second": result.speed,
            "ratio": ratios and {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
            "in_turns": in_turns,
        }
        if self.limit:
            limit = self.gflop and beside.get(self.limit.name)
            row[f"of_{self.limit.name}"] = statistics.median(result.ratios(limit)) * self.gflop if limit else None
        return row | {
            "peak_memory": result.memory,
            "first_answer": result.first,
            **_turns(result),
            **result.facts,
        }


def _turns(result):
    return {
        "rounds": result.speeds,
        "foreign": result.foreign,
        "disturbed": result.disturbed,
        "repeated": result.repeated,
    }


def benchmark(report, sections, rounds=7, seconds=2.0, out=None, overwrite=False):
    """Measures sections, and adds those in which a candidate ran to a report.

    Args:
        report: a `Report`. What is left out is noted in it.
        sections: `Section`s that are to be measured; one without candidates is skipped.
        rounds, seconds: as `run` takes them.
        out: where the report is written after each section; see `write`.
        overwrite: whether what is there may be replaced.

    Raises:
        BenchmarkError: nothing could be measured.
    """
    for section in sections:
        if not section.candidates:
            continue
        section.measure(rounds, seconds, report.left_out.append)
        if section.data()["engines"]:
            report.sections.append(section)
            if out:
                write(report, out, overwrite)
                overwrite = True
    if not report.sections:
        raise BenchmarkError("\n".join(["Nothing could be measured.", *report.left_out]))
