"""The notebooks run from top to bottom: on phantoms always, on BUSI where it is."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
FAST = {"PER_CLASS": 20, "EPOCHS": 2}


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(name: str, place: Path, settings: dict[str, Any], timeout: int = 600) -> Any:
    """Run a notebook in a folder of its own, with other settings than it has; the first error is raised."""
    notebook = read(name)
    at = next(number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    known = {key: value for key, value in settings.items() if re.search(rf"^{key} = ", notebook.cells[at].source, re.M)}
    lines = "\n".join(f"{key} = {value!r}" for key, value in known.items())
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(lines))
    NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(place)}}
    ).execute()
    for data in (output["data"] for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output):
        assert "image/png" in data or not data.get("text/plain", "").startswith("<Figure"), "a figure was not drawn"
    return notebook


def outputs(notebook: Any, kind: str) -> list[Any]:
    return [
        output.data[kind]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if kind in output.get("data", {})
    ]


def test_there_are_six():
    assert [name[:2] for name in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_outputs_are_stripped(name):
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert set(cell["metadata"]) <= {"tags"}
    assert "image/png" not in text


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_lead_somewhere(name):
    for cell in read(name).cells:
        for target in re.findall(r"\]\(([^)]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (FOLDER / target).exists(), target


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_public_interface_is_enough(name):
    for cell in read(name).cells:
        if cell.cell_type == "code":
            assert not re.search(r"\bimport +_|\bbusmt(\.\w+)*\._|(?<!_)\b[a-z]\w*\._[a-z]", cell.source), cell.source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_first_cell_installs_and_settings_choose_the_data(name):
    code = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert "%pip install" in code[0].source
    assert code[1].metadata.tags == ["parameters"]
    assert code[1].source.startswith("DATA = None")


def test_quickstart_on_phantoms(tmp_path):
    notebook = execute("01_quickstart", tmp_path, {"PER_CLASS": 12, "EPOCHS": 1})
    assert len(outputs(notebook, "image/png")) == 3
    assert (tmp_path / "exports" / "quickstart" / "model.tflite").is_file()
    assert (tmp_path / "exports" / "quickstart" / "1" / "saved_model.pb").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS[1:])
def test_runs_on_phantoms_and_again(name, tmp_path):
    first = execute(name, tmp_path, FAST)
    again = execute(name, tmp_path, FAST)  # in the same folder: every cell finds what it made
    assert outputs(first, "image/png")
    assert len(outputs(again, "text/html")) == len(outputs(first, "text/html"))


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", ["02_busi_curation", "03_train_and_evaluate", "04_inside_the_model", "05_deploy"])
def test_runs_on_busi(name, tmp_path, busi_dir):
    notebook = execute(name, tmp_path, {"DATA": str(busi_dir), "EPOCHS": 1}, timeout=900)
    if name == "02_busi_curation":
        texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())]
        assert any("busi-curated-v1" in text for text in texts)


def test_this_python_has_a_kernel():
    from jupyter_client.kernelspec import KernelSpecManager

    command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    assert Path(command).name.startswith("python") or command == sys.executable
