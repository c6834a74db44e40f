"""The README and the site: every name is there; commands and examples run, and answer in the shape that is printed."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
PYTHON_PAGE = ROOT / "docs" / "reference" / "python.md"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}


def blocks(path, *languages):
    """(language, text) of every fenced block of these languages, in order."""
    fences = re.findall(r"^```(\w+)\n(.*?)^```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [(language, text) for language, text in fences if language in languages]


def run(command, folder):
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def shape(line):
    """A line without its numbers and its rules, spaces collapsed."""
    return " ".join(re.sub(r"\d+(?:[.,×]\d+)*(?:e[-+]?\d+)?", "#", re.sub("-{3,}", "-", line)).split())


def assert_shape(expected, output, command):
    """Every line of `expected` has its like in the output, in their order; "…" stands for anything."""
    lines = iter([shape(line) for line in output.splitlines()])
    for wanted in expected.splitlines():
        if wanted.strip() not in ("", "…"):
            form = ".*".join(re.escape(part) for part in shape(wanted).split("…"))
            assert any(re.fullmatch(form, line) for line in lines), f"{command}: no line like {wanted!r} in\n{output}"


def test_shapes():
    assert_shape("a  1.5\n…\n--- b … 3e-05", "a 20\nnothing\n-----  b of c 1e-7\n", "")
    for other in ("b 1", "a x", ""):
        with pytest.raises(AssertionError, match="no line like"):
            assert_shape("a 1", other, "")


def test_the_reference_has_every_public_name():
    import inception_tf

    page = PYTHON_PAGE.read_text("utf-8")
    described = {name: f"inception_tf.{module}.{name}" for name, module in inception_tf._PUBLIC.items()}
    for name, module in inception_tf._MODULES.items():
        public = importlib.import_module(f"inception_tf.{module}").__all__
        described |= {f"{name}.{found}": f"inception_tf.{module}.{found}" for found in public}
    assert set(re.findall(r"^::: (\S+)$", page, re.MULTILINE)) == set(described.values())
    for name in set(inception_tf.__all__) - set(described):
        assert f"`{name}`" in page, name


def test_docstrings_say_parameters_results_and_errors():
    import inception_tf as itf

    public = [getattr(itf, name) for name in itf.__all__ if name not in itf._MODULES]
    for thing in [*public, *(getattr(itf.metrics, name) for name in itf.metrics.__all__)]:
        text = inspect.getdoc(thing)
        said = set(re.findall(r"\w+", str(re.findall(r"^ +([\w*, ]+): |`(\w+)", text, re.MULTILINE))))
        parameters = set(inspect.signature(thing).parameters) - {"kwargs"}  # those of Keras's layers
        assert parameters <= said, (thing, parameters - said)
        wanted = {"Returns:", "Raises:"} - ({"Returns:"} if inspect.isclass(thing) else set())
        wanted -= {"Raises:"} if thing in (itf.end_points, itf.list_models) else set()
        assert wanted <= set(text.split()), thing


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "checkpoints/README.md"])
def test_links_of_pages_outside_the_site(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text("utf-8")):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.slow
def test_the_examples_of_the_reference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for _, text in blocks(PYTHON_PAGE, "python"):
        for statement in ast.parse(text).body:
            source = ast.get_source_segment(text, statement)
            comment = text.splitlines()[statement.end_lineno - 1].partition("  # ")[2]
            if isinstance(statement, ast.Expr) and comment[:1] in "([{'0123456789" and comment:
                assert repr(eval(source, names)) == comment, source
            else:
                exec(source, names)


@pytest.fixture(scope="module")
def after_the_demo(tmp_path_factory):
    """A folder as `make demo ARGS=--offline` leaves it."""
    folder = tmp_path_factory.mktemp("checkout")
    run([sys.executable, ROOT / "tools" / "demo.py", "--offline", "--seconds", "15"], folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/how-to/python.md"])
def test_a_page_after_the_demo(page, after_the_demo):
    for language, text in blocks(ROOT / page, "console", "python"):
        if language == "python":
            run([sys.executable, "-c", text], after_the_demo)
            continue
        for entry in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = entry.partition("\n")
            assert_shape(expected, run(["bash", "-c", command], after_the_demo), command)


@pytest.fixture
def jupyter(monkeypatch):
    """A function that has Jupyter's kernel run the cells of a notebook in a folder; an error in one is raised."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PATH", ENVIRONMENT["PATH"])
    return lambda notebook, folder, **options: nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(folder)}}, **options
    ).execute()


def shown(cell):
    """The kinds of what a cell shows, such as {"text/plain", "text/html"}, apart from messages and empty outputs."""
    outputs = [output for output in cell.get("outputs", ()) if output.get("name") != "stderr"]
    data = [output.get("data", {"text/plain": output.get("text")}) for output in outputs]
    return {kind for one in data for kind in one if one["text/plain"]}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_from_top_to_bottom(path, jupyter, after_the_demo):
    import nbformat

    notebook = nbformat.read(path, 4)
    written = [shown(cell) for cell in notebook.cells]
    folder = after_the_demo / "docs" / "tutorials"
    folder.mkdir(parents=True, exist_ok=True)
    jupyter(notebook, folder)
    assert [shown(cell) for cell in notebook.cells] == written
    assert any(written), "a notebook is committed with its outputs"


@pytest.mark.slow
def test_progress_shows_in_jupyter(jupyter, tmp_path):
    from nbformat import v4

    cells = [
        "from inception_tf.progress import Progress\nbar = Progress('Reading', 20, 'images').__enter__()",
        "bar.advance(3)",
        "bar.__exit__()",
    ]
    notebook, seen = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells]), []
    jupyter(notebook, tmp_path, on_cell_executed=lambda **_: seen.append(str(notebook.cells[0].outputs)))
    assert "Reading" in seen[0] and "3/20" in seen[1]
    assert "Reading" not in seen[2] and "ipywidgets" not in "".join(seen)
