"""What deterministic training costs: the time of a step with it and without it, side by side.

    python benchmarks/determinism_cost.py --pairs 3 --out benchmarks/results/determinism_cost.json

Plain attention U-Net, 128x128, width 24, depth 4, batch 8, on phantoms. Each training is a process of its own; the two
kinds take turns, so that other work on the machine meets both. A training's figure is the median of its steps, the
first ones left out; the result is the median of the ratios of the pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_SETTINGS = {
    "data": {"phantoms_per_class": 20},
    "network": {"encoder": "unet", "input_size": 128, "width": 24, "depth": 4},
    "training": {"batch_size": 8, "epochs": 3, "patience": 3},
}
_LEFT_OUT = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "DETERMINISTIC"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(step_times(Path(options.child[0]), options.child[1] == "True")))
        return 0
    pairs = [[median_step(deterministic) for deterministic in (True, False)] for _ in range(options.pairs)]
    result = {
        "network": _SETTINGS["network"],
        "batch_size": 8,
        "cores": os.cpu_count(),
        "seconds_per_step": {"deterministic": [a for a, _ in pairs], "not": [b for _, b in pairs]},
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
    }
    text = json.dumps(result, indent=2) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def median_step(deterministic: bool) -> float:
    """Seconds, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", f"{folder}/run", str(deterministic)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(statistics.median(json.loads(answer.stdout.splitlines()[-1])[_LEFT_OUT:]), 4)


def step_times(folder: Path, deterministic: bool) -> list[float]:
    """Train and return the time between the ends of steps, validation left out."""
    from busmt.config import Config, merge
    from busmt.training.loop import SilentReporter, train
    from busmt.training.prepare import prepare_run

    times: list[float] = []

    class Clock(SilentReporter):
        last: float | None = None

        def step(self, epoch: int, step: int, losses: dict[str, float]) -> None:
            now = time.perf_counter()
            if self.last is not None:
                times.append(now - self.last)
            self.last = now

        def epoch(self, row: dict[str, float], best: bool) -> None:
            self.last = None

    settings = merge(_SETTINGS, {"training": {"deterministic": deterministic}})
    train(prepare_run(Config.preset("tiny", settings), folder), Clock())
    return times


if __name__ == "__main__":
    sys.exit(main())
