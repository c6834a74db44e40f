"""Which versions of which models are served: loaded when they appear, replaced when newer ones answer."""

import gc
import logging
import time

from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse, ModelVersionStatus

from inception_tf.errors import UsageError
from inception_tf.serving.directories import versions_in
from inception_tf.serving.servable import RpcError, Servable, StatusCode, invalid

log = logging.getLogger(__name__)


class Models:
    """The newest versions of every model that load, and the states of the others.

    A version that is replaced is unloaded when the last request that uses it ends: nothing else refers to it.

    Args:
        find: a function without arguments to a dict from names to base directories; called by every `refresh`.
        max_bytes, timeout: as of `Servable`.
        versions: how many of a model are served.

    Attributes:
        servables: a dict from the names to the newest `Servable`s that are served.
        served: a dict from the names to all of them, by number, the newest first.
    """

    def __init__(self, find, max_bytes, timeout, versions=1):
        self.find, self.limits, self.versions = find, (max_bytes, timeout), versions
        self.servables, self.served, self._states, self._failed = {}, {}, {}, {}

    def refresh(self):
        """Checks the disk once: loads newer versions, or an older one if the one that is served was deleted."""
        try:
            bases = self.find()
        except UsageError:
            if self.servables:
                return  # what is served stays, even when its directory is deleted
            raise
        for name, base in bases.items():
            old, new = self.served.get(name, {}), {}
            for number, path in sorted(versions_in(base).items(), reverse=True):
                servable = old.get(number) or self._load(name, number, path)
                if servable:
                    new[number] = servable
                if len(new) == self.versions:
                    break
            if new and set(new) != set(old):
                self.served[name], self.servables[name] = new, next(iter(new.values()))
                for number in {*old, *new}:
                    self._states[name][number] = "AVAILABLE" if number in new else "END", None
                del old, new, servable
                gc.collect()  # the graph of one that is no longer served refers to itself

    def _load(self, name, number, path):
        """The `Servable` of a version, None if it does not load. That is tried again once its files have changed."""
        states, start = self._states.setdefault(name, {}), time.monotonic()
        # Files that are still being copied differ from check to check.
        files = {(file, file.stat().st_size, file.stat().st_mtime_ns) for file in path.rglob("*") if file.is_file()}
        if self._failed.get(path) == files:
            return None
        states[number] = "LOADING", None
        try:
            servable = Servable(name, number, path, *self.limits)
        except RpcError as error:
            # A copy without the traceback, whose frames hold what was loaded.
            states[number], self._failed[path] = ("END", RpcError(error.code, error.message)), files
            log.error("%s: version %d does not load: %s", name, number, error)
            return None
        log.info("%s: version %d is served (%.1f s)", name, number, time.monotonic() - start)
        return servable

    def servable(self, spec):
        """The `Servable` that a ModelSpec names."""
        number = spec.version.value if spec.HasField("version") else None
        newest = self.servables.get(spec.name)
        servable = newest if number is None else self.served.get(spec.name, {}).get(number)
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        if spec.version_label:
            raise invalid(f"Unrecognized servable version label: {spec.version_label:.200}")
        if servable is None:
            request = f"Latest({spec.name:.200})" if number is None else f"Specific({spec.name:.200}, {number})"
            raise RpcError(StatusCode.NOT_FOUND, f"Servable not found for request: {request}")
        return servable

    def status(self, request):
        """The GetModelStatusResponse to a GetModelStatusRequest: of one version, or of all."""
        spec, response = request.model_spec, GetModelStatusResponse()
        for number, (state, error) in sorted(self._states.get(spec.name, {}).items(), reverse=True):
            if not spec.HasField("version") or spec.version.value == number:
                entry = response.model_version_status.add(version=number, state=ModelVersionStatus.State.Value(state))
                entry.status.error_code = error.code.value[0] if error else 0
                entry.status.error_message = error.message if error else ""
        if not response.model_version_status:
            raise RpcError(StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name:.200}")
        return response
