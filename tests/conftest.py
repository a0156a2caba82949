"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# before JAX, which TensorFlow imports where it is installed, sets another one for this process and those it starts
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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


@pytest.fixture(scope="session")
def python(tmp_path_factory) -> Callable[..., subprocess.CompletedProcess]:
    """Run a piece of Python in a fresh process: `python(code, *arguments, VARIABLE=value)`."""

    def run(code: str, *arguments: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
        answer = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=tmp_path_factory.mktemp("process"),
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )
        if check and answer.returncode:
            raise AssertionError(f"the process ended with {answer.returncode}:\n{answer.stderr[-4000:]}")
        return answer

    return run


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory) -> Path:
    """A BUSI-like folder of small phantoms: 12 normal, 16 benign, 12 malignant. Do not change it."""
    from busmt.data.phantom import write_phantoms

    counts = {"normal": 12, "benign": 16, "malignant": 12}
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "busi", counts, seed=5, size=(96, 120))


_TRAIN = """
import sys
from busmt.config import Config
from busmt.training.loop import train
from busmt.training.prepare import prepare_run

training = {"epochs": 4, "batch_size": 8, "patience": 4}
config = Config.preset("tiny", {"data": {"path": sys.argv[1]}, "training": training})
train(prepare_run(config, sys.argv[2]))
"""


@pytest.fixture(scope="session")
def tiny_run_folder(phantom_folder, tmp_path_factory, python) -> Path:
    """The folder of a finished run on `phantom_folder`: preset tiny, 4 epochs. Do not change it; copy it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    python(_TRAIN, phantom_folder, folder)
    return folder
