"""`curate`: from a catalog to a curated catalog with a reason for every sample."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from busmt.config import CurationConfig
from busmt.data.catalog import Catalog
from busmt.data.curation.duplicates import Pair, find_pairs
from busmt.data.curation.fingerprints import Fingerprint, fingerprints
from busmt.data.curation.groups import components, merged_groups
from busmt.data.curation.names import read_name_list
from busmt.errors import DataError

KEPT, REMOVED, FLAGGED = "kept", "removed", "flagged"
DECISION_COLUMNS = ("image_id", "label", "decision", "rule", "reason", "evidence", "similarity", "group")
PAIR_COLUMNS = ("first", "second", "kind", "similarity", "mask_iou", "first_label", "second_label")


@dataclass(frozen=True)
class Curation:
    """Result of `curate`.

    Attributes:
        catalog: the kept samples; `group` unites everything that shows the same lesion or patient.
        decisions: one row per input sample, in input order: image_id, label, decision ("kept", "removed" or
            "flagged", which is kept too), rule, reason, evidence (the other image's id), similarity (to that
            image, 1 for the same picture), group.
        pairs: images of one lesion: first, second (ids), kind, similarity, mask_iou, and both labels.
        notes: remarks on the whole cohort, for people.
    """

    catalog: Catalog
    decisions: pd.DataFrame
    pairs: pd.DataFrame
    notes: tuple[str, ...] = ()


def curate(
    catalog: Catalog,
    config: CurationConfig,
    *,
    overrides: str | os.PathLike | None = None,
    cache_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Curation:
    """Find what shows the same lesion, drop contradictions and worse copies, and give the reason for each.

    Deterministic: the same files, names and configuration give the same result on any machine.

    Args:
        catalog: the cohort; its groups are never split, only merged.
        config: the policy.
        overrides: CSV of a person's decisions, which win.
        cache_dir: folder for fingerprints of known files; none: nothing is cached.
        progress: called with (images done, images in all).

    Raises:
        DataError: an image cannot be decoded, a list names none of the samples, or nothing would be left.
    """
    prints = fingerprints(catalog.table["image"].tolist(), progress)
    pairs = find_pairs(prints)
    links = [(pair.first, pair.second) for pair in pairs]
    verdicts = _Verdicts(catalog, merged_groups(catalog.table["group"].tolist(), links))
    notes: tuple[str, ...] = ()
    if config.curated:
        notes = _apply_list(catalog, verdicts, config.curated)
    else:
        clusters = [members for members in components(len(catalog), links) if len(members) > 1]
        for members in clusters:
            _judge_cluster(members, catalog, prints, pairs, config, verdicts)
    decisions = verdicts.table()
    kept = np.flatnonzero(decisions["decision"] != REMOVED)
    if not len(kept):
        raise DataError(f"{catalog.ids[0]} and all other samples were removed; nothing is left to use")
    table = catalog.table.assign(group=decisions["group"].to_numpy())
    return Curation(Catalog(table.iloc[kept]), decisions, _pair_table(catalog, pairs), notes)


class _Verdicts:
    """The decision on each sample; the first rule that removes a sample is the one that is told."""

    def __init__(self, catalog: Catalog, groups: list[str]):
        self.rows = [
            {"image_id": name, "label": label, "decision": KEPT, "rule": "", "reason": "", "evidence": "",
             "similarity": np.nan, "group": group}
            for name, label, group in zip(catalog.ids, catalog.table["label"], groups, strict=True)
        ]  # fmt: skip

    def remove(self, position: int, rule: str, reason: str, evidence: str = "", similarity: float = np.nan) -> None:
        row = self.rows[position]
        if row["decision"] != REMOVED:
            row |= {"decision": REMOVED, "rule": rule, "reason": reason, "evidence": evidence, "similarity": similarity}

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=list(DECISION_COLUMNS))


def _judge_cluster(
    members: list[int],
    catalog: Catalog,
    prints: list[Fingerprint],
    pairs: list[Pair],
    config: CurationConfig,
    verdicts: _Verdicts,
) -> None:
    """Contradictory clusters go whole; of the others the best copy stays."""
    ids, labels = catalog.ids, catalog.table["label"].tolist()
    found = sorted({labels[position] for position in members})
    if len(found) > 1 and config.contradictions == "remove":
        for position in members:
            other, similarity = _nearest_rival(position, labels, pairs)
            reason = f"shows the same lesion as {ids[other]}, which is filed as {labels[other]}"
            verdicts.remove(position, "contradiction", reason, ids[other], similarity)
    elif config.duplicates == "best":
        best = max(members, key=lambda position: (prints[position].size[0] * prints[position].size[1], -position))
        for position in members:
            if position != best:
                similarity = _similarity(position, best, pairs)
                verdicts.remove(position, "duplicate", f"duplicate of {ids[best]}", ids[best], similarity)


def _nearest_rival(position: int, labels: list[str], pairs: list[Pair]) -> tuple[int, float]:
    """The most similar partner under another class; without a direct one, a partner's partner."""
    seen, frontier = {position}, [position]
    while frontier:
        near = sorted(
            ((pair.similarity, pair.first + pair.second - start) for start in frontier for pair in pairs
             if start in (pair.first, pair.second)),
            key=lambda entry: (-entry[0], entry[1]),
        )  # fmt: skip
        for similarity, other in near:
            if labels[other] != labels[position]:
                return other, similarity if frontier == [position] else float("nan")
        frontier = [other for _, other in near if other not in seen]
        seen.update(frontier)
    raise ValueError(f"no partner of {position} has another class")


def _similarity(first: int, second: int, pairs: list[Pair]) -> float:
    wanted = (min(first, second), max(first, second))
    return next((pair.similarity for pair in pairs if (pair.first, pair.second) == wanted), float("nan"))


def _apply_list(catalog: Catalog, verdicts: _Verdicts, source: str) -> tuple[str, ...]:
    """Only what the list names is used, whatever the other rules say."""
    listed = set(read_name_list(source).ids)
    present = listed & set(catalog.ids)
    if not present:
        raise DataError(f"{source}: names none of the {len(catalog)} samples, such as {catalog.ids[0]}")
    for position, name in enumerate(catalog.ids):
        if name not in listed:
            verdicts.remove(position, "not listed", f"not in the list {source}")
    absent = sorted(listed - present)
    if absent:
        return (f"{source}: {len(absent)} of its {len(listed)} names are not in the cohort, such as {absent[0]}",)
    return ()


def _pair_table(catalog: Catalog, pairs: list[Pair]) -> pd.DataFrame:
    ids, labels = catalog.ids, catalog.table["label"].tolist()
    samples = list(catalog)
    rows = []
    for pair in pairs:
        iou = _mask_iou(samples[pair.first], samples[pair.second])
        rows.append((ids[pair.first], ids[pair.second], pair.kind, pair.similarity, iou, labels[pair.first],
                     labels[pair.second]))  # fmt: skip
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS))


def _mask_iou(first, second) -> float:
    """IoU of the two lesion masks on the first one's grid; NaN where both are empty."""
    import cv2

    one, other = first.read_mask(), second.read_mask()
    if other.shape != one.shape:
        scaled = cv2.resize(other.astype(np.uint8), one.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        other = scaled.astype(bool)
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else float("nan")
