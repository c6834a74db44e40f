import pytest
import report_networks as report

from inception_tf.slim import golden


def test_a_row_for_a_network(capsys):
    report.main(["len*"])
    header, rule, row = (
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in capsys.readouterr().out.splitlines()
    )
    assert header == list(report.HEADER) and len(rule) == len(row) == len(header)
    case = golden.load("lenet")["cases"]["default"]
    assert row[:3] == ["lenet", str(case["variables"]), f"{case['parameters']:,}"]
    assert float(row[3]) < 1e-5 and "lenet.py" in row[4]


def test_a_network_that_differs_fails(monkeypatch):
    weights = golden.deterministic_weights
    monkeypatch.setattr(golden, "deterministic_weights", lambda name, shape: weights(name, shape) * 1.01)
    with pytest.raises(SystemExit, match="Not converted.* lenet and golden data"):
        report.main(["lenet"])
