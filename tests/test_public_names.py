"""`import busmt` offers the public names, and starts nothing."""

from __future__ import annotations

import pytest

import busmt


@pytest.mark.parametrize("name", [name for name in busmt.__all__ if not name.startswith("__")])
def test_public_names_can_be_had(name):
    assert name in dir(busmt)
    assert getattr(busmt, name) is not None


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'trainer_'"):
        busmt.trainer_  # noqa: B018


def test_importing_busmt_imports_nothing_heavy(python):
    code = "import busmt, sys; assert not {'keras', 'tensorflow', 'pandas', 'numpy', 'cv2'} & set(sys.modules)"
    python(code)


_AGAIN = """
import os, shutil, sys
import busmt

folder = sys.argv[2]
shutil.copytree(sys.argv[1], folder)
run = busmt.Run.open(folder)
found = busmt.train_or_resume(run.config, folder)
assert found.finished and len(found.history()) == len(run.history())

relative = run.config.replace({"data": {"path": os.path.relpath(run.config.data.path)}})
assert relative != run.config and busmt.train_or_resume(relative, folder).config == run.config

(run.path / "model.keras").unlink()
(run.path / "calibration.json").unlink()
again = busmt.train_or_resume(run.config, folder)
assert again.finished and len(again.history()) == len(run.history())

try:
    busmt.train_or_resume(run.config.replace({"network": {"width": 12}}), folder)
except busmt.BusmtError as error:
    assert "network.width is 8 there, 12 here" in str(error), error
else:
    raise AssertionError("another configuration was taken for this one")
"""


def test_training_can_be_called_again(tiny_run_folder, tmp_path, python):
    python(_AGAIN, tiny_run_folder, tmp_path / "again")
