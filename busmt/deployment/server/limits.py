"""What one client may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on time and memory.

    Attributes:
        request_bytes: largest request body.
        held_bytes: most bytes of request bodies in memory at a time, over all clients.
        values: most numbers and lists in the JSON of a request, which bounds the memory that parsing takes.
        image_pixels: largest image.
        request_pixels: most pixels of all images in a request.
        instances: most images in one request.
        max_batch: most images in one call of the network.
        max_delay: longest wait of a lone image for company, seconds.
        concurrent: most predict requests at a time.
        waiting: most images that wait for a batch.
        connections: most connections at a time, idle ones included.
        timeout: longest time for one request, seconds, its upload included.
        send_timeout: longest time for a client to take an answer, seconds.
        header_timeout: longest time for the head of a request, from the connection or the head's first byte on.
        stop: longest time for requests under way after a signal to stop, seconds.
    """

    request_bytes: int = 32 * 2**20
    held_bytes: int = 256 * 2**20
    values: int = 6_000_000
    image_pixels: int = 16_000_000
    request_pixels: int = 64_000_000
    instances: int = 32
    max_batch: int = 16
    max_delay: float = 0.002
    concurrent: int = 128
    waiting: int = 256
    connections: int = 512
    timeout: float = 30.0
    send_timeout: float = 30.0
    header_timeout: float = 10.0
    stop: float = 30.0
