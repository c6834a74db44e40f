"""Turns, disturbance, memory and failures of candidates in processes of their own, and the report on them."""

import json
import os
from pathlib import Path

import pytest

from inception_tf.analysis.profile import profile, total
from inception_tf.benchmark import rounds
from inception_tf.benchmark.engines import costs
from inception_tf.benchmark.harness import Section, benchmark
from inception_tf.benchmark.report import Report
from inception_tf.benchmark.rounds import BenchmarkError, Candidate, Result, fitting, groups, run
from inception_tf.models.card import SAVED_MODEL_CARD
from inception_tf.zoo import create_model

PATH = Path(__file__).with_name("candidates.py")


def candidate(name, function, work=1, **arguments):
    return Candidate(name, f"{PATH}:{function}", arguments, work)


def test_turns():
    said = []
    candidates = [
        candidate("fast", "sleep", work=8, seconds=0.005),
        candidate("broken", "fails"),
        candidate("slow", "sleep", work=8, seconds=0.1, megabytes=100),
        candidate("shadowed", "shadowed"),
        candidate("dying", "dies"),
        Candidate("elsewhere", "a:b", python="/nowhere/python"),
    ]
    fast, slow = run(candidates, rounds=3, seconds=0.05, attempts=1, log=said.append)
    assert said[:2] == [
        "broken: ValueError: no such engine",
        "shadowed: ModuleNotFoundError: No module named 'rounds'",
    ]
    assert said[2].startswith("elsewhere: ") and "/nowhere/python" in said[2]
    assert said[3:] == ["dying: died under way"]
    assert [fast.name, slow.name] == ["fast", "slow"]
    assert [len(result.speeds) for result in (fast, slow)] == [3, 3]
    assert slow.speed <= 8 / 0.1 and fast.speed <= 8 / 0.005
    assert slow.memory - fast.memory > 90e6
    assert fast.facts == {"slept": 0.005} and fast.first >= 0.005


@pytest.mark.parametrize(
    ("others", "together", "expected"),
    [
        ("cdefg", None, ["abcdefg"]),
        ("cdefg", 9, ["abcdefg"]),
        ("cdefg", 4, ["abcd", "abef", "abg"]),
        ("cd", 2, ["abc", "abd"]),
        ("cd", 1, ["a", "b", "c", "d"]),
        ("", 4, ["ab"]),
    ],
)
def test_groups(others, together, expected):
    assert groups(list("ab"), list(others), together) == [list(names) for names in expected]


def test_fitting():
    total_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert fitting(10 * total_memory) == 1
    assert 1 <= fitting(1e6) <= 0.9 * total_memory / 1e6


def test_a_turn_that_others_disturb_is_repeated(monkeypatch):
    """Two processors; others take one of them during the first two turns, and little during the third."""
    foreign, clock = iter([1.0, 0.9, 0.02, 0.01]), [0.0, 0.0]

    def busy():
        if clock[1] % 2:
            clock[0] += next(foreign)
        clock[1] += 1
        return clock[0], clock[1]

    monkeypatch.setattr(rounds, "_busy", busy)
    (result,) = run([candidate("one", "sleep", seconds=0.001)], rounds=2, seconds=0.002)
    assert result.repeated == 2 and result.disturbed == 0
    assert result.foreign == [pytest.approx(0.02, abs=0.01), pytest.approx(0.01, abs=0.01)]


@pytest.fixture
def report():
    """Two groups, a and b, a and c; and d, which ran alone."""

    def group(**speeds):
        return {
            name: Result(Candidate(name, ""), 1.5, speeds, [0.5 if name == "b" else 0.0] * 3, 1, 2_000_000_000)
            for name, speeds in speeds.items()
        }

    results = [
        group(sgemm=[100.0, 200.0, 100.0], a=[10.0, 20.0, 10.0], b=[15.0, 20.0, 20.0]),
        group(sgemm=[50.0] * 3, a=[5.0] * 3, c=[20.0] * 3),
        group(d=[30.0, 40.0, 30.0]),
    ]
    candidates, sgemm = [Candidate(name, "") for name in "abcd"], Candidate("sgemm", "")
    section = Section({"batch": 4}, candidates, sgemm, gflop=8.0, results=results)
    return Report("net", 4_000_000_000, left_out=["batch 4: e: no such engine"], sections=[section])


