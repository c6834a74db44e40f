import importlib.util
from pathlib import Path

import pytest

from inception_tf.slim import golden

PATH = Path(__file__).resolve().parents[2] / "tools" / "report_networks.py"


@pytest.fixture
def report():
    spec = importlib.util.spec_from_file_location("report_networks", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_for_a_network(report, capsys):
    report.main(["len*"])
    header, rule, row = (
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in capsys.readouterr().out.splitlines()
    )
    assert header == list(report.HEADER) and len(rule) == len(row) == len(header)
    case = golden.load("lenet")["cases"]["default"]
    assert row[:3] == ["lenet", str(case["variables"]), f"{case['parameters']:,}"]
    assert float(row[3]) < 1e-5 and "lenet.py" in row[4]


def test_a_network_that_differs_fails(report, monkeypatch):
    weights = golden.deterministic_weights
    monkeypatch.setattr(golden, "deterministic_weights", lambda name, shape: weights(name, shape) * 1.01)
    with pytest.raises(SystemExit, match="report_networks: lenet: Not converted"):
        report.main(["lenet"])
