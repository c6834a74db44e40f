"""What the server answers, whichever protocol the request came by: Serving's messages in, Serving's messages out."""

import asyncio

import numpy as np
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from inception_tf.serving import tensors
from inception_tf.serving.refusal import Refusal, invalid
from inception_tf.serving.servable import CLASSIFY, serialized_examples

# google.rpc.Code, as Serving's status has it
CODES = {"INVALID_ARGUMENT": 3, "NOT_FOUND": 5, "FAILED_PRECONDITION": 9, "INTERNAL": 13, "UNAVAILABLE": 14}
# What the page asks a model, the first that it has.
PAGE_SIGNATURES = ("class_maps", "predict_image_bytes")
STATES = get_model_status_pb2.ModelVersionStatus.State


class Service:
    """Answers requests from `Models`. In one event loop; what takes long goes to `workers`.

    Args:
        models: the `Models`.
        workers: the threads that parse requests and write responses.
        max_bytes: the most memory of a tensor; a short message can stand for a large one.
        timeout: seconds for a network's answer.
    """

    def __init__(self, models, workers, max_bytes, timeout):
        self.models, self.workers, self.max_bytes, self.timeout = models, workers, max_bytes, timeout

    def version(self, spec):
        """The version that a ModelSpec means. Raises a `Refusal` when there is none."""
        choice = spec.WhichOneof("version_choice")
        number = spec.version.value if choice == "version" else None
        return self.models.find_version(spec.name, number, spec.version_label if choice == "version_label" else None)

    async def _aside(self, function, *args):
        return await asyncio.get_running_loop().run_in_executor(self.workers, function, *args)

    async def _run(self, version, signature, inputs):
        try:
            return await asyncio.wait_for(self.models.run(version, signature, inputs), self.timeout)
        except TimeoutError:
            raise Refusal("DEADLINE_EXCEEDED", f"No answer within {self.timeout:g} seconds") from None

    async def predict(self, request):
        """A PredictResponse of a PredictRequest."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        with self.version(request.model_spec).use() as version:
            name = request.model_spec.signature_name or "serving_default"
            wanted = version.servable.signature(name).outputs
            unknown = set(request.output_filter) - set(wanted)
            if unknown:
                raise invalid(
                    f"output tensor alias not found in signature: {sorted(unknown)[0][:200]} "
                    f"Outputs expected to be in the set {{{','.join(sorted(wanted))}}}."
                )
            inputs = await self._aside(self._arrays, version.servable, name, request.inputs)
            outputs = await self._run(version, name, inputs)
            chosen = {key: outputs[key] for key in request.output_filter or outputs}
            return await self._aside(_predict_response, version, name, chosen)

    def _arrays(self, servable, name, protos):
        import tensorflow as tf

        shapes = {key: (proto.dtype, [dim.size for dim in proto.tensor_shape.dim]) for key, proto in protos.items()}
        servable.check(name, shapes)  # before anything as large as it says is made
        arrays = {}
        for key, proto in protos.items():
            dtype, shape = shapes[key]
            size = np.prod(shape, dtype=float)
            # One value may stand for all; of strings that would be copies of it.
            if dtype == tf.string.as_datatype_enum and size != len(proto.string_val):
                raise invalid(f"Input {key} has {len(proto.string_val)} strings, but the shape {shape}.")
            if size * tf.dtypes.as_dtype(dtype).size > self.max_bytes:
                raise invalid(f"Input {key} of shape {shape} is too large: more than {self.max_bytes:,} bytes.")
            try:
                arrays[key] = tf.make_ndarray(proto)
            except (ValueError, TypeError, LookupError) as error:
                raise invalid(f"Input {key} is no tensor of shape {shape}: {str(error)[:200]}") from None
        return arrays

    async def predict_json(self, spec, body):
        """The JSON of a REST Predict request."""
        with self.version(spec).use() as version:
            name, inputs, rows = await self._aside(self._parsed, version.servable, body)
            outputs = await self._run(version, name, inputs)
            return await self._aside(tensors.predict_json, outputs, rows)

    def _parsed(self, servable, body):
        document = tensors.parse(body)
        name = document.get("signature_name") or "serving_default"
        signature = servable.signature(name)
        inputs, rows = tensors.predict_inputs(document, signature)
        servable.check(name, {key: (signature.inputs[key].dtype, array.shape) for key, array in inputs.items()})
        return name, inputs, rows

    async def classify(self, request):
        """A ClassificationResponse of a ClassificationRequest."""
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        with self.version(request.model_spec).use() as version:
            name = request.model_spec.signature_name or "serving_default"
            _check_classify(version.servable, name)
            examples = await self._aside(serialized_examples, request.input, self.max_bytes)
            outputs = await self._classified(version, name, examples)
            return await self._aside(_classification_response, version, name, outputs)

    async def classify_json(self, spec, body):
        """The JSON of a REST Classify request."""
        with self.version(spec).use() as version:
            document = await self._aside(tensors.parse, body)
            name = document.get("signature_name") or "serving_default"
            _check_classify(version.servable, name)
            examples = await self._aside(tensors.examples, document, self.max_bytes)
            outputs = await self._classified(version, name, examples)
            return await self._aside(tensors.classify_json, outputs["classes"], outputs["scores"])

    async def _classified(self, version, name, examples):
        string = version.servable.signature(name).inputs["inputs"].dtype
        version.servable.check(name, {"inputs": (string, examples.shape)})
        return await self._run(version, name, {"inputs": examples})

    def page_models(self):
        """The models that the page can ask: those that take an image file."""
        models = []
        for name in self.models.names():
            version = self.models.find_version(name)
            if PAGE_SIGNATURES[-1] in version.servable.signatures:
                models.append({"name": name, "version": version.number})
        return models

    async def page_classify(self, spec, body):
        """What the page shows of an image file: strict JSON, so no NaN.

        Returns:
            A dict: `classes`, pairs of a name and a score, best first; `status`, empty or why the file cannot be read;
            `maps`, for every class h×w numbers, where the model has class maps, else None; `version`.
        """
        with self.version(spec).use() as version:
            names = [name for name in PAGE_SIGNATURES if name in version.servable.signatures]
            if not names:
                raise invalid(f"The model {spec.name} takes no image files.")
            inputs = {"image_bytes": np.array([body, None], object)[:1]}
            outputs = await self._run(version, names[0], inputs)
            status = outputs["status"][0].decode()
            classes = [] if status else list(zip(tensors.texts(outputs["classes"][0]), outputs["scores"][0].tolist()))
            maps = outputs["maps"][0].tolist() if "maps" in outputs and not status else None
            return {"classes": classes, "status": status, "maps": maps, "version": version.number}

    def metadata(self, spec):
        """A GetModelMetadataResponse: the version's SignatureDefs."""
        version = self.version(spec)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in version.servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        _fill_spec(response.model_spec, version)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def status(self, spec):
        """A GetModelStatusResponse: the states of the version asked for, or of all."""
        choice = spec.WhichOneof("version_choice")
        versions = self.models.versions.get(spec.name, {})
        if not versions:
            raise Refusal("NOT_FOUND", f"Could not find any versions of model {spec.name}")
        if choice:
            number = spec.version.value
            if choice == "version_label":
                number = self.models.find_version(spec.name, label=spec.version_label).number
            if number not in versions:
                raise Refusal("NOT_FOUND", f"Could not find version {number} of model {spec.name}")
            versions = {number: versions[number]}
        response = get_model_status_pb2.GetModelStatusResponse()
        for number in sorted(versions, reverse=True):
            version = versions[number]
            entry = response.model_version_status.add(version=number, state=STATES.Value(version.state))
            entry.status.error_code = CODES[version.error.code] if version.error else 0
            entry.status.error_message = version.error.message if version.error else ""
        return response


def _check_classify(servable, name):
    if name not in servable.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    method = servable.signature(name).method_name
    if method != CLASSIFY:
        raise invalid(f"Expected classification signature method_name to be {CLASSIFY}. Was: {method}")


def _fill_spec(spec, version, signature=""):
    spec.name, spec.signature_name = version.name, signature
    spec.version.value = version.number


def _predict_response(version, name, outputs):
    import tensorflow as tf

    response = predict_pb2.PredictResponse()
    _fill_spec(response.model_spec, version, name)
    for key, array in outputs.items():
        response.outputs[key].CopyFrom(tf.make_tensor_proto(array))
    return response


def _classification_response(version, name, outputs):
    response = classification_pb2.ClassificationResponse()
    _fill_spec(response.model_spec, version, name)
    for classes, scores in zip(outputs["classes"], outputs["scores"]):
        row = response.result.classifications.add()
        for label, score in zip(classes, scores):
            row.classes.add(label=label.decode("utf-8", "replace"), score=score)
    return response
