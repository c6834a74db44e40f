"""Arrays from REST's JSON and back, by TensorFlow Serving's rules (tensorflow_serving/util/json_tensor.cc)."""

import base64
import binascii
import json
import math

import numpy as np

from inception_tf.serving.refusal import invalid
from inception_tf.serving.servable import check_context

EXCERPT = 80


def parse(body):
    """The JSON object of a request's body.

    Raises:
        Refusal: it is none.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except RecursionError:
        raise invalid("JSON Parse error: too deeply nested") from None
    except ValueError as error:  # also of bytes that are no UTF-8, and of numbers of thousands of digits
        raise invalid(f"JSON Parse error: {str(error)[:200]}") from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_excerpt(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid("JSON Value not formatted correctly. 'signature_name' key must be a string value.")
    return document


def predict_inputs(document, signature):
    """The inputs of a Predict request.

    Args:
        document: what `parse` gave.
        signature: a SignatureDef.

    Returns:
        A dict of arrays, and whether the request has the row format.

    Raises:
        Refusal: it has neither `instances` nor `inputs`, or they do not fit the signature.
    """
    infos = signature.inputs
    if "instances" in document and "inputs" in document:
        raise invalid("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    if "instances" in document:
        return _from_rows(document["instances"], infos), True
    if "inputs" not in document:
        raise invalid("Missing 'inputs' or 'instances' key")
    inputs = document["inputs"]
    if not isinstance(inputs, dict) or _is_base64(inputs):
        if len(infos) > 1:
            raise invalid("inputs is a plain value/list, but expecting an object as multiple input tensors required")
        inputs = {next(iter(infos)): inputs}
    for name in infos:
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: _array(inputs[name], info, name) for name, info in infos.items()}, False


def _from_rows(instances, infos):
    if not isinstance(instances, list):
        raise invalid("Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid("No values in 'instances' array")
    named = isinstance(instances[0], dict) and not _is_base64(instances[0])
    if not named:
        if len(infos) > 1:
            raise invalid("instances is a plain list, but expecting list of objects as multiple input tensors required")
        name = next(iter(infos))
        for i, one in enumerate(instances):
            if isinstance(one, dict) and not _is_base64(one):
                raise invalid(f"Expecting value/list but got object at item {i} of input list")
        return {name: _array(instances, infos[name], name)}
    for i, one in enumerate(instances):
        if not isinstance(one, dict) or _is_base64(one):
            raise invalid(f"Expecting object but got list at item {i} of input list")
        if set(one) != set(infos):
            raise invalid(
                f"Failed to process element: {i} of 'instances' list. JSON object: {_excerpt(one)} "
                f"keys must be equal to: {','.join(infos)}"
            )
    return {name: _array([one[name] for one in instances], info, name) for name, info in infos.items()}


def _array(value, info, name):
    from tensorflow import dtypes

    dtype = dtypes.as_dtype(info.dtype)
    if dtype.name == "string":
        strings, shape = [], _shape(value)
        _collect(value, shape, strings, name)
        array = np.empty(len(strings), object)
        array[:] = strings
        return array.reshape(shape)
    try:
        array = np.array(value)
    except (ValueError, TypeError, OverflowError):
        raise invalid(f"Input {name} has lists of different sizes, or values that are no numbers.") from None
    kinds = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}.get(dtype.as_numpy_dtype(0).dtype.kind, "")
    if array.dtype.kind not in kinds and array.size:
        raise invalid(f"JSON Value: {_excerpt(value)} is not of expected type: {dtype.name}")
    with np.errstate(over="ignore"):
        return array.astype(dtype.as_numpy_dtype)


def _shape(value):
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _collect(value, shape, strings, name):
    if shape:
        if not isinstance(value, list) or len(value) != shape[0]:
            raise invalid(f"Input {name}: encountered list at unexpected size, expected {shape[0]} elements.")
        for one in value:
            _collect(one, shape[1:], strings, name)
        return
    if isinstance(value, str) or _is_base64(value):
        strings.append(_bytes(value))
    else:
        raise invalid(f"JSON Value: {_excerpt(value)} Type: {_type(value)} is not of expected type: string")


def _bytes(value):
    """The bytes of a string, or of `{"b64": …}`."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


def _is_base64(value):
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def examples(document, max_bytes):
    """The serialized `tf.Example`s of a Classify request, as an object array.

    Raises:
        Refusal: it has no `examples`, or one that is none; with their context they are more than `max_bytes`.
    """
    given = document.get("examples")
    if not isinstance(given, list):
        raise invalid("When method is classify, key 'examples' is expected to be a list/array")
    if not given:
        raise invalid("'examples' value is an empty array")
    context = _example(document.get("context", {})).SerializeToString()
    check_context(context, len(given), max_bytes)
    array = np.empty(len(given), object)
    # Messages in a row are merged when they are read.
    array[:] = [context + _example(one).SerializeToString() for one in given]
    return array


def _example(value):
    import tensorflow as tf

    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {_type(value)}")
    example = tf.train.Example()
    for name, content in value.items():
        content = content if isinstance(content, list) else [content]
        feature = example.features.feature[name]
        try:
            if all(isinstance(one, (int, bool)) for one in content):
                feature.int64_list.value.extend(map(int, content))
            elif all(isinstance(one, float) for one in content):
                feature.float_list.value.extend(content)
            elif all(isinstance(one, str) or _is_base64(one) for one in content):
                feature.bytes_list.value.extend(map(_bytes, content))
            else:
                raise invalid(f"Feature: {name[:EXCERPT]} has element with unexpected JSON type, or of several types")
        except ValueError:  # an integer beyond 64 bits
            raise invalid(f"Feature: {name[:EXCERPT]} has a number out of range") from None
    return example


def predict_json(outputs, rows):
    """The JSON of a Predict response, in the row format or the column format.

    NaN and infinity are written as Serving writes them, `NaN` and `Infinity`, which not every parser takes.
    """
    values = {name: _values(array, name.endswith("_bytes")) for name, array in outputs.items()}
    if not rows:
        document = {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    elif len(values) > 1:
        document = {"predictions": [dict(zip(values, row)) for row in zip(*values.values())]}
    else:
        document = {"predictions": next(iter(values.values()))}
    return json.dumps(document, ensure_ascii=False)


def classify_json(classes, scores):
    """The JSON of a Classify response: a list of [label, score] for every example."""
    rows = [list(map(list, zip(*row))) for row in zip(texts(classes), _values(scores))]
    return json.dumps({"results": rows}, ensure_ascii=False)


def texts(array):
    """Nested lists of strings, of an array of bytes in UTF-8."""
    return _nested(array.tolist(), lambda value: value.decode("utf-8", "replace"))


def _values(array, as_base64=False):
    if array.dtype.kind != "O":
        return array.tolist()
    if as_base64:
        return _nested(array.tolist(), lambda value: {"b64": base64.b64encode(value).decode()})
    return texts(array)


def _nested(value, function):
    return [_nested(one, function) for one in value] if isinstance(value, list) else function(value)


def _excerpt(value):
    """The beginning of a value; its own text may be a hundred megabytes."""
    while isinstance(value, (list, dict)) and value:
        first = next(iter(value))
        if isinstance(value, dict):
            return f"{{{str(first)[:EXCERPT]!r}: …}}"
        value = first
    return f"{str(value)[:EXCERPT]!r}"


def _type(value):
    if isinstance(value, float) and not math.isfinite(value):
        return "Number"
    names = {dict: "Object", list: "Array", str: "String", bool: "Boolean", type(None): "Null"}
    return names.get(type(value), "Number")
