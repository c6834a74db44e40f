"""TensorFlow Serving's REST: JSON to arrays and back, by the rules of its util/json_tensor.cc."""

import base64
import json
import reprlib

import numpy as np
import tensorflow as tf

from inception_tf.serving.servable import invalid


def predict(servable, body):
    """The JSON that answers a Predict request, in the row format or the column format, as the request has it.

    NaN and infinity are null: Serving writes `NaN` and `Infinity`, which a browser's parser refuses.
    """
    document, name = _parse(body)
    infos = servable.signature(name).inputs
    rows = "instances" in document
    if rows == ("inputs" in document):
        raise invalid("Expecting one of the keys 'inputs' and 'instances'")
    values = _columns(document["instances"]) if rows else document["inputs"]
    if len(infos) == 1 and not _is_object(values):
        values = {next(iter(infos)): values}
    if not _is_object(values) or set(values) != set(infos):
        raise invalid(f"Expecting the inputs by name: {', '.join(infos)}. Received: {reprlib.repr(values):.200}")
    inputs = {key: _array(key, values[key], tf.as_dtype(info.dtype)) for key, info in infos.items()}
    outputs = {}
    for key, array in sorted(servable.run(name, inputs).items()):
        in_json = _base64 if key.endswith("_bytes") else _text
        outputs[key] = _nested(array.tolist(), in_json) if array.dtype == object else _numbers(array)
    if len(outputs) == 1:
        (outputs,) = outputs.values()
    elif rows:
        outputs = [dict(zip(outputs, row)) for row in zip(*outputs.values())]
    return json.dumps({"predictions" if rows else "outputs": outputs}, ensure_ascii=False)


def classify(servable, body):
    """The JSON that answers a Classify request: a list of [label, score] for every example."""
    document, name = _parse(body)
    examples = document.get("examples")
    if not isinstance(examples, list):
        raise invalid("Expecting 'examples' to be a list")
    results = servable.classes_and_scores(name, list(map(_example, examples)), _example(document.get("context", {})))
    rows = [list(zip(map(_text, classes), _numbers(scores))) for classes, scores in zip(*results)]
    return json.dumps({"results": rows}, ensure_ascii=False)


def _parse(body):
    """The JSON object of a request's body, and the signature it names."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:  # also of bytes that are not UTF-8
        raise invalid(f"JSON Parse error: {error!s:.200}") from None
    if not isinstance(document, dict):
        raise invalid("JSON Value is not an object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid("'signature_name' key must be a string value")
    return document, name


def _columns(instances):
    """Lists by name, where the rows are objects; the plain values of an only input as they are."""
    if not isinstance(instances, list) or not instances:
        raise invalid("Expecting 'instances' to be a list that is not empty")
    if not any(map(_is_object, instances)):
        return instances
    if not all(_is_object(one) and set(one) == set(instances[0]) for one in instances):
        raise invalid("Expecting all elements of 'instances' to be objects with the same keys, or none")
    return {name: [one[name] for one in instances] for name in instances[0]}


def _array(key, value, dtype):
    try:
        if dtype == tf.string:
            array = np.array(_nested(value, _bytes), object)
            fits = all(isinstance(one, bytes) for one in array.flat)
        else:
            array = np.array(value)
            fits = array.dtype.kind in ("iuf" if dtype.is_floating else "iu" if dtype.is_integer else "b")
        if fits or not array.size:
            return array.astype(dtype.as_numpy_dtype)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        pass
    expected = "string, bytes as {'b64': base64}" if dtype == tf.string else dtype.name
    raise invalid(f"Input {key} takes lists of equal sizes of type {expected}. Received: {reprlib.repr(value):.200}")


def _example(features):
    """The serialized `tf.Example` of an object."""
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
    except (AttributeError, ValueError, TypeError, KeyError):
        raise invalid(f"An example must be an object of values of one type: {reprlib.repr(features):.200}") from None
    return example.SerializeToString()


def _is_object(value):
    """Whether a value is an object, and not a string of bytes: `{"b64": …}`."""
    return isinstance(value, dict) and not (len(value) == 1 and isinstance(value.get("b64"), str))


def _nested(value, function):
    return [_nested(one, function) for one in value] if isinstance(value, list) else function(value)


def _bytes(value):
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    # As absl::Base64Unescape has it: white space is skipped, padding may be missing, or be of dots.
    text = value["b64"].encode().translate(None, b" \t\n\v\f\r")
    digits = text.rstrip(b"=.")
    padding = -len(digits) % 4
    if len(text) - len(digits) not in (0, padding):
        raise ValueError("wrong padding")
    return base64.b64decode(digits + b"=" * padding, validate=True)


def _numbers(array):
    finite = np.isfinite(array)
    return (array if finite.all() else np.where(finite, array, None)).tolist()


def _base64(value):
    return {"b64": base64.b64encode(value).decode()}


def _text(value):
    return value.decode("utf-8", "replace")
