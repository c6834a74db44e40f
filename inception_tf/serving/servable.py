"""A SavedModel loaded to answer requests, as TensorFlow Serving does it: a session, tensors by their names."""

import math
import re
from pathlib import Path

import numpy as np

from inception_tf.errors import CheckpointError
from inception_tf.export.serving_files import WARMUP
from inception_tf.models.card import read_card
from inception_tf.serving.refusal import Refusal, invalid

PREDICT, CLASSIFY = "tensorflow/serving/predict", "tensorflow/serving/classify"

# The most rows of a request: each costs work, and an empty string costs a sender two bytes.
MAX_ROWS = 4096


class Servable:
    """A version of a model, loaded.

    Attributes:
        signatures: a dict from names to SignatureDefs.
        batches: the batch sizes it was exported for, or None where that is not known.
        compiled: whether XLA compiled it, so that every other size costs a compilation.

    Raises:
        Refusal: it does not load; says why in a line.
    """

    def __init__(self, path):
        import tensorflow as tf

        logger, level = tf.get_logger(), tf.get_logger().level
        logger.setLevel("ERROR")  # that the loader is of TensorFlow 1 is meant
        try:
            with tf.Graph().as_default():
                self._session = tf.compat.v1.Session()
                meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(path))
        except (tf.errors.OpError, OSError, RuntimeError, ValueError, KeyError) as error:
            raise Refusal("FAILED_PRECONDITION", f"Cannot load {path}: {first_line(error)}") from error
        finally:
            logger.setLevel(level)
        methods = (PREDICT, CLASSIFY, "tensorflow/serving/regress")
        self.signatures = {
            name: signature
            for name, signature in sorted(meta_graph.signature_def.items())
            if signature.method_name in methods
        }
        self._callables = {}
        for name, signature in self.signatures.items():
            inputs = [signature.inputs[key].name for key in sorted(signature.inputs)]
            outputs = [signature.outputs[key].name for key in sorted(signature.outputs)]
            self._callables[name] = self._session.make_callable(outputs, inputs)
        try:
            export = read_card(path).get("export", {})
        except CheckpointError:
            export = {}
        self.batches, self.compiled = export.get("batch"), bool(export.get("xla"))

    def signature(self, name):
        """The SignatureDef of a name; of an empty one, `serving_default`.

        Raises:
            Refusal: there is none.
        """
        try:
            return self.signatures[name or "serving_default"]
        except KeyError:
            raise invalid(f'Serving signature name: "{name}" not found in signature def') from None

    def check(self, name, shapes):
        """Refuses inputs that the signature does not take.

        Args:
            name: of the signature.
            shapes: a dict from the inputs' names to (dtype, shape), the dtype by TensorFlow's number.
        """
        from tensorflow.core.framework import types_pb2

        wanted = self.signature(name).inputs
        if set(shapes) != set(wanted):
            extra, missing = sorted(set(shapes) - set(wanted)), sorted(set(wanted) - set(shapes))
            raise invalid(
                f"input size does not match signature: {len(shapes)}!={len(wanted)}. "
                f"Sent extra: {{{','.join(extra)[:300]}}}. Missing but required: {{{','.join(missing)}}}."
            )
        rows = set()
        for key, (dtype, shape) in shapes.items():
            info = wanted[key]
            if dtype != info.dtype:
                given = types_pb2.DataType.Name(dtype) if dtype in types_pb2.DataType.values() else dtype
                raise invalid(f"Input {key} is {given}, but the signature takes {types_pb2.DataType.Name(info.dtype)}.")
            sides = [dim.size for dim in info.tensor_shape.dim]
            fits = len(shape) == len(sides) and all(side in (-1, own) for side, own in zip(sides, shape))
            if not info.tensor_shape.unknown_rank and not (fits and all(side >= 0 for side in shape)):
                text = ",".join("?" if side == -1 else str(side) for side in sides)
                raise invalid(f"Input {key} has the shape {list(shape)}, but the signature takes [{text}].")
            rows.add(shape[0] if shape else None)
        if len(rows) > 1:
            raise invalid(f"The inputs have different numbers of rows: {sorted(map(str, rows))}.")
        if max((row or 0 for row in rows), default=0) > MAX_ROWS:
            raise invalid(f"A request may have {MAX_ROWS} rows. Received: {max(rows)}")

    def run(self, name, inputs):
        """Runs a signature. It releases Python's lock, so threads run side by side.

        Args:
            name: of the signature.
            inputs: a dict of arrays that `check` let through; strings are bytes in an object array.

        Returns:
            A dict of arrays.

        Raises:
            Refusal: the graph failed.
        """
        import tensorflow as tf

        try:
            outputs = self._callables[name](*(inputs[key] for key in sorted(inputs)))
        except tf.errors.InvalidArgumentError as error:
            raise invalid(first_line(error)) from error
        except (tf.errors.OpError, RuntimeError) as error:  # a closed session is a RuntimeError
            raise Refusal("INTERNAL", first_line(error)) from error
        return dict(zip(sorted(self.signature(name).outputs), outputs))

    def close(self):
        self._session.close()


def warm_up(servable, path):
    """Replays the warm-up requests that came with a version. Returns how many there were."""
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    file, count = Path(path, WARMUP), 0
    if not file.is_file():
        return 0
    try:
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            log = PredictionLog.FromString(record)
            kind = log.WhichOneof("log_type")
            if kind == "predict_log":
                request = log.predict_log.request
                inputs = {key: tf.make_ndarray(tensor) for key, tensor in request.inputs.items()}
            elif kind == "classify_log":
                request = log.classify_log.request
                inputs = {"inputs": serialized_examples(request.input, math.inf)}
            else:
                continue
            name = request.model_spec.signature_name or "serving_default"
            servable.check(
                name, {key: (servable.signature(name).inputs[key].dtype, a.shape) for key, a in inputs.items()}
            )
            servable.run(name, inputs)
            count += 1
    except Refusal:
        raise
    except Exception as error:  # a file of anything
        raise Refusal("FAILED_PRECONDITION", f"Cannot replay {file}: {first_line(error)}") from error
    return count


def serialized_examples(request_input, max_bytes):
    """The serialized `tf.Example`s of a Serving `Input`, as an object array; the context is merged into each.

    Raises:
        Refusal: there are none; or they are more than `max_bytes`, since a context counts for every example.
    """
    kind = request_input.WhichOneof("kind")
    examples = getattr(request_input, kind).examples if kind else ()
    if not examples:
        raise invalid("Input is empty.")
    context = b""
    if kind == "example_list_with_context":
        context = request_input.example_list_with_context.context.SerializeToString()
        check_context(context, len(examples), max_bytes)
    array = np.empty(len(examples), object)
    # Messages in a row are merged when they are read.
    array[:] = [context + example.SerializeToString() for example in examples]
    return array


def check_context(context, count, max_bytes):
    """Refuses a context that, merged into every example, is more than `max_bytes`."""
    if len(context) * count > max_bytes:
        raise invalid(f"The context is too large for {count} examples.")


def first_line(error):
    """What went wrong, without the names that TensorFlow gives its operations."""
    text = str(getattr(error, "message", error)).strip().splitlines() or [type(error).__name__]
    return re.sub(r"\{\{.*?\}\} ?| ?\[Op:\w+\]", "", text[0])[:500]
