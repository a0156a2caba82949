"""busmt export"""

from __future__ import annotations

import click

from busmt.cli.common import json_option, print_json, quiet_start, say


@click.command(
    epilog="""\b
Examples:
  busmt export runs/busi --to exports/
  busmt export runs/busi --to exports/ --format tflite --json
\b
Each format is compared with the Keras model on up to 50 test images right after it was written; one that
disagrees is not kept.
"""
)
@click.argument("run", metavar="RUN")
@click.option("--to", required=True, metavar="DIR", help="Folder for the exported files; made if needed.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["savedmodel", "tflite"]),
    help="What to write; may be given twice. Default: all.",
)
@json_option
def export(run: str, to: str, formats: tuple[str, ...] = (), as_json: bool = False) -> None:
    """Write a SavedModel and a TFLite file, checked against Keras."""
    quiet_start()
    from busmt.deployment.export import FORMATS, PARITY_FILE, export_run
    from busmt.training.run import Run

    result = export_run(Run.open(run), to, formats or FORMATS, say)
    if as_json:
        print_json(
            {
                "folder": str(result.folder),
                "files": {name: str(path) for name, path in result.files.items()},
                "parity_images": result.source,
                "parity": [row.to_dict() for row in result.parity],
            }
        )
        return
    for row in result.parity:
        click.echo(
            f"{row.format:<28} {row.same_label}/{row.images} same class, mask Dice >= {row.min_mask_dice:.5f}, "
            f"largest difference: mask {row.max_mask_difference:.1e}, class {row.max_label_difference:.1e}"
        )
    for path in result.files.values():
        click.echo(f"wrote {path}")
    say(f"differences: {result.folder / PARITY_FILE}")
