"""The two files beside a SavedModel that TensorFlow Serving is configured by, in protocol buffers' text form."""

from pathlib import Path

# Batch sizes where none are asked for.
BATCHES = (1, 8, 32)

# Where Serving looks for it in a version, with --enable_batching --enable_per_model_batching_parameters.
BATCHING = "batching_params.pbtxt"
MODELS = "assets.extra/models.config"

# How long a request waits for others to share its batch: little beside a network's own tens of milliseconds.
TIMEOUT_MICROS = 2000


def write_serving_files(savedmodel, name, batches):
    """Writes `BATCHING` and `MODELS` into a SavedModel directory.

    Args:
        savedmodel: the directory.
        name: the servable's name.
        batches: the batch sizes, ascending.
    """
    Path(savedmodel, BATCHING).write_text(batching_params(batches), "utf-8")
    path = Path(savedmodel, MODELS)
    path.parent.mkdir(exist_ok=True)
    path.write_text(models_config({name: f"/models/{name}"}), "utf-8")


def batching_params(batches):
    """Serving's `BatchingParameters`. The threads are left to Serving, which takes as many as there are cores.

    The sizes are those Serving fills a batch up to; the last must be the largest batch.
    """
    lines = [
        f"max_batch_size {{ value: {batches[-1]} }}",
        f"batch_timeout_micros {{ value: {TIMEOUT_MICROS} }}",
        "max_enqueued_batches { value: 100 }",
        *(f"allowed_batch_sizes: {size}" for size in batches),
    ]
    return "".join(f"{line}\n" for line in lines)


def models_config(paths):
    """Serving's `ModelServerConfig`: the latest version of every model.

    Args:
        paths: a dict from models' names to their base directories, as the server sees them.
    """
    lines = ["model_config_list {"]
    for name, path in paths.items():
        lines += ["  config {", f"    name: {_quoted(name)}", f"    base_path: {_quoted(path)}"]
        lines += ['    model_platform: "tensorflow"', "  }"]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text):
    """A string of the text form: UTF-8 as it is, but for quotes, backslashes and control characters."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else "".join(f"\\{b:03o}" for b in c.encode()) for c in escaped) + '"'
