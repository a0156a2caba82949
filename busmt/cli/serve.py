"""busmt serve"""

from __future__ import annotations

import click

from busmt.cli.common import json_option, print_json, quiet_start, say


@click.command(
    epilog="""\b
Examples:
  busmt serve exports/busi
  busmt serve exports/busi --port 9000 --max-batch 8 --max-delay-ms 10
  BUSMT_SERVE_TOKEN=... busmt serve exports/busi --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
\b
Speaks the REST predict API of TensorFlow Serving; see docs/serving.md. A newer version in EXPORT is taken up while
running. SIGTERM and Ctrl-C finish the requests under way. Not a medical device: for research, not for diagnosis.
"""
)
@click.argument("export", metavar="EXPORT")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8501, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@click.option("--name", default=None, help="Name of the model in addresses; default: the folder's.")
@click.option("--token-file", type=click.Path(), help="File with the token that clients must send. [BUSMT_SERVE_TOKEN]")
@click.option("--tls-cert", type=click.Path(), help="PEM file with the certificate chain: serve HTTPS.")
@click.option("--tls-key", type=click.Path(), help="PEM file with its private key.")
@click.option(
    "--poll",
    metavar="SECONDS",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Look for a new version every SECONDS; 0: never.",
)
@click.option("--max-batch", default=16, show_default=True, type=click.IntRange(1), help="Images run together.")
@click.option("--max-delay-ms", default=2.0, show_default=True, type=click.FloatRange(0), help="Wait for company.")
@click.option("--max-instances", default=32, show_default=True, type=click.IntRange(1), help="Images per request.")
@click.option("--max-request-mb", default=32.0, show_default=True, type=click.FloatRange(0, min_open=True))
@click.option("--max-pixels", default=16_000_000, show_default=True, type=click.IntRange(256), help="Per image.")
@click.option("--max-concurrent", default=128, show_default=True, type=click.IntRange(1), help="Requests at a time.")
@click.option("--max-waiting", default=256, show_default=True, type=click.IntRange(1), help="Images that wait.")
@click.option(
    "--timeout", default=30.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Seconds for a request."
)
@json_option
def serve(
    export: str,
    host: str,
    port: int,
    name: str | None,
    token_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    poll: float,
    max_batch: int,
    max_delay_ms: float,
    max_instances: int,
    max_request_mb: float,
    max_pixels: int,
    max_concurrent: int,
    max_waiting: int,
    timeout: float,
    as_json: bool,
) -> None:
    """Serve a SavedModel on this machine."""
    import logging

    quiet_start()
    from busmt.deployment.serving_assets import served_name
    from busmt.errors import ExportError

    try:
        from busmt.deployment.server import limits, run, token
    except ImportError as error:
        raise ExportError(
            f"the server needs a package that is missing ({error.name}): pip install 'busmt[serve]'"
        ) from error
    site = run.Site(host, port, tls_cert, tls_key, token.read_token(token_file), poll)
    bounds = limits.Limits(
        request_bytes=int(max_request_mb * 2**20),
        held_bytes=max(limits.Limits.held_bytes, int(max_request_mb * 2**20)),
        image_pixels=max_pixels,
        request_pixels=max(limits.Limits.request_pixels, max_pixels),
        instances=max_instances,
        max_batch=max_batch,
        max_delay=max_delay_ms / 1000,
        concurrent=max_concurrent,
        waiting=max(max_waiting, max_instances),
        timeout=timeout,
    )
    model = name or served_name(export)

    def started(address: str, version: str) -> None:
        if as_json:
            print_json({"model": model, "version": version, "address": address})
        say(f"serving {model}, version {version}, at {address}/v1/models/{model}")

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("busmt.serve").setLevel(logging.INFO)
    for warning in site.warnings():
        say(f"warning: {warning}")
    run.serve(export, model, site, bounds, started)
