"""The gRPC side of the local server: Serving's PredictionService and ModelService, on the official stubs."""

import time

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from inception_tf.serving.refusal import Refusal, invalid


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, GetModelMetadata; Serving's other methods are unimplemented."""

    def __init__(self, service, metrics):
        self.service, self.metrics = service, metrics

    async def Predict(self, request, context):
        return await _answered(self, "predict", self.service.predict, request, context)

    async def Classify(self, request, context):
        return await _answered(self, "classify", self.service.classify, request, context)

    async def GetModelMetadata(self, request, context):
        return await _answered(self, "metadata", self._metadata, request, context)

    async def _metadata(self, request):
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field[:200]} is not supported")
        return self.service.metadata(request.model_spec)

    async def Regress(self, request, context):
        await _unimplemented(context)

    async def MultiInference(self, request, context):
        await _unimplemented(context)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, service, metrics):
        self.service, self.metrics = service, metrics

    async def GetModelStatus(self, request, context):
        return await _answered(self, "status", self._status, request, context)

    async def _status(self, request):
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        return self.service.status(request.model_spec)

    async def HandleReloadConfigRequest(self, request, context):
        await _unimplemented(context)


async def _unimplemented(context):
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Not implemented by the local server")


async def _answered(servicer, method, function, request, context):
    start, code = time.perf_counter(), "CANCELLED"
    try:
        response = await function(request)
        code = "OK"
        return response
    except Refusal as refusal:
        code = refusal.code
        await context.abort(getattr(grpc.StatusCode, code), refusal.message)
    finally:
        servicer.metrics.request("grpc", method, request.model_spec.name, code, time.perf_counter() - start)


class _Unparsable(grpc.aio.ServerInterceptor):
    """Bytes that are no message of their method are the sender's fault; gRPC itself would call it INTERNAL."""

    async def intercept_service(self, continuation, details):
        handler = await continuation(details)
        if handler is None or not handler.unary_unary:
            return handler

        def parsed(data):
            try:
                return handler.request_deserializer(data)
            except Exception:
                return None

        async def answered(request, context):
            if request is None:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Not a request of {details.method}")
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answered, parsed, handler.response_serializer)


def grpc_server(service, metrics, max_bytes):
    """A `grpc.aio.Server` without a port."""
    server = grpc.aio.server(
        interceptors=[_Unparsable()],
        options=[
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a port in use is an error, not shared
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(service, metrics), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(service, metrics), server)
    return server
