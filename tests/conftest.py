"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent


def _data_folder(name: str) -> Path:
    roots = [os.environ.get("BUSMT_DATA"), _ROOT / "data", _ROOT.parent / "shared" / "data"]
    for root in roots:
        if root and (Path(root) / name).is_dir():
            return Path(root) / name
    pytest.skip(f"{name} not found: set BUSMT_DATA to the folder that holds it")


@pytest.fixture(scope="session")
def busi_dir() -> Path:
    """The official BUSI folder."""
    return _data_folder("busi/Dataset_BUSI_with_GT")


@pytest.fixture(scope="session")
def bus_bra_dir() -> Path:
    """The BUS-BRA folder."""
    return _data_folder("bus_bra")
