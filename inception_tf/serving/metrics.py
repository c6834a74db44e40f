"""What the local server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest


class Metrics:
    """Counters of one server.

    Args:
        names: a function to the models' names: what a request calls otherwise is not made a label, since senders
            choose it.
    """

    def __init__(self, names):
        self.names, self.registry = names, CollectorRegistry()
        ProcessCollector(registry=self.registry)
        labels = ("api", "method", "model")
        self._requests = Counter(
            "inception_tf_requests", "Requests, by gRPC's code", (*labels, "code"), registry=self.registry
        )
        self._seconds = Histogram("inception_tf_request_seconds", "Seconds a request", labels, registry=self.registry)
        self._rows = Histogram(
            "inception_tf_batch_rows",
            "Rows of the batches that ran",
            ("model", "signature"),
            buckets=[2**i for i in range(9)],
            registry=self.registry,
        )
        self._in_flight = Gauge("inception_tf_requests_in_flight", "REST requests under way", registry=self.registry)

    def request(self, api, method, model, code, seconds):
        """Counts a request."""
        model = model if model in self.names() else ""
        self._requests.labels(api, method, model, code).inc()
        self._seconds.labels(api, method, model).observe(seconds)

    def batch(self, model, signature, rows):
        """Counts a batch."""
        self._rows.labels(model, signature).observe(rows)

    def in_flight(self):
        """A context: a REST request is under way."""
        return self._in_flight.track_inprogress()

    def text(self):
        """All of them in Prometheus's text format, bytes."""
        return generate_latest(self.registry)
