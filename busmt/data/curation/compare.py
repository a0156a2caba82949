"""Where two curations of one cohort differ: this one, and a published name list or earlier decisions.csv."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from busmt.data.catalog import Catalog
from busmt.data.curation.decide import Curation
from busmt.data.curation.names import read_name_list
from busmt.data.curation.report import write_cards
from busmt.data.curation.verdicts import REMOVED
from busmt.data.tables import write_table

COMPARISON_COLUMNS: tuple[str, ...] = (
    "image_id", "label", "here", "there", "in_duplicate_group", "in_group", "rule", "reason", "evidence",
)  # fmt: skip


def compare(catalog: Catalog, curation: Curation, source: str | os.PathLike[str]) -> pd.DataFrame:
    """One row per sample: kept or removed here and there, with the reason here.

    Args:
        catalog: the cohort.
        curation: what busmt decided.
        source: a name list file, a built-in list's name, or the decisions.csv of another curation.

    Returns:
        The columns `COMPARISON_COLUMNS`; `in_duplicate_group` tells whether busmt sees another copy of the
        picture in the cohort, `in_group` whether it sees another image of the lesion.

    Raises:
        DataError: the list cannot be read.
    """
    listed = set(read_name_list(str(source)).ids)
    copies = curation.pairs[curation.pairs["kind"] != "frame"]
    in_copies = set(copies["first"]) | set(copies["second"])
    in_pairs = set(curation.pairs["first"]) | set(curation.pairs["second"])
    decisions = curation.decisions
    names = decisions["image_id"]
    table = pd.DataFrame({
        "image_id": names,
        "label": decisions["label"],
        "here": ["removed" if decision == REMOVED else "kept" for decision in decisions["decision"]],
        "there": ["kept" if name in listed else "removed" for name in names],
        "in_duplicate_group": [name in in_copies for name in names],
        "in_group": [name in in_pairs for name in names],
        "rule": decisions["rule"],
        "reason": decisions["reason"],
        "evidence": decisions["evidence"],
    })  # fmt: skip
    return table[list(COMPARISON_COLUMNS)]


def summary(table: pd.DataFrame) -> dict[str, int]:
    """Counts of agreement: of what is removed there, how much is in a duplicate group here, and so on."""
    there = table[table["there"] == "removed"]
    return {
        "kept_in_both": int(((table["here"] == "kept") & (table["there"] == "kept")).sum()),
        "removed_in_both": int(((table["here"] == "removed") & (table["there"] == "removed")).sum()),
        "removed_only_here": int(((table["here"] == "removed") & (table["there"] == "kept")).sum()),
        "removed_only_there": int(((table["here"] == "kept") & (table["there"] == "removed")).sum()),
        "removed_there": len(there),
        "removed_there_in_duplicate_group_here": int(there["in_duplicate_group"].sum()),
        "removed_there_in_group_here": int(there["in_group"].sum()),
        "kept_there_in_duplicate_group_here": int(table.loc[table["there"] == "kept", "in_duplicate_group"].sum()),
    }


def write_comparison(
    out: Path,
    catalog: Catalog,
    curation: Curation,
    source: str,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write comparison.csv and comparison.html (pictures of every difference) into a folder; gives the counts."""
    table = compare(catalog, curation, source)
    write_table(out / "comparison.csv", table)
    counts = summary(table)
    title = f"Differences to {Path(source).name}"
    write_cards(out / "comparison.html", title, counts, _sections(table, _partners(curation.pairs)), catalog, progress)
    return counts


def _partners(pairs: pd.DataFrame) -> dict[str, str]:
    """Per image the most alike image of its lesion: copies before frames."""
    order = pairs.assign(frame=pairs["kind"] == "frame").sort_values(
        ["frame", "similarity", "first", "second"], ascending=[True, False, True, True]
    )
    found: dict[str, str] = {}
    for first, second in zip(order["first"], order["second"], strict=True):
        found.setdefault(first, second)
        found.setdefault(second, first)
    return found


def _sections(table: pd.DataFrame, partners: dict[str, str]) -> list[dict[str, Any]]:
    sections = []
    for title, here, there in (("Removed only here", "removed", "kept"), ("Removed only there", "kept", "removed")):
        part = table[(table["here"] == here) & (table["there"] == there)]
        cards = []
        for row in part.itertuples(index=False):
            other = row.evidence or partners.get(row.image_id, "")
            caption = row.reason if here == "removed" else "; ".join(filter(None, (_guess(row), row.reason)))
            cards.append({"names": [row.image_id, *([other] if other else [])], "caption": caption})
        sections.append({"title": title, "cards": cards})
    return sections


def _guess(row: Any) -> str:
    """Why busmt keeps what another list removes."""
    if row.in_duplicate_group:
        return "kept as the best copy of its duplicates"
    return "kept, in one group with other frames" if row.in_group else "kept: no other image of the lesion was found"