def test_report(report):
    (batch,) = report.data()["batches"]
    a, b, c, d = batch["engines"]
    assert (batch["batch"], batch["base"], batch["sgemm_gflops"]) == (4, "a", 75.0)
    assert b["ratio"] == {"median": 1.5, "least": 1.0, "most": 2.0}
    assert a["images_per_second"] == 10 and c["ratio"]["median"] == 4  # to the "a" of its own group
    assert (d["ratio"]["median"], d["in_turns"], c["in_turns"]) == (3, False, True)  # to the first "a"
    assert a["of_sgemm"] == pytest.approx(10 * 8 / 100) and c["of_sgemm"] == pytest.approx(20 * 8 / 50)
    assert (a["disturbed"], b["disturbed"], b["images_per_second"]) == (0, 3, 20.0)
    for text in (report.text(), report.markdown()):
        assert "1.00–2.00" in text and "80%" in text and "2.00 GB" in text and "3.00 †" in text
        assert "18 turns; 6 repeated, and 3 counted" in text and "batch 4: e: no such engine" in text
    assert [axes.get_title() for axes in report.picture().axes] == ["net, batch 4"]


def test_report_without_its_base(report):
    (section,) = report.sections
    section.results = [{name: section.results[0][name] for name in ("sgemm", "b")}]
    (b,) = report.data()["batches"][0]["engines"]
    assert b["ratio"] is None and b["of_sgemm"] is not None
    assert "| b | 20.0 |  |  |" in report.markdown() and report.text() and report.picture()


def test_it_is_written_after_every_section(tmp_path):
    out, said, written = tmp_path / "out", [], []

    def sections(*batches):
        for batch in batches:
            if written or batch > 1:
                written.append(
                    [found["batch"] for found in json.loads(out.with_suffix(".json").read_text())["batches"]]
                )
            arguments = [{"batch": batch}, {"batch": batch, "most": 1}]
            names = zip(("one", "other"), arguments)
            yield Section({"batch": batch}, [candidate(name, "batched", **more) for name, more in names])

    report = Report("net", left_out=said)
    benchmark(report, sections(1, 2), 2, 0.001, out)
    assert written == [[1]]
    names = [[row["engine"] for row in batch["engines"]] for batch in report.data()["batches"]]
    assert names == [["one", "other"], ["one"]]
    assert said == ["batch 2: other: ValueError: too many"]
    nothing = [Section({"batch": 5}, [candidate("one", "batched", batch=5)]), Section({"batch": 6}, [])]
    with pytest.raises(BenchmarkError, match="Nothing could be measured.\nbatch 5: one: ValueError: too many"):
        benchmark(Report("net"), nothing, 1, 0.001)


def test_what_finds_no_memory_beside_others_runs_alone(tmp_path):
    candidates = [candidate("one", "batched", batch=1), candidate("large", "alone", marker=str(tmp_path / "tried"))]
    report = Report("net")
    benchmark(report, [Section({"batch": 1}, candidates)], 1, 0.001)
    one, large = report.data()["batches"][0]["engines"]
    assert one["in_turns"] and not large["in_turns"] and large["ratio"] and report.left_out == []


def test_an_export_costs_what_its_model_does(tmp_path):
    model = create_model("inception_v3", depth_multiplier=0.1, classes=7, input_shape=(107, 107, 3))
    model.save(tmp_path / "v3.keras")
    saved = tmp_path / "saved"
    (saved / SAVED_MODEL_CARD).parent.mkdir(parents=True)
    (saved / SAVED_MODEL_CARD).write_text(model.card.to_json())
    (saved / "saved_model.pb").touch()
    layers = profile(model).layers
    assert costs(saved) == costs(tmp_path / "v3.keras") == (total(layers, "multiply_adds"), total(layers, "parameters"))
    (tmp_path / "none.tflite").touch()
    assert costs(tmp_path / "none.tflite")[0] is None
