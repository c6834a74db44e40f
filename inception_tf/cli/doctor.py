"""What is installed, what the machine can do, what is missing, and where files are kept."""

from inception_tf.cli.outcome import Outcome

KERAS = False
ENGINES = {
    "tensorflow": "Keras models, SavedModel, training",
    "jax": "Keras models on the JAX backend",
    "torch": "Keras models on the torch backend",
    "onnxruntime": "ONNX",
    "openvino": "OpenVINO",
    "ai-edge-litert": "LiteRT",
}


def add_arguments(parser):
    """No arguments of its own."""


def run(args):
    from inception_tf import tables
    from inception_tf.machine import gpus, machine
    from inception_tf.slim.download import home

    packages = f"inception-tf keras numpy pillow {' '.join(ENGINES)}"
    facts = {**machine(packages), "gpus": gpus(), "keras_backend": _keras_backend()}
    facts |= {"extras_missing": _extras_missing(), "checkpoints": _kept(home())}
    memory = f", {facts['memory'] / 2**30:.0f} GiB" if "memory" in facts else ""
    kept = facts["checkpoints"]
    rows = [
        ("system", facts["system"]),
        ("processor", f"{facts['processors']} × {facts['processor']}{memory}"),
        ("GPU", "; ".join(facts["gpus"]) or "none that nvidia-smi sees"),
        ("Keras's backend", facts["keras_backend"]),
        *((name, version) for name, version in facts["packages"].items() if name not in ENGINES),
        *((name, f"{facts['packages'].get(name, 'not installed')}: {what}") for name, what in ENGINES.items()),
        *((f"extra {name}", f"missing {', '.join(needs)}") for name, needs in facts["extras_missing"].items()),
        ("checkpoints", f"{kept['path']}: {kept['files']} files, {tables.short(kept['bytes'], 'B')}"),
    ]
    text = tables.render(rows)
    if facts["extras_missing"]:
        text += "\n\nAn extra is installed by: pip install 'inception-tf[NAME]', or '.[NAME]' in a checkout."
    return Outcome(text, facts)


def _keras_backend():
    """The backend that Keras would start with: the environment's, else that of its configuration."""
    import json
    import os
    from pathlib import Path

    config = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "keras.json"
    try:
        configured = json.loads(config.read_text("utf-8")).get("backend")
    except (OSError, ValueError):
        configured = None
    return os.environ.get("KERAS_BACKEND") or configured or "tensorflow"


def _extras_missing():
    """By extra, the packages that it asks for and that are not installed."""
    import importlib.metadata
    import re

    from inception_tf.machine import installed

    missing = {}
    try:
        requirements = importlib.metadata.requires("inception-tf") or []
    except importlib.metadata.PackageNotFoundError:
        return missing
    for requirement in requirements:
        name, extra = re.match(r"[\w.-]+", requirement)[0], re.search(r"extra == ['\"](\w+)['\"]", requirement)
        if extra and extra[1] not in ("test", "docs") and not installed(name):
            missing.setdefault(extra[1], []).append(name)
    return missing


def _kept(folder):
    """How many files are in a folder, and how large they are."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {"path": str(folder), "files": len(files), "bytes": sum(path.stat().st_size for path in files)}
