"""Which versions of which models are served: found in directories, loaded, swapped, drained."""

import asyncio
import contextlib
import dataclasses
import logging
import re
import time
from pathlib import Path

from inception_tf.errors import UsageError
from inception_tf.serving.batching import Batcher
from inception_tf.serving.refusal import Refusal, invalid
from inception_tf.serving.servable import Servable, warm_up

log = logging.getLogger(__name__)

# Seconds after which a version that does not load is tried again: the first time, and at most. It may have been
# copied into place while it was read.
RETRY, RETRY_MOST = 1, 60


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model to serve.

    Attributes:
        base: the directory of its versions.
        policy: "latest", "all", or a set of versions.
        latest: how many versions of the policy "latest".
        labels: a dict from labels to versions, which are served too.
    """

    base: Path
    policy: object = "latest"
    latest: int = 1
    labels: dict = dataclasses.field(default_factory=dict)

    def wanted(self):
        """The versions to serve of those that are there."""
        try:
            found = sorted(versions_in(self.base))
        except OSError:
            return set()
        if self.policy == "all":
            wanted = found
        elif self.policy == "latest":
            wanted = found[-self.latest :]
        else:
            wanted = self.policy
        return set(found) & (set(wanted) | set(self.labels.values()))


def versions_in(base):
    """The numbers of the versions in a base directory: children named by a number that hold a SavedModel."""
    children = Path(base).iterdir()
    return {int(p.name) for p in children if re.fullmatch("[0-9]{1,18}", p.name) and (p / "saved_model.pb").is_file()}


def find_models(directory):
    """The models that a directory means: itself, where it holds versions, else its children that do.

    Returns:
        A dict from names to base directories.

    Raises:
        UsageError: there are none.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory. Give one of models, or of one model's versions.")
    if (directory / "saved_model.pb").is_file():
        raise UsageError(f"{directory} is a version of a model itself. Give its parent.")
    try:
        if versions_in(directory):
            return {directory.resolve().name: directory}
        children = (p for p in sorted(directory.iterdir()) if p.is_dir() and not p.name.startswith("."))
        models = {p.name: p for p in children if versions_in(p)}
    except OSError as error:
        raise UsageError(f"Cannot read {directory}: {error.strerror}.") from error
    if not models:
        raise UsageError(
            f"{directory} holds no models: no NAME/VERSION/saved_model.pb and no VERSION/saved_model.pb. "
            "`inception-tf export` writes one."
        )
    return models


