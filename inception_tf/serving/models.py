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
    """The newest version of every model that loads, and the states of the others.

    A version that is replaced is unloaded when the last request that uses it ends: nothing else refers to it.

    Args:
        find: a function without arguments to a dict from names to base directories; called by every `refresh`.
        max_bytes, timeout: as of `Servable`.

    Attributes:
        servables: a dict from the names to the `Servable`s that are served.
    """

    def __init__(self, find, max_bytes, timeout):
        self.find, self.limits = find, (max_bytes, timeout)
        self.servables, self._states, self._failed = {}, {}, {}

    def refresh(self):
        """Checks the disk once: loads newer versions, or an older one if the one that is served was deleted."""
        try:
            bases = self.find()
        except UsageError:
            if self.servables:
                return  # what is served stays, even when its directory is deleted
            raise
        for name, base in bases.items():
            for number, path in sorted(versions_in(base).items(), reverse=True):
                answers = name in self.servables and self.servables[name].number == number
                if answers or self._load(name, number, path):
                    break

    def _load(self, name, number, path):
        """Whether a version loads. One that did not is tried again once its files have changed."""
        states, start = self._states.setdefault(name, {}), time.monotonic()
        # Files that are still being copied differ from check to check.
        files = {(file, file.stat().st_size, file.stat().st_mtime_ns) for file in path.rglob("*") if file.is_file()}
        if self._failed.get(path) == files:
            return False
        states[number] = "LOADING", None
        try:
            servable = Servable(name, number, path, *self.limits)
        except RpcError as error:
            # A copy without the traceback, whose frames hold what was loaded.
            states[number], self._failed[path] = ("END", RpcError(error.code, error.message)), files
            log.error("%s: version %d does not load: %s", name, number, error)
            return False
        if name in self.servables:
            states[self.servables[name].number] = "END", None
        self.servables[name], states[number] = servable, ("AVAILABLE", None)
        gc.collect()  # the graph of the old one refers to itself
        log.info("%s: version %d is served (%.1f s)", name, number, time.monotonic() - start)
        return True

    def servable(self, spec):
        """The `Servable` that a ModelSpec names."""
        number = spec.version.value if spec.HasField("version") else None
        servable = self.servables.get(spec.name)
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        if spec.version_label:
            raise invalid(f"Unrecognized servable version label: {spec.version_label:.200}")
        if servable is None or number not in (None, servable.number):
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
