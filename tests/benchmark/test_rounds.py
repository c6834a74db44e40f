"""Turns, disturbance, memory and failures of contestants in processes of their own."""

import statistics
from pathlib import Path

import pytest

from inception_tf.benchmark import rounds
from inception_tf.benchmark.report import Report, machine
from inception_tf.benchmark.rounds import BenchmarkError, Contestant, Result, compete

PATH = Path(__file__).with_name("contestants.py")


def contestant(name, function, work=1, **arguments):
    return Contestant(name, f"{PATH}:{function}", arguments, work)


def test_turns():
    said = []
    results = compete(
        [
            contestant("fast", "sleep", work=8, seconds=0.005),
            contestant("broken", "fails"),
            contestant("slow", "sleep", work=8, seconds=0.1, megabytes=100),
            contestant("shadowed", "shadowed"),
        ],
        rounds=3,
        seconds=0.05,
        attempts=1,
        say=said.append,
    )
    assert said == [
        "left out: broken: ValueError: no such engine",
        "left out: shadowed: ModuleNotFoundError: No module named 'rounds'",
    ]
    fast, slow = results
    assert [len(result.speeds) for result in results] == [3, 3]
    assert slow.speed <= 8 / 0.1 and fast.speed <= 8 / 0.005
    assert statistics.median(fast.ratios(slow)) > 2
    assert slow.memory - fast.memory > 90e6
    assert fast.facts == {"slept": 0.005} and fast.first >= 0.005


def test_one_that_dies_under_way():
    with pytest.raises(BenchmarkError, match="^dying: died under way$"):
        compete([contestant("dying", "dies")], rounds=1, seconds=0.01)


def test_a_turn_that_others_disturb_is_taken_again(monkeypatch):
    """Two processors; others take one of them during the first two turns, and little during the third."""
    foreign, clock = iter([1.0, 0.9, 0.02, 0.01]), [0.0, 0.0]

    def busy():
        if clock[1] % 2:
            clock[0] += next(foreign)
        clock[1] += 1
        return clock[0], clock[1]

    monkeypatch.setattr(rounds, "_busy", busy)
    (result,) = compete([contestant("one", "sleep", seconds=0.001)], rounds=2, seconds=0.002)
    assert result.repeated == 2 and result.disturbed == 0
    assert result.foreign == [pytest.approx(0.02, abs=0.01), pytest.approx(0.01, abs=0.01)]


def test_report():
    def result(name, speeds, foreign=0.0):
        return Result(Contestant(name, "", work=4), 1.5, speeds, [2.0] * 3, [foreign] * 3, 1, 2_000_000_000)

    results = [
        result("sgemm", [100.0, 200.0, 100.0]),
        result("a", [10.0, 20.0, 10.0]),
        result("b", [15.0, 20.0, 20.0], 0.5),
    ]
    report = Report("net", 4_000_000_000, None, {4: results}, machine())
    (batch,) = report.data()["batches"]
    a, b = batch["engines"]
    assert (batch["base"], batch["sgemm_gflops"]) == ("a", 100.0)
    assert b["ratio"] == {"median": 1.5, "least": 1.0, "most": 2.0}
    assert a["of_sgemm"] == pytest.approx(10 * 2 * 4 / 100)
    assert (a["disturbed"], b["disturbed"], b["images_per_second"]) == (0, 3, 20.0)
    for text in (report.text(), report.markdown()):
        assert "1.00–2.00" in text and "80%" in text and "2.00 GB" in text
        assert "6 turns; 2 repeated, and 3 counted in spite of others" in text
    assert [axes.get_title() for axes in report.picture().axes] == ["net, batch 4"]
