"""Real Slim checkpoints for every test: TF-Slim's own graphs, TensorFlow 1's own optimizers, averages and Saver."""

import contextlib
import ctypes
import functools
import gc
import json
import os
import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from slim_files import SMALL, build_slim, write_tensors

from inception_tf.slim.golden import deterministic_weights

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """The longest first, so that the workers end together."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")


@pytest.fixture(scope="module", autouse=True)
def release_memory():
    """Before each file: the models of the one before are cycles of references, and glibc keeps what was freed."""
    gc.collect()
    gc.freeze()  # what is left is the session's: no later collection goes through it
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture
def full_disk():
    """No file may grow past 100 kB: what a full disk does to a writer, without a disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(scope="session")
def shared():
    """The folder of reference data beside the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared beside the repository")
    return folder


@pytest.fixture(scope="session")
def slim_variables():
    """A function from a network to its variables, a dict from Slim's names to shapes, as read off TF-Slim's graphs."""

    def read(network):
        facts = json.loads((ROOT / "tests/models/slim_variables" / f"{network}.json").read_text())
        return {name: tuple(shape) for name, shape in facts.items()}

    return read


@pytest.fixture(scope="session")
def slim_graph(slim_variables):
    """A function that builds a TF-Slim graph and returns its variables, a dict from names to shapes, cached.

    Only what changes the graph builds another: a scope is a prefix, the number of classes a side of the heads' shapes.
    For a network as published the facts are on file.

    Args:
        network: its name.
        scope: the variable scope. Default: the network's.
        size: the side of the images, or (height, width). Default: the network's.
        channels: of the images. Default: the network's.
        **options: as the network's constructor takes them. Default: that of SMALL, 5 classes, no auxiliary head.
    """
    import tensorflow.compat.v1 as tf

    from inception_tf.models.registry import find_network
    from inception_tf.slim.names import scoped

    @functools.cache
    def build(network, **options):
        with tf.Graph().as_default():
            return {v.op.name: tuple(v.shape.as_list()) for v in build_slim(network, aux_logits=True, **options)}

    def variables(network="inception_v3", scope=None, classes=5, aux_logits=False, **options):
        info = find_network(network)
        is_built = options or network in SMALL
        shapes, own_classes = (build(network, **options), 5) if is_built else (slim_variables(network), info.classes)
        return {
            scoped(info.scope if scope is None else scope, name.removeprefix(f"{info.scope}/")): (
                (*shape[:-1], classes) if shape[-1] == own_classes else shape
            )
            for name, shape in shapes.items()
            if aux_logits or "/AuxLogits/" not in name
        }

    return variables


@pytest.fixture(scope="session")
def slim_checkpoint(tmp_path_factory, slim_graph):
    """A function from `slim_graph`'s arguments, and `format`, to the checkpoint of that graph, cached.

    The weights follow from the names. Tests read these files; a test copies what it damages first.
    """

    @functools.cache
    def make(network="inception_v3", format="v2", **arguments):
        path = tmp_path_factory.mktemp("slim") / "model.ckpt-20000"
        shapes = slim_graph(network, **arguments)
        return write_tensors(path, {name: deterministic_weights(name, shapes[name]) for name in shapes}, format)

    return make


@pytest.fixture(scope="module")
def cached_originals():
    """For modules that often compare with TF-Slim's graph of a checkpoint: it runs once for the same images."""
    from inception_tf.models.registry import find_network
    from inception_tf.slim import verify

    run, cache = verify.run_original, {}

    def run_original(checkpoint, images, found, ema="auto", graph=None):
        options = find_network(found.network).options_for(**{**(graph or {}), **found.options})
        key = str(checkpoint.path), images.shape, images.tobytes(), found.scope, ema, str(options)
        if key not in cache:
            cache[key] = run(checkpoint, images, found, ema, graph)
        return cache[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "run_original", run_original)
        yield run_original


@pytest.fixture(scope="session")
def trained(tmp_path_factory, slim_graph):
    """What a training run of TF-Slim leaves: a small Inception-v3 of 5 classes with its auxiliary head, at step 20000.

    Beside the weights it has RMSProp's slots and ExponentialMovingAverage shadows, under the names that TensorFlow 1
    gives them: test_detect.py and test_checkpoint.py have it give them itself.

    Attributes: path, of a V2 checkpoint. weights, shadows: dicts from the weights' names to arrays, the shadows having
    other values. others: the names of all other tensors.
    """
    shapes = slim_graph(aux_logits=True)
    weights = {name: deterministic_weights(name, shape) for name, shape in shapes.items()}
    shadows = {name: deterministic_weights(f"shadow/{name}", shape) for name, shape in shapes.items()}
    others = {f"{name}/ExponentialMovingAverage": value for name, value in shadows.items()}
    for name in (name for name in weights if "/moving_" not in name):
        others |= {f"{name}/RMSProp": np.ones_like(weights[name]), f"{name}/RMSProp_1": np.zeros_like(weights[name])}
    others["global_step"] = np.int64(20000)
    path = write_tensors(tmp_path_factory.mktemp("trained") / "model.ckpt-20000", weights | others)
    return SimpleNamespace(path=path, weights=weights, shadows=shadows, others=set(others))
