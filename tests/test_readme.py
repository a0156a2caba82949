"""What the README shows can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from busmt.cli.main import cli

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    parts = [part for block in blocks for line in block.splitlines() for part in line.split("#")[0].split("&&")]
    return [part.strip() for part in parts if re.search(r"\bbusmt [a-z]", part)]


@pytest.mark.parametrize("text", commands())
def test_command_exists_with_these_options(text):
    words = shlex.split(text)
    name, *arguments = words[[Path(word).name for word in words].index("busmt") + 1 :]
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None, name
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= known


def test_there_are_exactly_two_set_up_commands():
    for marker in ("run", "test"):
        block = re.search(rf"<!-- {marker} -->\n```bash\n(.*?)\n```", README, flags=re.DOTALL)
        assert block is not None
        assert "\n" not in block[1]
        assert block[1].startswith("python3 -m venv .venv && .venv/bin/pip install -e ")
