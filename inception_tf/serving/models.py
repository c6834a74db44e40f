"""The models that the local server serves. They answer as TensorFlow Serving does: in a session, by tensors' names."""

import gc
import logging
import math
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from grpc import StatusCode
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, predict_pb2, prediction_log_pb2
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse

from inception_tf.errors import UsageError, reason
from inception_tf.exports.serving_files import WARMUP
from inception_tf.quiet import no_deprecations
from inception_tf.serving.directories import find_models, versions_in

log = logging.getLogger(__name__)

CLASSIFY = "tensorflow/serving/classify"

# The most rows of a request, since a client can send an empty string in two bytes; and the most that run at once.
MAX_ROWS, BATCH = 4096, 32

CODES = {code.value[0]: code for code in StatusCode}


class RpcError(Exception):
    """Why a request fails, or a version does not load: a message of one line and a `grpc.StatusCode`."""

    def __init__(self, message, code=StatusCode.INVALID_ARGUMENT):
        super().__init__(message)
        self.message, self.code = message, code


class Servable:
    """A version of a model, loaded and warmed up.

    Args:
        name, number, path: the model's name, the version's number and its directory.
        max_bytes: the memory that an input may take; a short message can describe a large tensor.
        timeout: seconds for a request; what runs longer is stopped.

    Raises:
        RpcError: it does not load, or does not answer its own warm-up requests.
    """

    def __init__(self, name, number, path, max_bytes, timeout):
        self.name, self.number, self.max_bytes, self.timeout = name, number, math.inf, 3600
        try:
            with tf.Graph().as_default(), no_deprecations():
                self._session = tf.compat.v1.Session()
                meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(path))
            self.signatures = {key: one for key, one in sorted(meta_graph.signature_def.items()) if one.method_name}
            for file in Path(path).glob(WARMUP):
                for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
                    request = prediction_log_pb2.PredictionLog.FromString(record)
                    if request.HasField("predict_log"):
                        self.predict(request.predict_log.request)
                    elif request.HasField("classify_log"):
                        self.classify(request.classify_log.request)
        except Exception as error:  # whatever half a file raises
            raise RpcError(f"Cannot load {path}: {reason(error)}", StatusCode.FAILED_PRECONDITION) from error
        self.max_bytes, self.timeout = max_bytes, timeout

    def signature(self, name):
        """The SignatureDef called `name`, or the default one."""
        if (name or "serving_default") not in self.signatures:
            raise RpcError(f'Serving signature name: "{name:.200}" not found in signature def')
        return self.signatures[name or "serving_default"]

    def predict(self, request):
        """The PredictResponse to a PredictRequest."""
        signature, outputs = self.signature(request.model_spec.signature_name), request.output_filter
        if not set(outputs) <= set(signature.outputs) or len(set(outputs)) < len(outputs):
            raise RpcError(f"output tensor alias not found in signature, or twice: {list(outputs)!s:.200}")
        wanted = {key: tf.as_dtype(info.dtype).name for key, info in sorted(signature.inputs.items())}
        inputs = {key: self._array(key, proto) for key, proto in sorted(request.inputs.items())}
        given = {key: tf.as_dtype(array.dtype).name for key, array in inputs.items()}
        if given != wanted:
            raise RpcError(f"input does not match signature. Received: {given!s:.300}. Expected: {wanted}")
        rows = max((len(array) for array in inputs.values() if array.ndim), default=0)
        if rows > MAX_ROWS:
            raise RpcError(f"A request may have {MAX_ROWS} rows. Received: {rows}")
        fetches = {key: signature.outputs[key].name for key in outputs or signature.outputs}
        end, parts = time.monotonic() + self.timeout, []
        try:
            for i in range(0, max(rows, 1), BATCH):
                part = {key: array[i : i + BATCH] if array.ndim else array for key, array in inputs.items()}
                feed = {signature.inputs[key].name: array for key, array in part.items()}
                left = tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(1000 * (end - time.monotonic()))))
                parts.append(self._session.run(fetches, feed, left))
            arrays = parts[0] if len(parts) == 1 else {key: np.concatenate([p[key] for p in parts]) for key in fetches}
        except tf.errors.OpError as error:
            raise RpcError(reason(error), CODES[error.error_code]) from error
        except (ValueError, TypeError) as error:
            raise RpcError(reason(error)) from error
        protos = {key: tf.make_tensor_proto(array) for key, array in arrays.items()}
        return predict_pb2.PredictResponse(model_spec=self._spec(request), outputs=protos)

    def _array(self, key, proto):
        """The array of a TensorProto."""
        shape = [dim.size for dim in proto.tensor_shape.dim]
        try:
            # One value may stand for all, so the size is looked at before anything so large is built.
            if math.prod(shape) * tf.as_dtype(proto.dtype).size > max(self.max_bytes, proto.ByteSize()):
                raise ValueError(f"it is larger than {self.max_bytes:,} bytes")
            if proto.dtype == tf.string.as_datatype_enum and math.prod(shape) != len(proto.string_val):
                raise ValueError(f"it has {len(proto.string_val)} strings")
            return tf.make_ndarray(proto)
        except (ValueError, TypeError, LookupError) as error:
            raise RpcError(f"Input {key:.200} is not a tensor of shape {shape}: {reason(error)}") from None

    def classify(self, request):
        """The ClassificationResponse to a ClassificationRequest."""
        signature, kind = self.signature(request.model_spec.signature_name), request.input.WhichOneof("kind")
        if signature.method_name != CLASSIFY or not {"classes", "scores"} <= set(signature.outputs):
            method = f"{signature.method_name}, {', '.join(signature.outputs)}"
            raise RpcError(f"Expected a signature of {CLASSIFY} with classes and scores. Received: {method}")
        examples = [one.SerializeToString() for one in getattr(request.input, kind).examples] if kind else []
        if not examples:
            raise RpcError("Input is empty: there are no examples")
        context = request.input.example_list_with_context.context.SerializeToString()
        if len(context) * len(examples) > self.max_bytes:
            raise RpcError(f"The context is too large for {len(examples)} examples.")
        # A message behind another is merged into it: so every example gets the context.
        inputs = {"inputs": tf.make_tensor_proto([context + example for example in examples], tf.string)}
        outputs = self.predict(predict_pb2.PredictRequest(model_spec=request.model_spec, inputs=inputs)).outputs
        response = classification_pb2.ClassificationResponse(model_spec=self._spec(request))
        for classes, scores in zip(tf.make_ndarray(outputs["classes"]), tf.make_ndarray(outputs["scores"])):
            row = response.result.classifications.add().classes
            for label, score in zip(classes, scores):
                row.add(label=label.decode("utf-8", "replace"), score=score)
        return response

    def metadata(self, request):
        """The GetModelMetadataResponse to a GetModelMetadataRequest."""
        if list(request.metadata_field) != ["signature_def"]:
            raise RpcError(f"metadata_field must be signature_def. Received: {list(request.metadata_field)!s:.200}")
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=self._spec(request))
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=self.signatures)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def _spec(self, request):
        name = request.model_spec.signature_name
        return {"name": self.name, "version": {"value": self.number}, "signature_name": name}


