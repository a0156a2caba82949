"""Lines that the tests execute, room by room; exit code 1 where a room that must be held is below the bound.

python -m pytest --cov=busmt --cov-report=      # child processes are followed, see setup.cfg
python -m coverage json -q -o - | python .ci/coverage_by_room.py
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

BOUND = 90.0
HELD = ("data", "model", "evaluation", "deployment")


def main() -> int:
    shares = rooms(json.load(sys.stdin))
    for room, (covered, lines) in sorted(shares.items()):
        print(f"{room:12} {100 * covered / lines:5.1f} % of {lines} lines")
    found = list(faults(shares))
    print("\n".join(found) or f"{', '.join(HELD)}: at least {BOUND:.0f} %")
    return 1 if found else 0


def rooms(report: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Covered lines and lines of each folder of busmt; "busmt" for the files beside them."""
    sums: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for name, file in report["files"].items():
        parts = PurePath(name).parts
        parts = parts[len(parts) - 1 - parts[::-1].index("busmt") :]
        room, summary = parts[1] if len(parts) > 2 else parts[0], file["summary"]
        covered, lines = sums[room]
        sums[room] = (covered + summary["covered_lines"], lines + summary["num_statements"])
    return {room: share for room, share in sums.items() if share[1]}


def faults(shares: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """Rooms below the bound, or not measured at all."""
    for room in HELD:
        covered, lines = shares.get(room, (0, 1))
        if 100 * covered / lines < BOUND:
            yield f"{room}: {100 * covered / lines:.1f} % of its lines are tested; at least {BOUND:.0f} % must be"


if __name__ == "__main__":
    sys.exit(main())
