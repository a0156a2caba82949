"""Prometheus metrics of one server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector


class Metrics:
    """The metrics, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("busmt_requests", "Predict requests by HTTP status", ["code"], registry=registry)
        self.seconds = Histogram("busmt_request_seconds", "Time of a predict request", registry=registry)
        self.batches = Histogram(
            "busmt_batch_size", "Images per call of the network", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.unreadable = Counter("busmt_unreadable_images", "Images that could not be read", registry=registry)
        self.active = Gauge("busmt_requests_active", "Predict requests under way", registry=registry)
        self.waiting = Gauge("busmt_images_waiting", "Images that wait for a batch", registry=registry)
        self.held = Gauge("busmt_request_bytes_held", "Bytes of request bodies in memory", registry=registry)
        self.version = Gauge("busmt_model_version", "Version that is served", registry=registry)
        self.loads = Counter("busmt_model_loads", "Versions loaded while running", ["result"], registry=registry)
        for result in ("success", "failure"):
            self.loads.labels(result)
        ProcessCollector(registry=registry)
