"""TensorFlow Serving's REST: JSON to its messages and back, by the rules of its util/json_tensor.cc."""

import base64
import json
import math
import reprlib

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from inception_tf.serving.models import RpcError


def predict(servable, body):
    """The JSON that answers a Predict request, in the row format or the column format, as the request has it.

    NaN and infinity are null: Serving writes `NaN` and `Infinity`, which a browser's parser refuses.
    """
    document, name = _parse(body)
    infos = servable.signature(name).inputs
    rows = "instances" in document
    if rows == ("inputs" in document):
        raise RpcError("Expecting one of the keys 'inputs' and 'instances'")
    values = document["instances"] if rows else document["inputs"]
    if rows and not (isinstance(values, list) and values):
        raise RpcError("Expecting 'instances' to be a list that is not empty")
    if rows and all(isinstance(one, dict) and one.keys() == values[0].keys() for one in values):
        values = {key: [one[key] for one in values] for key in values[0]}
    if len(infos) == 1 and not isinstance(values, dict):
        values = dict.fromkeys(infos, values)
    if not isinstance(values, dict) or set(values) != set(infos):
        raise RpcError(f"Expecting the inputs by name: {', '.join(infos)}. Received: {reprlib.repr(values):.200}")
    inputs = {key: _tensor(key, values[key], tf.as_dtype(info.dtype)) for key, info in infos.items()}
    response = servable.predict(PredictRequest(model_spec={"signature_name": name}, inputs=inputs))
    outputs = {key: _lists(key, tf.make_ndarray(proto)) for key, proto in sorted(response.outputs.items())}
    if len(outputs) == 1:
        (outputs,) = outputs.values()
    elif rows:
        outputs = [dict(zip(outputs, row)) for row in zip(*outputs.values())]
    return json.dumps({"predictions" if rows else "outputs": outputs}, ensure_ascii=False)


def classify(servable, body):
    """The JSON that answers a Classify request: a list of [label, score] for every example."""
    document, name = _parse(body)
    servable.signature(name)  # a name that is no text is refused before it is put into a message
    examples = document.get("examples")
    if not isinstance(examples, list):
        raise RpcError("Expecting 'examples' to be a list")
    request = ClassificationRequest(model_spec={"signature_name": name})
    given = request.input.example_list_with_context
    given.examples.extend(map(_example, examples))
    given.context.CopyFrom(_example(document.get("context", {})))
    rows = [row.classes for row in servable.classify(request).result.classifications]
    rows = [[(one.label, one.score if math.isfinite(one.score) else None) for one in row] for row in rows]
    return json.dumps({"results": rows}, ensure_ascii=False)


def _parse(body):
    """The JSON object of a request's body, where {"b64": …} is bytes, and the signature it names."""
    try:
        document = json.loads(body, object_hook=_unescaped)
    except (ValueError, RecursionError) as error:  # also of bytes that are not UTF-8
        raise RpcError(f"JSON Parse error: {error!s:.200}") from None
    if not isinstance(document, dict) or not isinstance(name := document.get("signature_name", ""), str):
        raise RpcError("Expecting a JSON object, in which 'signature_name' is a string")
    return document, name


def _unescaped(value):
    """The bytes of an object {"b64": …}, another object as it is."""
    if set(value) != {"b64"} or not isinstance(value["b64"], str):
        return value
    # As absl::Base64Unescape has it: white space is skipped, padding may be missing, or be of dots.
    text = value["b64"].encode().translate(None, b" \t\n\v\f\r")
    digits = text.rstrip(b"=.")
    padding = -len(digits) % 4
    if len(text) - len(digits) not in (0, padding):
        raise ValueError("wrong padding of base64")
    return base64.b64decode(digits + b"=" * padding, validate=True)


def _tensor(key, value, dtype):
    try:
        if dtype == tf.string:
            return tf.make_tensor_proto(np.vectorize(_bytes, otypes=[object])(np.array(value, object)))
        array = np.array(value, object)  # with another type one string would make every element as long
        kinds = {int, float} if dtype.is_floating else {int} if dtype.is_integer else {bool}
        if set(map(type, array.flat)) <= kinds:
            return tf.make_tensor_proto(array.astype(dtype.as_numpy_dtype))
    except (AttributeError, ValueError, TypeError, OverflowError, RecursionError):
        pass
    expected = "string, bytes as {'b64': base64}" if dtype == tf.string else dtype.name
    raise RpcError(f"Input {key} takes lists of equal sizes of type {expected}. Received: {reprlib.repr(value):.200}")


def _example(features):
    """The `tf.Example` of an object."""
    example = tf.train.Example()
    try:
        for key, values in features.items():
            values = values if isinstance(values, list) else [values]
            feature = example.features.feature[key]
            if all(isinstance(value, int) for value in values):
                feature.int64_list.value.extend(values)
            elif all(isinstance(value, float) for value in values):
                feature.float_list.value.extend(values)
            else:
                feature.bytes_list.value.extend(map(_bytes, values))
    except (AttributeError, ValueError, TypeError):
        raise RpcError(f"An example must be an object of values of one type: {reprlib.repr(features):.200}") from None
    return example


def _bytes(value):
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def _lists(key, array):
    """The lists of an array: strings are text, but for those of an output called …_bytes."""
    if array.dtype != object:
        return np.where(np.isfinite(array), array, None).tolist()

    def written(value):
        return {"b64": base64.b64encode(value).decode()} if key.endswith("_bytes") else value.decode("utf-8", "replace")

    return np.vectorize(written, otypes=[object])(array).tolist()