def read_config(path):
    """The models of a file that TensorFlow Serving takes as --model_config_file. Returns a dict of `ModelConfig`.

    Raises:
        UsageError: it cannot be read, or says what is not served here.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    try:
        config = text_format.Parse(Path(path).read_text("utf-8"), ModelServerConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise UsageError(f"Cannot read the models of {path}: {error}") from error
    models = {}
    for entry in config.model_config_list.config:
        kind = entry.model_version_policy.WhichOneof("policy_choice") or "latest"
        policy = set(entry.model_version_policy.specific.versions) if kind == "specific" else kind
        latest = entry.model_version_policy.latest.num_versions or 1
        models[entry.name] = ModelConfig(Path(entry.base_path), policy, latest, dict(entry.version_labels))
    if not models:
        raise UsageError(f"{path} names no models in model_config_list.")
    return models


class Version:
    """A version of a model.

    Attributes:
        name, number, path: of which model, which, where.
        state: START, LOADING, AVAILABLE, UNLOADING or END, as Serving's ModelVersionStatus has them.
        error: why it did not load, a `Refusal`, or None.
        servable: the `Servable`, while it is available.
    """

    def __init__(self, name, number, path):
        self.name, self.number, self.path = name, number, path
        self.state, self.error, self.servable = "START", None, None
        self.retry_at, self.retry_after = 0, RETRY
        self.batchers, self.uses, self.unused = {}, 0, asyncio.Event()

    @contextlib.contextmanager
    def use(self):
        """It is not unloaded meanwhile."""
        self.uses += 1
        try:
            yield self
        finally:
            self.uses -= 1
            if not self.uses:
                self.unused.set()


class Models:
    """The models of a server. Its methods run in one event loop; loading and running have threads.

    Args:
        find: a function without arguments to a dict of `ModelConfig` by name; asked at every look at the disk.
        executor: the threads that run networks.
        loader: the threads that load them.
        threads: how many batches of a signature run at once.
        batching: whether requests are merged.
        observe: is told (model, signature, rows) of every batch.
    """

    def __init__(self, find, executor, loader, threads=1, batching=True, observe=None):
        self.find, self.executor, self.loader = find, executor, loader
        self.threads, self.batching = threads, batching
        self.observe = observe or (lambda *_: None)
        self.configs, self.versions, self.unloading = {}, {}, set()

    def names(self):
        """The models with a version that answers."""
        return [name for name in sorted(self.versions) if self._available(name)]

    def _available(self, name):
        return {n: v for n, v in self.versions.get(name, {}).items() if v.state == "AVAILABLE"}

    def find_version(self, name, number=None, label=None):
        """The version that a request means: of its number, its label, or the latest.

        Raises:
            Refusal: there is none that answers.
        """
        if not name:
            raise invalid("ModelSpec has no name specified.")
        if label:
            labels = self.configs[name].labels if name in self.configs else {}
            if label not in labels:
                raise invalid(f"Unrecognized servable version label: {label}")
            number = labels[label]
        available = self._available(name)
        if number is None and available:
            return available[max(available)]
        if number in available:
            return available[number]
        request = f"Latest({name})" if number is None else f"Specific({name}, {number})"
        raise Refusal("NOT_FOUND", f"Servable not found for request: {request}")

    async def run(self, version, signature, inputs):
        """The outputs of a signature of a version that is in use. Arguments and errors as `Servable.run`."""
        signature = signature or "serving_default"
        if signature not in version.batchers:
            servable = version.servable
            sizes = servable.batches or [32]
            version.batchers[signature] = Batcher(
                lambda inputs: servable.run(signature, inputs),
                self.executor,
                self.threads,
                most=max(sizes),
                # Without XLA a network takes any size as well as another, and filling up is work for nothing.
                sizes=sizes if servable.compiled else None,
                observe=lambda rows: self.observe(version.name, signature, rows),
                merge=self.batching,
            )
        return await version.batchers[signature](inputs)

    async def refresh(self):
        """Looks at the disk once, loads what is new, and lets go of what is no longer wanted."""
        loop = asyncio.get_running_loop()
        self.configs, wanted = await loop.run_in_executor(self.loader, self._look)
        for name, numbers in wanted.items():
            versions = self.versions.setdefault(name, {})
            for number in sorted(numbers):
                version = versions.get(number)
                if version is None or version.state == "END":
                    if version is None or version.error is None:
                        version = versions[number] = Version(name, number, self.configs[name].base / str(number))
                    if time.monotonic() >= version.retry_at:
                        await self._load(version)
            # The old one stays until all of the new ones answer.
            if numbers and numbers <= set(self._available(name)):
                for number, version in self._available(name).items():
                    if number not in numbers:
                        self._unload(version)

    def _look(self):
        configs = self.find()
        return configs, {name: config.wanted() for name, config in configs.items()}

    async def _load(self, version):
        loop = asyncio.get_running_loop()
        version.state, start = "LOADING", time.monotonic()
        log.info("%s: loading version %d", version.name, version.number)
        try:
            version.servable, warmed = await loop.run_in_executor(self.loader, _loaded, version.path)
        except Exception as error:
            version.error = error if isinstance(error, Refusal) else Refusal("INTERNAL", str(error))
            version.state = "END"
            version.retry_at = time.monotonic() + version.retry_after
            version.retry_after = min(2 * version.retry_after, RETRY_MOST)
            log.error("%s: version %d does not load: %s", version.name, version.number, version.error)
            return
        version.state, version.error = "AVAILABLE", None
        seconds = time.monotonic() - start
        log.info("%s: version %d answers (%.1f s, %d warm-up requests)", version.name, version.number, seconds, warmed)

    def _unload(self, version):
        version.state = "UNLOADING"

        async def drained():
            while version.uses:
                version.unused.clear()
                await version.unused.wait()
            await asyncio.get_running_loop().run_in_executor(self.loader, version.servable.close)
            version.servable, version.batchers, version.state = None, {}, "END"
            log.info("%s: version %d unloaded", version.name, version.number)

        task = asyncio.get_running_loop().create_task(drained())
        self.unloading.add(task)
        task.add_done_callback(self.unloading.discard)

    async def close(self):
        """Lets all go once they are not in use."""
        for name in self.versions:
            for version in self._available(name).values():
                self._unload(version)
        await asyncio.gather(*self.unloading)


def _loaded(path):
    servable = Servable(path)
    try:
        return servable, warm_up(servable, path)
    except BaseException:
        servable.close()
        raise
