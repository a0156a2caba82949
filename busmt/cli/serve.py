"""busmt serve"""

from __future__ import annotations

import click

from busmt.cli.common import quiet_start, say


@click.command(
    epilog="""\b
Examples:
  busmt serve exports/busi
  busmt serve exports/busi --port 9000 --max-batch 8 --max-delay-ms 10
\b
Speaks the REST predict API of TensorFlow Serving. There is no login and no encryption: keep it on this
machine, or put a proxy in front of it that has both.
"""
)
@click.argument("export", metavar="EXPORT")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8501, show_default=True, type=click.IntRange(1, 65535))
@click.option("--name", default=None, help="Name of the model in addresses; default: the folder's.")
@click.option("--max-batch", default=16, show_default=True, type=click.IntRange(1), help="Images run together.")
@click.option("--max-delay-ms", default=5.0, show_default=True, type=click.FloatRange(0), help="Wait for company.")
@click.option("--max-request-mb", default=32.0, show_default=True, type=click.FloatRange(0, min_open=True))
@click.option("--max-pixels", default=16_000_000, show_default=True, type=click.IntRange(256), help="Per image.")
@click.option("--max-concurrent", default=128, show_default=True, type=click.IntRange(1), help="Requests at a time.")
@click.option("--timeout", default=30.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Seconds.")
def serve(
    export: str,
    host: str,
    port: int,
    name: str | None,
    max_batch: int,
    max_delay_ms: float,
    max_request_mb: float,
    max_pixels: int,
    max_concurrent: int,
    timeout: float,
) -> None:
    """Serve a SavedModel on this machine."""
    quiet_start()
    from busmt.deployment.server.model import ServedModel
    from busmt.errors import ExportError

    try:
        from busmt.deployment.server import app
    except ImportError as error:
        raise ExportError(
            f"the server needs a package that is missing ({error.name}): pip install 'busmt[serve]'"
        ) from error
    limits = app.Limits(
        request_bytes=int(max_request_mb * 2**20),
        image_pixels=max_pixels,
        max_batch=max_batch,
        max_delay=max_delay_ms / 1000,
        concurrent=max_concurrent,
        timeout=timeout,
    )
    model = ServedModel.load(export, name)
    if host not in ("127.0.0.1", "localhost", "::1"):
        say(f"warning: {host} can be reached from other machines, without login or encryption")
    say(f"serving {model.name}, version {model.version}, at http://{host}:{port}/v1/models/{model.name}")
    app.serve(model, host, port, limits)
