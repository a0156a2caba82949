"""`busmt curate`: find duplicates, contradictions and unusable samples in a cohort."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from busmt.cli.common import json_option, print_json, progress, say

if TYPE_CHECKING:
    from busmt.data.catalog import Catalog
    from busmt.data.curation import Curation


@click.command()
@click.option("--data", required=True, help="BUSI or BUS-BRA folder, or a catalog CSV.")
@click.option("--cohort", type=click.Choice(("auto", "busi", "bus-bra", "csv")), default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write; not inside the data.")
@click.option("--config", "config_file", help="YAML configuration; its section curation is the policy.")
@click.option("--duplicates", type=click.Choice(("best", "all")), help="Keep the best copy, or all in one group.")
@click.option("--contradictions", type=click.Choice(("remove", "keep")), help="One lesion under two classes.")
@click.option("--drop", "drop_flags", help="Flags to remove too, such as axilla,small.")
@click.option("--curated", help="Use exactly the samples of this name list: a CSV or a built-in list's name.")
@click.option("--compare", help="Say where a name list or another decisions.csv differs, with pictures.")
@click.option("--overrides", type=click.Path(path_type=Path), help="CSV of a person's decisions, which win.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder for fingerprints; default: the user's cache.")
@json_option
def curate(
    data: str,
    cohort: str,
    out: Path,
    config_file: str | None,
    duplicates: str | None,
    contradictions: str | None,
    drop_flags: str | None,
    curated: str | None,
    compare: str | None,
    overrides: Path | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Find duplicates, contradictions and unusable samples, and write a curated catalog with the reasons.

    Writes catalog.csv (usable as --data), decisions.csv, pairs.csv and report.html, in which every removed
    or grouped pair is shown and can be overruled.

    \b
    Examples:
      busmt curate --data path/to/Dataset_BUSI_with_GT --out curated
      busmt curate --data path/to/Dataset_BUSI_with_GT --out curated --overrides overrides.csv
      busmt curate --data path/to/Dataset_BUSI_with_GT --out curated --compare published_list.csv
      busmt curate --data my_cohort.csv --out curated --drop axilla,small
    """
    from busmt.config import Config
    from busmt.data import curation as room
    from busmt.data.cohorts import read_cohort
    from busmt.data.curation.report import refuse_data_folder, write_outputs

    config = Config.from_yaml(config_file) if config_file else Config()
    given = {"duplicates": duplicates, "contradictions": contradictions, "drop_flags": drop_flags, "curated": curated}
    policy = config.replace({"curation": {key: value for key, value in given.items() if value is not None}}).curation
    catalog = read_cohort(data, cohort, strict=False)
    refuse_data_folder(out, catalog)
    with progress("Reading and comparing") as report:
        result = room.curate(
            catalog, policy, overrides=overrides, cache_dir=cache or room.default_cache_dir(), progress=report
        )
    with progress("Pictures") as report:
        files = write_outputs(out, catalog, result, report)
    compared = _compare(catalog, result, compare, out) if compare else None
    if as_json:
        _print_result(result, files, compared)
    else:
        _say_result(result, out, compared)


def _compare(catalog: Catalog, result: Curation, source: str, out: Path) -> dict[str, Any]:
    from busmt.data.curation.compare import write_comparison

    with progress("Comparing") as report:
        return write_comparison(out, catalog, result, source, report)


def _print_result(result: Curation, files: dict[str, Path], compared: dict[str, Any] | None) -> None:
    from busmt.data.curation.report import count_table

    print_json({
        "files": {name: str(path) for name, path in files.items()},
        "classes": count_table(result.decisions),
        "rules": result.decisions["rule"].str.split("; ").explode().value_counts().drop("", errors="ignore").to_dict(),
        "pairs": result.pairs["kind"].value_counts().to_dict(),
        "groups": int(result.catalog.table["group"].nunique()),
        "notes": list(result.notes),
        "comparison": compared,
    })  # fmt: skip


def _say_result(result: Curation, out: Path, compared: dict[str, Any] | None) -> None:
    from busmt.data.curation.report import count_table

    for row in count_table(result.decisions):
        say(f"{row['class']:>10}: {row['before']} images, {row['kept']} kept ({row['flagged']} flagged), "
            f"{row['removed']} removed")  # fmt: skip
    kinds = result.pairs["kind"].value_counts().to_dict()
    say(f"Pairs: {', '.join(f'{count} {kind}' for kind, count in kinds.items()) or 'none'}")
    for note in result.notes:
        say(f"Note: {note}")
    if compared:
        say(f"Kept in both: {compared['kept_in_both']}, removed only here: {compared['removed_only_here']}, "
            f"removed only there: {compared['removed_only_there']}; see {out / 'comparison.html'}")  # fmt: skip
    say(f"Look at {out / 'report.html'}; train with: busmt train --data {out / 'catalog.csv'}")
