"""busmt export"""

from __future__ import annotations

from typing import Any

import click

from busmt.cli.common import json_option, print_json, quiet_start, say


@click.command(
    epilog="""\b
Examples:
  busmt export runs/busi --to exports/
  busmt export runs/busi --to exports/ --format tflite --json
  busmt export runs/busi --to exports/ --variant float16 --variant int8
  busmt export runs/busi --to tablet/ --format tablet
\b
Formats:
  savedmodel  DIR/1 (then 2, ...) for TF Serving and `busmt serve`
  tflite      DIR/model.tflite (float32), model-float16, model-int8-dynamic, model-int8, and golden/
  tablet      a web app that runs the smallest good variant in the browser; a folder of its own

Each format is compared with the Keras model on test images right after it was written; one that disagrees is not
kept. The smaller TFLite variants are measured against the truth as well: one that loses more than 0.005 Dice or AUROC
is not written, and the exit code is 1. What the int8 variants keep in float is chosen on validation images. See
docs/tflite.md.
"""
)
@click.argument("run", metavar="RUN")
@click.option("--to", required=True, metavar="DIR", help="Folder for the exported files; made if needed.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["savedmodel", "tflite", "tablet"]),
    help="What to write; may be given twice. Default: savedmodel and tflite.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=click.Choice(["float32", "float16", "int8-dynamic", "int8"]),
    help="TFLite file to write; may be repeated. Default: all; for the tablet app, the smallest good one.",
)
@click.option("--force", is_flag=True, help="Write TFLite variants that lose too much, too.")
@json_option
def export(run: str, to: str, formats: tuple[str, ...], variants: tuple[str, ...], force: bool, as_json: bool) -> int:
    """Write a SavedModel and TFLite files, checked against Keras."""
    quiet_start()
    from busmt.deployment.export import FORMATS, PARITY_FILE, TABLET, TFLITE, export_run, export_tablet
    from busmt.deployment.parity import in_words
    from busmt.deployment.quantise import VARIANTS
    from busmt.errors import ExportError
    from busmt.training.run import Run

    if TABLET in formats and len(formats) > 1:
        raise ExportError("the tablet app goes to a folder of its own; export it alone, with --format tablet")
    if TABLET in formats and len(variants) > 1:
        raise ExportError("the tablet app holds one variant; give --variant once")
    if variants and not {TABLET, TFLITE} & set(formats or FORMATS):
        raise ExportError("--variant chooses among the TFLite files, and none is to be written")
    if TABLET in formats:
        result = export_tablet(Run.open(run), to, say, force, variants[0] if variants else None)
    else:
        result = export_run(Run.open(run), to, formats or FORMATS, say, force, variants or VARIANTS)
    for judged in result.refused:
        say(f"busmt: tflite {judged.variant} was not written: it loses too much; write it with --force")
    if as_json:
        print_json(
            {
                "folder": str(result.folder),
                "files": {name: str(path) for name, path in result.files.items()},
                "parity_images": result.source,
                "parity": [row.to_dict() for row in result.parity],
                "variants": [row.to_dict() for row in result.variants],
            }
        )
        return 1 if result.refused else 0
    for row in result.parity:
        click.echo(f"{row.format:<28} {row.images} images: {in_words(row)}")
    for judged in result.variants:
        kept = f"  in float: {', '.join(judged.float_parts)}" if judged.float_parts else ""
        parts = []
        if judged.same_label is not None:
            parts.append(
                f"{judged.same_label}/{judged.images} same class, loss of AUROC {_interval(judged.auroc_loss)}"
            )
        if judged.mean_mask_dice is not None:
            parts.append(f"mask Dice mean {judged.mean_mask_dice:.4f}, loss of Dice {_interval(judged.dice_loss)}")
        click.echo(f"tflite {judged.variant:<21} {', '.join(parts)}, {judged.bytes / 1e6:.1f} MB{kept}")
    for path in result.files.values():
        click.echo(f"wrote {path}")
    if TABLET in result.files:
        say(f"try it: python -m http.server --bind 127.0.0.1 --directory {result.folder}")
    else:
        say(f"differences: {result.folder / PARITY_FILE}")
    return 1 if result.refused else 0


def _interval(loss: Any) -> str:
    return f"{loss.value:+.4f} ({loss.low:+.4f} to {loss.high:+.4f})"
