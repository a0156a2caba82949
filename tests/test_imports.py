"""The arrows of the design: who may import whom, and a quick --help."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import busmt

ROOT = Path(busmt.__file__).parent
LAYERS = {
    "errors": 0, "config": 0, "_version": 0,
    "data": 1, "model": 1,
    "released": 1, "trust": 2, "overlay": 2, "evaluation": 2, "training": 2, "prediction": 2, "deployment": 2,
    "cli": 3,
}  # fmt: skip


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Dotted names that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = sorted(path for path in ROOT.rglob("*.py") if room(path) not in ("__init__", "__main__"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    own = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "busmt" or len(parts) < 2 or parts[1] not in LAYERS:
            continue
        other = parts[1]
        if other != own:
            assert LAYERS[other] <= LAYERS[own], f"{own} imports {name}"
            assert {own, other} != {"data", "model"}, f"{own} imports {name}"


def test_data_never_imports_keras_and_model_never_tensorflow():
    for path in FILES:
        if path.stem == "normalisation":  # takes TensorFlow's kernel where TensorFlow is the backend, and only then
            continue
        forbidden = {"data": "keras", "model": "tensorflow"}.get(room(path))
        assert forbidden not in {name.split(".")[0] for name in imports(path)}, path


def test_commands_import_heavy_packages_only_when_called():
    heavy = {"tensorflow", "keras", "sklearn", "matplotlib", "pandas", "cv2", "scipy"}
    for path in FILES:
        if room(path) == "cli":
            assert not heavy & {name.split(".")[0] for name in imports(path, top_level_only=True)}, path


def test_help_is_quick_and_starts_no_framework():
    code = (
        "import sys; sys.argv = ['busmt', '--help']\n"
        "from busmt.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'tensorflow', 'keras', 'pandas', 'numpy'} & set(sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "busmt train" in answer.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_module_can_be_run(arguments):
    answer = subprocess.run([sys.executable, "-m", "busmt", *arguments], capture_output=True, text=True, check=False)
    assert answer.returncode == 0
    assert "busmt" in answer.stdout


def test_every_command_has_help_with_an_example():
    import click

    from busmt.cli.main import COMMANDS, cli

    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        text = (command.help or "") + (command.epilog or "")
        assert f"busmt {name}" in text, name
        assert any("--json" in parameter.opts for parameter in command.params) or isinstance(command, click.Group), name
