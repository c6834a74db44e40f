"""Contestants over several batch sizes, beside the product of two matrices, as a report."""

import functools

from inception_tf.benchmark.engines import of_batch, sgemm
from inception_tf.benchmark.report import write
from inception_tf.benchmark.rounds import BenchmarkError, companies, compete, fitting


def contest(report, contestants, batches, size, rounds, seconds, out=None, overwrite=False):
    """Measures contestants for each batch size, and fills the report's `batches`.

    Args:
        report: a `Report`. What is left out is noted in it.
        contestants: `Contestant`s, for any batch size, the report's base among them or not.
        batches: the sizes.
        size: a function from a batch size to the bytes that a process takes: where not all fit into memory, they take
            turns in companies, with the base in each.
        rounds, seconds: as `compete` takes them.
        out: where the report is written after each batch size; see `write`.
        overwrite: whether what is there may be replaced.

    Raises:
        BenchmarkError: nothing could be measured.
    """
    base = [contestant for contestant in contestants if contestant.name == report.base]
    others = [contestant for contestant in contestants if contestant.name != report.base]
    for batch in batches:
        leave_out = functools.partial(_leave_out, report, batch)
        always = [sgemm(), *(of_batch(contestant, batch) for contestant in base)]
        beside = [of_batch(contestant, batch) for contestant in others]
        fits = fitting(size(batch))
        together = len(always) + len(beside) if fits is None else fits
        found = [compete(some, rounds, seconds, say=leave_out) for some in companies(always, beside, together)]
        if any(result.contestant.name != "sgemm" for company in found for result in company):
            report.batches[batch] = found
            if out:
                write(report, out, overwrite)
                overwrite = True
    if not report.batches:
        raise BenchmarkError("\n".join(["Nothing could be measured.", *report.left_out]))


def _leave_out(report, batch, line):
    report.left_out.append(f"batch {batch}: {line}")
