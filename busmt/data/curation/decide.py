"""`curate`: from a catalog to a curated catalog with a reason for every sample."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from busmt.config import CurationConfig
from busmt.data.catalog import Catalog
from busmt.data.curation import rules
from busmt.data.curation.alignment import Pair
from busmt.data.curation.cache import Cache
from busmt.data.curation.clusters import Judge
from busmt.data.curation.fingerprints import Fingerprint, fingerprints
from busmt.data.curation.groups import merged_groups
from busmt.data.curation.names import NameList, read_name_list
from busmt.data.curation.overrides import Override, read_overrides
from busmt.data.curation.pairs import find_pairs
from busmt.data.curation.verdicts import REMOVED, Verdicts
from busmt.errors import ConfigError, DataError

PAIR_COLUMNS = (
    "first", "second", "kind", "similarity", "agreement", "mirrored", "mask_iou", "first_label", "second_label",
)  # fmt: skip


@dataclass(frozen=True)
class Curation:
    """Result of `curate`.

    Attributes:
        catalog: the kept samples; `group` unites everything that shows the same lesion or patient.
        decisions: one row per input sample, in input order: image_id, label, decision ("kept", "removed" or
            "flagged", which is kept too), rule, reason, evidence (the other image's id), similarity (to that
            image, 1 for the same picture), group, boxes (of burnt-in marks: "kind left top width height|...").
        pairs: images of one lesion: first, second (ids), kind ("exact", "near-duplicate", "frame"),
            similarity, agreement, mirrored, mask_iou (NaN where both masks are empty), and both labels.
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
    overrides: str | os.PathLike[str] | None = None,
    cache_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Curation:
    """Find what shows the same lesion, drop contradictions, unusable samples and worse copies, and say why.

    Deterministic: the same files, names and configuration give the same result.

    Args:
        catalog: the cohort; its groups are never split, only merged.
        config: the policy.
        overrides: CSV of a person's decisions (image_id, action, group, note), which win.
        cache_dir: folder that keeps fingerprints of unchanged files; none: nothing is cached.
        progress: called with (images done, images in all).

    Raises:
        ConfigError: `config.drop_flags` names an unknown flag.
        DataError: a list names none of the samples, the overrides are not valid, or nothing would be left.
    """
    drop = _flags_to_drop(config)
    listed = read_name_list(config.curated) if config.curated else None
    decided = read_overrides(overrides, set(catalog.ids)) if overrides else {}
    samples = list(catalog)
    with ExitStack() as stack:
        cache = stack.enter_context(Cache(cache_dir)) if cache_dir else None
        prints = fingerprints(samples, cache, _half(progress, 0))
        pairs = find_pairs(samples, prints, cache, _half(progress, 1))
    groups, pairs_used = _regrouped(catalog, pairs, decided)
    verdicts = Verdicts(catalog, groups, [rules.boxes(item) for item in prints])
    usable = _judge_samples(catalog, prints, config, verdicts)
    Judge(catalog, prints, pairs_used, config, verdicts).run(usable)
    verdicts.drop(drop)
    notes = _apply_list(catalog, verdicts, listed) if listed else ()
    verdicts.apply_overrides(decided)
    return _result(catalog, prints, pairs, verdicts, notes)


def _judge_samples(
    catalog: Catalog, prints: list[Fingerprint], config: CurationConfig, verdicts: Verdicts
) -> list[bool]:
    """Faults and flags of single samples; tells which samples are usable."""
    usable = []
    cohorts = catalog.table["cohort"]
    for position, (name, label, cohort) in enumerate(zip(catalog.ids, catalog.table["label"], cohorts, strict=True)):
        found = rules.faults(prints[position], label)
        usable.append(not found)
        for rule, reason in found:
            if config.unusable == "remove":
                verdicts.remove(position, rule, reason)
            else:
                verdicts.flag(position, rule, reason)
        for rule, reason in rules.flags(prints[position], name, cohort, label):
            verdicts.flag(position, rule, reason)
    return usable


