"""busmt volumes"""

from __future__ import annotations

import click

from busmt.cli.common import json_option, print_json, quiet_start, say


@click.command(
    epilog="""\b
Examples:
  busmt volumes
  busmt volumes --count 60 --side 48 --epochs 30 --out volumes.keras
  busmt volumes --data path/to/npz --json
\b
A folder of --data holds .npz files with image and mask, cubes (S, S, S) of one size, and label (0 normal, 1 benign,
2 malignant).
"""
)
@click.option("--data", metavar="DIR", help="Folder of .npz files. Default: synthetic volumes.")
@click.option("--count", default=30, show_default=True, type=click.IntRange(10), help="Synthetic volumes.")
@click.option("--side", default=32, show_default=True, type=click.IntRange(16, 256), help="Of synthetic volumes.")
@click.option("--width", default=8, show_default=True, type=click.IntRange(1, 256), help="Filters of the finest level.")
@click.option("--depth", default=3, show_default=True, type=click.IntRange(1, 5), help="Number of poolings.")
@click.option("--epochs", default=20, show_default=True, type=click.IntRange(1), help="Number of epochs.")
@click.option("--batch-size", default=2, show_default=True, type=click.IntRange(1), help="Volumes per step.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of weights, order and volumes.")
@click.option("--out", default="volumes.keras", show_default=True, metavar="FILE", help="The trained network.")
@json_option
def volumes(
    data: str | None,
    count: int,
    side: int,
    width: int,
    depth: int,
    epochs: int,
    batch_size: int,
    seed: int,
    out: str,
    as_json: bool,
) -> None:
    """Train the 3-D, boundary-aware network on volumes: a start for automated breast ultrasound.

    Every fifth volume is held out and scored. The rest of busmt (curation, folds, export) works on images; this
    shows that the network trains in three dimensions, end to end.
    """
    quiet_start()
    from busmt.data.volumes import make_volumes, read_volumes
    from busmt.training.volumes import train_volumes

    given = read_volumes(data) if data else make_volumes(count, seed, side)
    result = train_volumes(
        given, out, width=width, depth=depth, epochs=epochs, batch_size=batch_size, seed=seed, say=say
    )
    if as_json:
        print_json(result)
        return
    scores = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in result["held_out"].items())
    click.echo(f"{result['volumes']['held_out']} volumes held out: {scores}")
    say(f"network of {result['parameters']} parameters: {result['model']}")
