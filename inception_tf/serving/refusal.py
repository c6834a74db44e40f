"""How a request fails: one error with the codes of gRPC, and of REST as TensorFlow Serving maps them."""

# tensorflow_serving/model_servers/http_server.cc, ToHTTPStatusCode
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "INTERNAL": 500,
}


class Refusal(Exception):
    """A request that is not answered.

    Attributes:
        code: the name of gRPC's status code.
        message: a line.
        http_status: that of REST; where not given, by `HTTP_STATUS`.
    """

    def __init__(self, code, message, http_status=None):
        super().__init__(message)
        self.code, self.message = code, message
        self.http_status = http_status or HTTP_STATUS[code]


def invalid(message):
    return Refusal("INVALID_ARGUMENT", message)
