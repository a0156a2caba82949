"""`busmt phantoms`: write a folder of synthetic ultrasound images."""

from __future__ import annotations

from pathlib import Path

import click

from busmt.cli.common import json_option, print_json, progress, say


@click.command()
@click.option("--out", "out", type=click.Path(path_type=Path), required=True, help="New folder to write.")
@click.option("--per-class", type=click.IntRange(1), default=80, show_default=True, help="Images per class.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the images.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Also write a PNG that shows some, lesions outlined.")
@json_option
def phantoms(out: Path, per_class: int, seed: int, sheet: Path | None, as_json: bool) -> None:
    """Write synthetic breast-ultrasound images with masks, in BUSI's layout.

    The folder can be used wherever busmt takes a BUSI folder.

    \b
    Examples:
      busmt phantoms --out phantoms --per-class 100
      busmt phantoms --out phantoms --seed 7 --sheet phantoms.png
    """
    from busmt.config import CLASSES
    from busmt.data import images
    from busmt.data.cohorts import read_busi
    from busmt.data.phantom import contact_sheet, write_phantoms

    with progress("Phantoms") as report:
        folder = write_phantoms(out, per_class, seed, progress=report)
    if sheet:
        images.write_png(sheet, contact_sheet(read_busi(folder)))
    if as_json:
        counts = dict.fromkeys(CLASSES, per_class)
        print_json({"folder": str(folder), "counts": counts, "seed": seed, "sheet": str(sheet) if sheet else None})
        return
    say(f"{per_class * len(CLASSES)} images ({per_class} per class, seed {seed}) in {folder}")
    if sheet:
        say(f"Contact sheet: {sheet}")