class Models:
    """The newest version of every model that loads, and the states of the others.

    A version that is replaced is unloaded when the last request that uses it ends: nothing else refers to it.

    Args:
        directory: as of `find_models`; every `refresh` looks at it.
        max_bytes, timeout: as of `Servable`.

    Attributes:
        servables: a dict from the names to the `Servable`s.
    """

    def __init__(self, directory, max_bytes, timeout):
        self.directory, self.limits = directory, (max_bytes, timeout)
        self.servables, self._states, self._failed = {}, {}, {}

    def refresh(self):
        """Checks the disk once: loads newer versions, or an older one if the one that is served was deleted."""
        try:
            bases = find_models(self.directory)
        except UsageError:
            if self.servables:
                return  # what is served stays, even when its directory is deleted
            raise
        for name, base in bases.items():
            served = self.servables[name].number if name in self.servables else None
            for number, path in sorted(versions_in(base).items(), reverse=True):
                if number == served or self._load(name, number, path):
                    break

    def _load(self, name, number, path):
        """Serves a version. Returns whether it loads; that is tried again once its files have changed."""
        states, start = self._states.setdefault(name, {}), time.monotonic()
        # Files that are still being copied differ from check to check.
        files = {(file, file.stat().st_size, file.stat().st_mtime_ns) for file in path.rglob("*") if file.is_file()}
        if self._failed.get(path) == files:
            return False
        states[number] = "LOADING", 0, ""
        try:
            self.servables[name] = Servable(name, number, path, *self.limits)
        except RpcError as error:
            states[number], self._failed[path] = ("END", error.code.value[0], error.message), files
            log.error("%s: version %d does not load: %s", name, number, error)
            return False
        states |= {old: ("END", 0, "") for old, (state, *_) in states.items() if state == "AVAILABLE"}
        states[number] = "AVAILABLE", 0, ""
        log.info("%s: version %d is served (%.1f s)", name, number, time.monotonic() - start)
        gc.collect()  # the graph of one that is no longer served refers to itself
        return True

    def servable(self, spec):
        """The `Servable` that a ModelSpec names."""
        number = spec.version.value if spec.HasField("version") else None
        servable = self.servables.get(spec.name)
        if not spec.name:
            raise RpcError("ModelSpec has no name specified.")
        if spec.version_label:
            raise RpcError(f"Unrecognized servable version label: {spec.version_label:.200}")
        if servable is None or number not in (None, servable.number):
            request = f"Latest({spec.name:.200})" if number is None else f"Specific({spec.name:.200}, {number})"
            raise RpcError(f"Servable not found for request: {request}", StatusCode.NOT_FOUND)
        return servable

    def status(self, request):
        """The GetModelStatusResponse to a GetModelStatusRequest: of one version, or of all."""
        spec, response = request.model_spec, GetModelStatusResponse()
        for number, (state, code, message) in sorted(self._states.get(spec.name, {}).items(), reverse=True):
            if not spec.HasField("version") or spec.version.value == number:
                status = {"error_code": code, "error_message": message}
                response.model_version_status.add(version=number, state=state, status=status)
        if not response.model_version_status:
            raise RpcError(f"Could not find any versions of model {spec.name:.200}", StatusCode.NOT_FOUND)
        return response
