"""The house keeps its order: imports run down, none runs in a circle, and every module may be the first."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "inception_tf"
# From the ground up. What stands in one line knows nothing of one another.
FLOORS = (
    ("errors", "machine", "progress", "quiet", "tables"),
    ("files", "remote"),
    ("figures",),
    ("images", "models"),
    ("slim",),
    ("zoo",),
    ("inference",),
    ("analysis",),
    ("evaluation", "exports"),
    ("serving", "training"),
    ("benchmark",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = {
    ".".join(["inception_tf", *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}


def imports(file, modules):
    """The modules of ours that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in modules or node.module in modules:
                    yield name if name in modules else node.module


def room(module):
    return (module.split(".") + [""])[1]


def arrows_up(graph):
    """The arrows between rooms that do not run down."""
    pairs = [(a, b) for a, targets in graph.items() for b in targets if room(a) and room(b) and room(a) != room(b)]
    return [(a, b) for a, b in pairs if FLOOR[room(a)] <= FLOOR[room(b)]]


def circle(graph):
    """Modules that import one another in a circle, or None."""
    path, done = [], set()

    def visit(module):
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return None
        path.append(module)
        found = next(filter(None, map(visit, graph[module])), None)
        path.pop()
        done.add(module)
        return found

    return next(filter(None, map(visit, graph)), None)


@pytest.fixture(scope="module")
def graph():
    return {module: sorted({*imports(file, MODULES)} - {module}) for module, file in MODULES.items()}


def test_imports_run_down(graph):
    assert {room(module) for module in graph if room(module)} == set(FLOOR)
    assert arrows_up(graph) == []


def test_the_map_of_the_house():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text("utf-8")
    start = text.index("    __main__.py ")
    floors = text[start : text.index("`tests/test_architecture.py`", start)].split("      ↓\n")
    assert [set(re.findall(r"^    (\w+)(?:/|\.py) ", floor, re.M)) for floor in floors] == list(map(set, FLOORS[::-1]))


def test_no_circle(graph):
    assert circle(graph) is None


def test_the_walk_finds_what_it_looks_for(tmp_path):
    up = {"inception_tf.images.files": ["inception_tf.zoo"], "inception_tf.zoo": []}
    assert arrows_up(up) == [("inception_tf.images.files", "inception_tf.zoo")]
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c"]
    file = tmp_path / "late.py"
    file.write_text("def f():\n    from inception_tf import zoo, files as f\n    import inception_tf.errors\n")
    assert set(imports(file, MODULES)) == {"inception_tf.zoo", "inception_tf.files", "inception_tf.errors"}


def imported_by(libraries):
    """The modules that import one of `libraries`, whatever the statement, or by a function's argument."""

    def names(file):
        nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
        yield from (alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names)
        yield from (node.module or "" for node in nodes if isinstance(node, ast.ImportFrom))
        calls = (node for node in nodes if isinstance(node, ast.Call) and "import" in ast.unparse(node.func))
        yield from (ast.unparse(argument).strip("f'") for call in calls for argument in call.args)

    return {module for module, file in MODULES.items() if any(name.split(".")[0] in libraries for name in names(file))}


def test_tf_slim_is_imported_in_one_file():
    assert imported_by({"tf_slim"}) == {"inception_tf.slim.reference"}


def test_networks_import_no_tensorflow():
    assert not {module for module in imported_by({"tensorflow", "tf_keras"}) if room(module) == "models"}


def test_import_is_light_and_without_warnings():
    program = "import sys, inception_tf; assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


@pytest.mark.slow
def test_every_module_may_be_the_first():
    """Each in a process that has Keras and nothing of ours, forked so that Keras is not imported a hundred times."""
    program = """
import importlib, os, sys
import keras
for module in sys.argv[1:]:
    if not (child := os.fork()):
        importlib.import_module(module)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{module} cannot be the first")
"""
    modules = [module for module in MODULES if not module.endswith("__main__")]
    subprocess.run([sys.executable, "-c", program, *modules], check=True)
