"""Deterministic class-balanced repetition: pure index arithmetic.

An epoch holds every sample of the largest class once and repeats the samples of the other classes, whole
and in a fixed rotation, until each class has the share of the largest class that was asked for. What
comes at a position is a function of (labels, seed, epoch, position) and nothing else: no generator has
a state that threads, machines or an interruption could change.

>>> labels = np.array([1, 1, 1, 1, 2, 2])
>>> order = epoch_order(labels, seed=0, epoch=0)
>>> np.bincount(labels[order]).tolist()
[0, 4, 4]
"""

from __future__ import annotations

import numpy as np

from busmt.config import BALANCE_MODES


def class_quota(labels: np.ndarray, target: float = 1.0, mode: str = "rotation") -> dict[int, int]:
    """Samples per class in one epoch.

    Args:
        labels: class index of each sample, (N,), int.
        target: samples of a repeated class, relative to the largest class; in (0, 1]. A class that has
            more samples than that keeps them all. Of no account in the mode "round".
        mode: "rotation", or "round": every sample of a class with the share p comes round(1 / p) times
            (Aumente-Maestro et al., 2025), halves rounded up.

    Raises:
        ValueError: no labels, a target outside (0, 1], or an unknown mode.
    """
    if mode not in BALANCE_MODES:
        raise ValueError(f"mode must be one of {', '.join(BALANCE_MODES)}, got {mode!r}")
    if not 0 < target <= 1:
        raise ValueError(f"target must be in (0, 1], got {target!r}")
    classes, counts = np.unique(np.asarray(labels), return_counts=True)
    if not len(classes):
        raise ValueError("labels must not be empty")
    if mode == "round":
        times = np.floor(counts.sum() / counts + 0.5).astype(int)
        return {int(name): int(count * often) for name, count, often in zip(classes, counts, times, strict=True)}
    wanted = int(round(target * counts.max()))
    return {int(name): max(wanted, int(count)) for name, count in zip(classes, counts, strict=True)}


def epoch_length(labels: np.ndarray, target: float | None = 1.0, mode: str = "rotation") -> int:
    """Number of positions in an epoch; without a target (no balancing) the number of samples."""
    return len(labels) if target is None else sum(class_quota(labels, target, mode).values())


def epoch_order(
    labels: np.ndarray, seed: int, epoch: int, target: float | None = 1.0, mode: str = "rotation"
) -> np.ndarray:
    """Sample index at every position of an epoch.

    The rotation of a class goes on where the epoch before stopped, so that over epochs too no sample
    is more than one repetition ahead of its siblings.

    Args:
        labels: class index of each sample, (N,), int.
        seed: seed of the rotations and of the order.
        epoch: from 0.
        target: see `class_quota`; None turns balancing off: a shuffled pass over all samples.
        mode: see `class_quota`.

    Returns:
        (L,), int64, with L = `epoch_length(labels, target)`.
    """
    labels = np.asarray(labels)
    if target is None:
        chosen = np.arange(len(labels))
    else:
        chosen = np.concatenate(
            [
                _rotate(np.flatnonzero(labels == name), quota, seed, epoch)
                for name, quota in class_quota(labels, target, mode).items()
            ]
        )
    return chosen[np.argsort(position_hash(seed, epoch, np.arange(len(chosen))), kind="stable")]


def position_hash(seed: int, epoch: int, position: np.ndarray) -> np.ndarray:
    """64 well-mixed bits for each position, (L,), uint64: splitmix64 (Steele et al., OOPSLA 2014), chained."""
    with np.errstate(over="ignore"):
        state = _mix(np.asarray(seed, np.int64).astype(np.uint64))
        state = _mix(state ^ np.asarray(epoch, np.int64).astype(np.uint64))
        return _mix(state ^ np.asarray(position, np.int64).astype(np.uint64))


_ROTATION = -1  # stands where an epoch stands, so that rotations and orders never share bits


def _rotate(members: np.ndarray, quota: int, seed: int, epoch: int) -> np.ndarray:
    rotation = members[np.argsort(position_hash(seed, _ROTATION, members), kind="stable")]
    return rotation[(epoch * quota + np.arange(quota)) % len(rotation)]


def _mix(value: np.ndarray) -> np.ndarray:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
