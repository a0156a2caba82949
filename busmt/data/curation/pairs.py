"""Pairs of images that show the same lesion: search, verification, and the cache of both."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

from busmt.data.catalog import Sample
from busmt.data.curation.alignment import Pair, verify
from busmt.data.curation.cache import Cache
from busmt.data.curation.candidates import find_candidates
from busmt.data.curation.fingerprints import Fingerprint, file_key

_VERSION = 4


def find_pairs(
    samples: Sequence[Sample],
    prints: Sequence[Fingerprint],
    cache: Cache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Pair]:
    """Verified pairs, ascending by position.

    Args:
        samples: the samples.
        prints: their fingerprints, in the same order.
        cache: where the pairs of an unchanged cohort are looked up and kept.
        progress: called with (done, total), in images.
    """
    state = repr((_VERSION, [(file_key(sample)) for sample in samples]))
    key = "pairs " + hashlib.sha256(state.encode()).hexdigest()
    known = cache.read([key]) if cache else {}
    if key not in known:
        half = _share(progress, len(samples), 0.0), _share(progress, len(samples), 0.5)
        candidates = find_candidates(prints, half[0])
        pairs = verify(candidates, prints, [sample.image for sample in samples], half[1])
        known[key] = [dataclasses.astuple(pair) for pair in pairs]
        if cache:
            cache.write(known)
    return [Pair(*values) for values in known[key]]


def _share(progress: Callable[[int, int], None] | None, total: int, offset: float) -> Callable[[int, int], None] | None:
    """Progress of one of two halves, told as images of the whole."""
    if progress is None:
        return None
    return lambda done, count: progress(round(total * (offset + 0.5 * done / max(count, 1))), total)
