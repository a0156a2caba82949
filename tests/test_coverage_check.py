"""The check of what the tests execute, room by room (.ci/coverage_by_room.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "coverage_by_room.py"


def report(covered: int, rooms=("data", "model", "evaluation", "deployment")) -> str:
    """As coverage writes it: 200 lines in each room, in two files; a name may begin with a folder called busmt."""
    names = {
        f"{start}busmt/{room}/{name}": half
        for start, room in zip(["", "/src/busmt/", "", ""], rooms, strict=False)
        for name, half in (("a.py", 100), ("b/c.py", covered - 100))
    }
    files = {name: {"summary": {"covered_lines": lines, "num_statements": 100}} for name, lines in names.items()}
    return json.dumps({"files": {"busmt/errors.py": {"summary": {"covered_lines": 0, "num_statements": 9}}, **files}})


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (report(180), 0, "data          90.0 % of 200 lines"),
        (report(179), 1, "model: 89.5 % of its lines are tested; at least 90 % must be"),
        (report(200, rooms=("data", "model", "evaluation")), 1, "deployment: 0.0 % of its lines"),
    ],
)
def test_a_room_that_is_tested_too_little_ends_with_1(text, code, said):
    answer = subprocess.run([sys.executable, SCRIPT], input=text, capture_output=True, text=True, check=False)
    assert answer.returncode == code, answer.stderr
    assert said in answer.stdout