def _regrouped(catalog: Catalog, pairs: list[Pair], decided: dict[str, Override]) -> tuple[list[str], list[Pair]]:
    """Group of every sample, and the pairs that a person's regrouping leaves standing."""
    ids = catalog.ids
    moved = {name: entry.group for name, entry in decided.items() if entry.action == "regroup"}
    groups = [moved.get(name, group) for name, group in zip(ids, catalog.table["group"], strict=True)]
    standing = [
        pair
        for pair in pairs
        if groups[pair.first] == groups[pair.second] or not {ids[pair.first], ids[pair.second]} & set(moved)
    ]
    return merged_groups(groups, [(pair.first, pair.second) for pair in standing]), standing


def _apply_list(catalog: Catalog, verdicts: Verdicts, names: NameList) -> tuple[str, ...]:
    """Only what the list names is used, and all of it, whatever the other rules say."""
    source, listed = names.name, set(names.ids)
    present = listed & set(catalog.ids)
    if not present:
        raise DataError(f"{source}: names none of the {len(catalog)} samples, such as {catalog.ids[0]}")
    for position, name in enumerate(catalog.ids):
        if name in listed:
            verdicts.restore(position, "listed, though ")
        else:
            verdicts.overrule(position, "not-listed", f"not in the list {source}")
    absent = sorted(listed - present)
    if absent:
        return (f"{source}: {len(absent)} of its {len(listed)} names are not in the cohort, such as {absent[0]}",)
    return ()


def _result(
    catalog: Catalog, prints: list[Fingerprint], pairs: list[Pair], verdicts: Verdicts, notes: tuple[str, ...]
) -> Curation:
    decisions = verdicts.table()
    kept = np.flatnonzero(decisions["decision"] != REMOVED)
    for position in kept:
        if prints[position].fault:
            raise DataError(f"{prints[position].fault}; {catalog.ids[position]} cannot be kept")
    if not len(kept):
        first = decisions.iloc[0]
        raise DataError(f"nothing is left: {first['image_id']} was removed ({first['reason']}), and so were all others")
    table = catalog.table.assign(group=decisions["group"].to_numpy())
    table = _settle_folds(table.iloc[kept], catalog.table["group"].iloc[kept])
    return Curation(Catalog(table), decisions, _pair_table(catalog, pairs), notes)


def _settle_folds(table: pd.DataFrame, before: pd.Series) -> pd.DataFrame:
    """Official folds after groups were joined: a joined group goes whole to the fold that holds most of it.

    A cohort may file one patient under two numbers and put them into different folds. A group that was split
    before anything was joined is left as it is, to be refused where the folds are made.
    """
    if "fold" not in table:
        return table
    groups = table["group"]
    joined = before.groupby(groups).transform("nunique") > 1
    most = table["fold"].groupby(groups).transform(lambda folds: folds.mode().iloc[0])
    return table.assign(fold=table["fold"].where(~joined, most))


def _pair_table(catalog: Catalog, pairs: list[Pair]) -> pd.DataFrame:
    ids, labels = catalog.ids, catalog.table["label"].tolist()
    rows = [
        (ids[pair.first], ids[pair.second], pair.kind, pair.similarity, pair.agreement, pair.mirrored, pair.mask_iou,
         labels[pair.first], labels[pair.second])
        for pair in pairs
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS))


def _flags_to_drop(config: CurationConfig) -> list[str]:
    drop = [name.strip() for name in (config.drop_flags or "").split(",") if name.strip()]
    for name in drop:
        if name not in rules.FLAGS:
            raise ConfigError(f"curation.drop_flags: unknown flag {name!r}; known: {', '.join(rules.FLAGS)}")
    return drop


def _half(progress: Callable[[int, int], None] | None, which: int) -> Callable[[int, int], None] | None:
    """Progress of reading (0) or comparing (1): each counts as half of the work."""
    if progress is None:
        return None
    return lambda done, total: progress((which * total + done) // 2, total)
