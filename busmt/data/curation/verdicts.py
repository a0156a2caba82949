"""The decision on every sample, with its rule, reason and evidence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from busmt.data.catalog import Catalog
from busmt.data.curation.overrides import Override

KEPT, REMOVED, FLAGGED = "kept", "removed", "flagged"
DECISION_COLUMNS: tuple[str, ...] = (
    "image_id", "label", "decision", "rule", "reason", "evidence", "similarity", "group", "boxes",
)  # fmt: skip
_NOTHING = float("nan")


@dataclass
class _Finding:
    rule: str
    reason: str
    evidence: str = ""
    similarity: float = _NOTHING


@dataclass
class _Row:
    removal: _Finding | None = None
    flags: list[_Finding] = field(default_factory=list)
    override: _Finding | None = None
    overridden: str = ""


class Verdicts:
    """Collects findings; the first rule that removes a sample is the one that is told.

    Args:
        catalog: the samples.
        groups: group per sample.
        boxes: boxes of burnt-in marks per sample, as text.
    """

    def __init__(self, catalog: Catalog, groups: list[str], boxes: list[str]):
        self._ids, self._labels = catalog.ids, catalog.table["label"].tolist()
        self._groups, self._boxes = groups, boxes
        self._rows = [_Row() for _ in groups]

    def remove(self, position: int, rule: str, reason: str, evidence: str = "", similarity: float = _NOTHING) -> None:
        """Remove a sample, unless an earlier rule has."""
        if self._rows[position].removal is None:
            self._rows[position].removal = _Finding(rule, reason, evidence, similarity)

    def flag(self, position: int, rule: str, reason: str, evidence: str = "", similarity: float = _NOTHING) -> None:
        """Note something about a sample that stays."""
        self._rows[position].flags.append(_Finding(rule, reason, evidence, similarity))

    def drop(self, rules: Collection[str]) -> None:
        """Remove every sample that has one of these flags."""
        for position, row in enumerate(self._rows):
            for finding in row.flags:
                if finding.rule in rules:
                    self.remove(position, finding.rule, finding.reason, finding.evidence, finding.similarity)

    def overrule(self, position: int, rule: str, reason: str) -> None:
        """Remove a sample for this reason, whatever was found before."""
        self._rows[position].removal = _Finding(rule, reason)

    def restore(self, position: int, prefix: str) -> None:
        """Keep a sample; what removed it becomes a flag."""
        row = self._rows[position]
        if row.removal is not None:
            row.removal.reason = prefix + row.removal.reason
            row.flags = [row.removal, *(finding for finding in row.flags if finding.rule != row.removal.rule)]
            row.removal = None

    def apply_overrides(self, decided: Mapping[str, Override]) -> None:
        """A person's decisions, recorded as such together with what they overrule."""
        for position, name in enumerate(self._ids):
            if name in decided:
                self._override(position, decided[name])

    def table(self) -> pd.DataFrame:
        """One row per sample with the columns `DECISION_COLUMNS`."""
        rows = [self._told(position) for position in range(len(self._rows))]
        return pd.DataFrame(rows, columns=list(DECISION_COLUMNS))

    def _override(self, position: int, entry: Override) -> None:
        row = self._rows[position]
        before = f"; the rules said: {row.removal.reason}" if row.removal else ""
        note = f": {entry.note}" if entry.note else ""
        if entry.action == "remove":
            row.override, row.overridden = _Finding("override", f"removed by a person{note}"), REMOVED
        elif entry.action == "keep":
            row.override, row.overridden = _Finding("override", f"kept by a person{note}{before}"), KEPT
        else:
            row.override = _Finding("override", f"moved to the group {entry.group} by a person{note}")
            row.overridden = REMOVED if row.removal else KEPT
            row.override.reason += before

    def _told(self, position: int) -> tuple[Any, ...]:
        row = self._rows[position]
        if row.override is not None:
            decision, findings = row.overridden, [row.override]
        elif row.removal is not None:
            decision, findings = REMOVED, [row.removal]
        else:
            decision, findings = (FLAGGED if row.flags else KEPT), row.flags
        told = next((finding for finding in findings if finding.evidence), _Finding("", ""))
        return (
            self._ids[position],
            self._labels[position],
            decision,
            "; ".join(finding.rule for finding in findings),
            "; ".join(finding.reason for finding in findings),
            told.evidence,
            told.similarity,
            self._groups[position],
            self._boxes[position],
        )
