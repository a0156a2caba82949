"""Judging samples that show the same lesion: contradictions, worse copies, masks that disagree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from busmt.config import CurationConfig
from busmt.data.catalog import Catalog
from busmt.data.curation.alignment import FRAME, Pair
from busmt.data.curation.fingerprints import Fingerprint
from busmt.data.curation.groups import components
from busmt.data.curation.verdicts import Verdicts

MASKS_AGREE = 0.7
"""IoU below which the masks of two copies of one picture are said to disagree."""


class Judge:
    """Applies the policy for samples of one lesion.

    Args:
        catalog, prints: the samples and their fingerprints.
        pairs: verified pairs.
        config: the policy.
        verdicts: where decisions are noted.
    """

    def __init__(
        self,
        catalog: Catalog,
        prints: Sequence[Fingerprint],
        pairs: Sequence[Pair],
        config: CurationConfig,
        verdicts: Verdicts,
    ):
        self._ids, self._labels = catalog.ids, catalog.table["label"].tolist()
        self._prints, self._pairs, self._config, self._verdicts = prints, pairs, config, verdicts
        self._near: dict[int, list[tuple[float, int]]] = {}
        for pair in pairs:
            self._near.setdefault(pair.first, []).append((pair.similarity, pair.second))
            self._near.setdefault(pair.second, []).append((pair.similarity, pair.first))
        for partners in self._near.values():
            partners.sort(key=lambda entry: (-entry[0], entry[1]))

    def run(self, usable: Sequence[bool]) -> None:
        """Judge all clusters.

        Args:
            usable: per sample, whether it may be the copy that is kept.
        """
        self._tell_masks()
        copies = [pair for pair in self._pairs if pair.kind != FRAME]
        for members in self._clusters(self._pairs):
            if len({self._labels[position] for position in members}) > 1:
                self._contradiction(members)
        if self._config.duplicates == "best":
            for members in self._clusters(copies):
                self._keep_best(members, usable)

    def _clusters(self, pairs: Sequence[Pair]) -> list[list[int]]:
        found = components(len(self._ids), [(pair.first, pair.second) for pair in pairs])
        return [members for members in found if len(members) > 1]

    def _contradiction(self, members: list[int]) -> None:
        for position in members:
            other, similarity = self._rival(position)
            reason = f"shows the same lesion as {self._ids[other]}, which is filed as {self._labels[other]}"
            if self._config.contradictions == "remove":
                self._verdicts.remove(position, "contradiction", reason, self._ids[other], similarity)
            else:
                self._verdicts.flag(position, "contradiction", reason, self._ids[other], similarity)

    def _keep_best(self, members: list[int], usable: Sequence[bool]) -> None:
        best = max(members, key=lambda position: self._worth(position, usable))
        for position in members:
            if position != best:
                similarity = next((value for value, other in self._near[position] if other == best), math.nan)
                through = "" if not math.isnan(similarity) else " (through other copies)"
                self._verdicts.remove(
                    position, "duplicate", f"duplicate of {self._ids[best]}, which is the better copy{through}",
                    self._ids[best], similarity,
                )  # fmt: skip

    def _worth(self, position: int, usable: Sequence[bool]) -> tuple[Any, ...]:
        """Usable before unusable, then larger by steps of a tenth, then less clutter, then larger, then first."""
        item = self._prints[position]
        pixels = item.size[0] * item.size[1]
        step = round(math.log(max(pixels, 1)) / math.log(1.1))
        return usable[position], step, -item.clutter, pixels, -position

    def _tell_masks(self) -> None:
        for pair in self._pairs:
            if pair.kind != FRAME and pair.mask_iou < MASKS_AGREE:
                for position, other in ((pair.first, pair.second), (pair.second, pair.first)):
                    reason = f"{self._ids[other]} shows the same picture with another mask (IoU {pair.mask_iou:.2f})"
                    self._verdicts.flag(position, "masks-disagree", reason, self._ids[other], pair.similarity)

    def _rival(self, position: int) -> tuple[int, float]:
        """The most similar partner under another class; without a direct one, a partner's partner."""
        seen, frontier = {position}, [position]
        while frontier:
            near = sorted(
                (entry for start in frontier for entry in self._near[start]), key=lambda entry: (-entry[0], entry[1])
            )
            for similarity, other in near:
                if self._labels[other] != self._labels[position]:
                    return other, similarity if frontier == [position] else math.nan
            frontier = [other for _, other in near if other not in seen]
            seen.update(frontier)
        raise ValueError(f"no partner of {self._ids[position]} has another class")
