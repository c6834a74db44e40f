"""Turns, disturbance, memory and failures of contestants in processes of their own."""

import json
import os
import statistics
from pathlib import Path

import pytest
from inception_tf.benchmark.contest import contest

from inception_tf.analysis.profile import profile, total
from inception_tf.benchmark import rounds
from inception_tf.benchmark.engines import cost, titles
from inception_tf.benchmark.report import Report, machine
from inception_tf.benchmark.rounds import BenchmarkError, Contestant, Result, companies, compete, fitting
from inception_tf.errors import UsageError
from inception_tf.images.preprocessing import preprocessing_of
from inception_tf.models.card import write_card
from inception_tf.zoo import create_model

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
        "broken: ValueError: no such engine",
        "shadowed: ModuleNotFoundError: No module named 'rounds'",
    ]
    fast, slow = results
    assert [len(result.speeds) for result in results] == [3, 3]
    assert slow.speed <= 8 / 0.1 and fast.speed <= 8 / 0.005
    assert statistics.median(fast.ratios(slow)) > 2
    assert slow.memory - fast.memory > 90e6
    assert fast.facts == {"slept": 0.005} and fast.first >= 0.005


def test_one_that_dies_under_way():
    said = []
    dying, living = contestant("dying", "dies"), contestant("living", "sleep", seconds=0.001)
    (left,) = compete([dying, living], rounds=3, seconds=0.01, say=said.append)
    assert said == ["dying: died under way"]
    assert left.contestant is living and len(left.speeds) == 3 and left.memory > 0


def test_a_python_that_is_not_there():
    said = []
    there_is_none = Contestant("one", "a:b", python="/nowhere/python")
    assert compete([there_is_none], rounds=1, seconds=0.01, say=said.append) == []
    (line,) = said
    assert line.startswith("one: ") and "/nowhere/python" in line


@pytest.mark.parametrize(
    ("others", "together", "expected"),
    [
        ("cdefg", 9, ["abcdefg"]),
        ("cdefg", 4, ["abcd", "abef", "abg"]),
        ("cd", 1, ["abc", "abd"]),
        ("", 4, ["ab"]),
    ],
)
def test_companies(others, together, expected):
    assert companies(list("ab"), list(others), together) == [list(names) for names in expected]


def test_fitting():
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert fitting(whole) == 0
    assert 1 <= fitting(1e6) <= 0.9 * whole / 1e6


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


@pytest.fixture
def report():
    """Two companies: a and b, a and c."""

    def result(name, speeds, foreign=0.0, **facts):
        return Result(Contestant(name, "", work=4), 1.5, speeds, [foreign] * 3, 1, 2_000_000_000, facts)

    first = [
        result("sgemm", [100.0, 200.0, 100.0]),
        result("a", [10.0, 20.0, 10.0]),
        result("b", [15.0, 20.0, 20.0], 0.5),
    ]
    torch = {"versions": {"torch": "9.8"}}
    second = [result("sgemm", [50.0] * 3), result("a", [5.0] * 3), result("c", [20.0, 20.0, 20.0], **torch)]
    return Report("net", 4_000_000_000, "a", machine(), ["batch 4: d: no such engine"], {4: [first, second]})


def test_report(report):
    (batch,) = report.data()["batches"]
    a, b, c = batch["engines"]
    assert (batch["base"], batch["sgemm_gflops"]) == ("a", 75.0)
    assert b["ratio"] == {"median": 1.5, "least": 1.0, "most": 2.0}
    assert a["images_per_second"] == 10 and c["ratio"]["median"] == 4  # to the "a" of its own company
    assert a["of_sgemm"] == pytest.approx(10 * 2 * 4 / 100) and c["of_sgemm"] == pytest.approx(20 * 2 * 4 / 50)
    assert (a["disturbed"], b["disturbed"], b["images_per_second"]) == (0, 3, 20.0)
    for text in (report.text(), report.markdown()):
        assert "1.00–2.00" in text and "80%" in text and "2.00 GB" in text and "torch 9.8" in text
        assert "15 turns; 5 repeated, and 3 counted in spite of others" in text
        assert "left out: batch 4: d: no such engine" in text
    assert [axes.get_title() for axes in report.picture().axes] == ["net, batch 4"]


def test_report_without_its_base(report):
    report.batches[4] = [[result for result in report.batches[4][0] if result.contestant.name != "a"]]
    (b,) = report.data()["batches"][0]["engines"]
    assert b["ratio"] is None and b["of_sgemm"] is not None
    assert "| b | 20.0 |  |  |" in report.markdown() and report.text() and report.picture()


def test_it_is_written_after_every_batch_size(tmp_path):
    out, said = tmp_path / "out", []
    report = Report("net", None, "one", machine(), said)

    def size(batch):
        written.append(json.loads(out.with_suffix(".json").read_text())["batches"] if batch > 1 else [])
        return 1e6

    written = []
    one, other = Contestant("one", f"{PATH}:batched"), Contestant("other", f"{PATH}:batched", {"most": 1})
    contest(report, [one, other], [1, 2], size, 2, 0.001, out)
    assert [[batch["batch"] for batch in batches] for batches in written] == [[], [1]]
    names = [[row["engine"] for row in batch["engines"]] for batch in report.data()["batches"]]
    assert names == [["one", "other"], ["one"]]
    assert said == ["batch 2: other: ValueError: too many"]
    with pytest.raises(BenchmarkError, match="Nothing could be measured.\nbatch 5: one: ValueError: too many"):
        contest(Report("net", None, "one", machine()), [Contestant("one", f"{PATH}:batched")], [5], size, 1, 0.001)


def test_titles():
    assert titles(["a/v3.onnx", "b/v3.tflite"]) == ["v3.onnx", "v3.tflite"]
    assert titles(["x/a/v3.onnx", "y/a/v3.onnx"]) == ["x/a/v3.onnx", "y/a/v3.onnx"]
    assert titles(["v3.onnx", "b/v3.onnx"]) == ["v3.onnx", "b/v3.onnx"]
    with pytest.raises(UsageError, match="named twice"):
        titles(["v3.onnx", "v3.onnx"])


def test_an_export_costs_what_its_model_does(tmp_path):
    model = create_model("inception_v3", depth_multiplier=0.1, classes=7, input_shape=(107, 107, 3))
    model.save(tmp_path / "v3.keras")
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "saved_model.pb").touch()
    write_card(model.card, preprocessing_of(model), saved)
    assert cost([saved]) == cost([tmp_path / "v3.keras"]) == total(profile(model).layers, "multiply_adds")
    assert cost([saved, tmp_path / "none.onnx"]) is None
