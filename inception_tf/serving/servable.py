"""A SavedModel that answers TensorFlow Serving's requests as Serving does: in a session, by the tensors' names."""

import math
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from grpc import StatusCode
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, predict_pb2, prediction_log_pb2
from tensorflow_serving.apis.model_pb2 import ModelSpec

from inception_tf.errors import reason
from inception_tf.exports.serving_files import WARMUP
from inception_tf.quiet import no_deprecations

CLASSIFY = "tensorflow/serving/classify"

# The most rows of a request, since a client can send an empty string in two bytes; and the most that run at once.
MAX_ROWS, BATCH = 4096, 32


class RpcError(Exception):
    """Why a request fails, or a version does not load: a `grpc.StatusCode` and a message of one line."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


def invalid(message):
    """The error of a request that can never succeed."""
    return RpcError(StatusCode.INVALID_ARGUMENT, message)


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
            self._warm_up(Path(path, WARMUP))
        except Exception as error:  # whatever half a file raises
            raise RpcError(StatusCode.FAILED_PRECONDITION, f"Cannot load {path}: {reason(error)}") from error
        self.max_bytes, self.timeout = max_bytes, timeout

    def _warm_up(self, path):
        records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator() if path.is_file() else ()
        for record in records:
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.HasField("predict_log"):
                self.predict(log.predict_log.request)
            elif log.HasField("classify_log"):
                self.classify(log.classify_log.request)

    def signature(self, name):
        """The SignatureDef called `name`, or the default one."""
        if (name or "serving_default") not in self.signatures:
            raise invalid(f'Serving signature name: "{name:.200}" not found in signature def')
        return self.signatures[name or "serving_default"]

    def run(self, name, inputs, outputs=()):
        """Runs a signature.

        Args:
            name: of the signature.
            inputs: a dict of arrays; strings are bytes in an array of objects.
            outputs: the names of those to compute. Default: all.

        Returns:
            A dict of arrays.
        """
        signature = self.signature(name)
        fetches = {key: info.name for key, info in signature.outputs.items() if key in outputs or not outputs}
        if outputs and set(fetches) != set(outputs):
            raise invalid(f"output tensor alias not found in signature: {list(outputs)!s:.200}")
        wanted = {key: tf.as_dtype(info.dtype).name for key, info in sorted(signature.inputs.items())}
        given = {key: tf.as_dtype(array.dtype).name for key, array in sorted(inputs.items())}
        if given != wanted:
            raise invalid(f"input does not match signature. Received: {given!s:.300}. Expected: {wanted}")
        rows = max((len(array) for array in inputs.values() if array.ndim), default=0)
        if rows > MAX_ROWS:
            raise invalid(f"A request may have {MAX_ROWS} rows. Received: {rows}")
        feed, parts = {signature.inputs[key].name: array for key, array in inputs.items()}, []
        end = time.monotonic() + self.timeout
        try:
            for i in range(0, max(rows, 1), BATCH):
                part = {tensor: array[i : i + BATCH] if array.ndim else array for tensor, array in feed.items()}
                left = tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(1000 * (end - time.monotonic()))))
                parts.append(self._session.run(fetches, part, left))
            return parts[0] if len(parts) == 1 else {key: np.concatenate([p[key] for p in parts]) for key in fetches}
        except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
            raise invalid(reason(error)) from error
        except tf.errors.DeadlineExceededError as error:
            raise RpcError(StatusCode.DEADLINE_EXCEEDED, f"No answer within {self.timeout:g} seconds") from error
        except (tf.errors.OpError, RuntimeError) as error:
            raise RpcError(StatusCode.INTERNAL, reason(error)) from error

    def classes_and_scores(self, name, examples, context=b""):
        """What a signature of Serving's Classify gives for serialized `tf.Example`s: two arrays."""
        signature = self.signature(name)
        if signature.method_name != CLASSIFY or not {"classes", "scores"} <= set(signature.outputs):
            method = f"{signature.method_name}, {', '.join(signature.outputs)}"
            raise invalid(f"Expected a signature of {CLASSIFY} with classes and scores. Received: {method}")
        if not examples:
            raise invalid("Input is empty: there are no examples")
        if len(context) * len(examples) > self.max_bytes:
            raise invalid(f"The context is too large for {len(examples)} examples.")
        # A message behind another is merged into it: so every example gets the context.
        outputs = self.run(name, {"inputs": np.array([context + example for example in examples], object)})
        return outputs["classes"], outputs["scores"]

    def predict(self, request):
        """The PredictResponse to a PredictRequest."""
        inputs = {key: self._array(key, proto) for key, proto in request.inputs.items()}
        outputs = self.run(request.model_spec.signature_name, inputs, request.output_filter)
        response = predict_pb2.PredictResponse(model_spec=self._spec(request))
        for key, array in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(array))
        return response

    def _array(self, key, proto):
        """The array of a TensorProto."""
        shape = [dim.size for dim in proto.tensor_shape.dim]
        try:
            # One value may stand for all, so the size is looked at before anything so large is built.
            if math.prod(shape) * tf.as_dtype(proto.dtype).size > self.max_bytes:
                raise ValueError(f"it is larger than {self.max_bytes:,} bytes")
            if proto.dtype == tf.string.as_datatype_enum and math.prod(shape) != len(proto.string_val):
                raise ValueError(f"it has {len(proto.string_val)} strings")
            return tf.make_ndarray(proto)
        except (ValueError, TypeError, LookupError) as error:
            raise invalid(f"Input {key:.200} is not a tensor of shape {shape}: {reason(error)}") from None

    def classify(self, request):
        """The ClassificationResponse to a ClassificationRequest."""
        kind = request.input.WhichOneof("kind")
        examples = [one.SerializeToString() for one in getattr(request.input, kind).examples] if kind else []
        context = request.input.example_list_with_context.context.SerializeToString()
        results = self.classes_and_scores(request.model_spec.signature_name, examples, context)
        response = classification_pb2.ClassificationResponse(model_spec=self._spec(request))
        for classes, scores in zip(*results):
            row = response.result.classifications.add()
            for label, score in zip(classes, scores):
                row.classes.add(label=label.decode("utf-8", "replace"), score=score)
        return response

    def metadata(self, request):
        """The GetModelMetadataResponse to a GetModelMetadataRequest."""
        if list(request.metadata_field) != ["signature_def"]:
            raise invalid(f"metadata_field must be signature_def. Received: {list(request.metadata_field)!s:.200}")
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=self._spec(request))
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=self.signatures)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def _spec(self, request):
        spec = ModelSpec(name=self.name, signature_name=request.model_spec.signature_name)
        spec.version.value = self.number
        return spec
