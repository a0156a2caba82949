"""Repeat a result of results/ from the images on: every command that it needs, one after the other.

    python benchmarks/reproduce.py p1-both --busi path/to/Dataset_BUSI_with_GT --bus-bra path/to/BUS-BRA
    python benchmarks/reproduce.py p2-transfer --busi ... --bus-bra ... --list curated_busi_450_aumente_maestro.csv
    python benchmarks/reproduce.py p3-both --busi ... --bus-bra ... --dry-run     # prints the commands alone

Runs and results go to OUT/runs and OUT/results. What is finished there is kept, so that the same command goes on
where it was interrupted. Other processors round otherwise: expect figures near those of results/README.md, within
their intervals, not the same digits.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
_CROSSVAL = "crossval --results {results} --runs {runs} "
STEPS: dict[str, tuple[tuple[str, ...], str]] = {
    "p1": ((), _CROSSVAL + "--data {busi} --name p1"),
    **{
        f"p3-fold{fold}": ((), _CROSSVAL + f"--data {{bus_bra}} --config {{settings}}/p3.yaml --name p3 --fold {fold}")
        for fold in range(3)
    },
    "p1-transfer": (
        ("p3-fold0",),
        _CROSSVAL + "--data {busi} --config {settings}/p1-transfer.yaml --start {runs}/p3-fold0 --name p1-transfer",
    ),
    "p1-both": (("p1", "p1-transfer"), _CROSSVAL + "--average p1 --average p1-transfer --name p1-both"),
    "p1-seed1": ((), _CROSSVAL + "--data {busi} --config {settings}/p1-seed1.yaml --name p1-seed1"),
    "p1-seed1-transfer": (
        ("p3-fold0",),
        _CROSSVAL + "--data {busi} --config {settings}/p1-seed1-transfer.yaml --start {runs}/p3-fold0 "
        "--name p1-seed1-transfer",
    ),
    "p1-seed1-both": (
        ("p1-seed1", "p1-seed1-transfer"),
        _CROSSVAL + "--average p1-seed1 --average p1-seed1-transfer --name p1-seed1-both",
    ),
    **{
        f"p1-seed2-transfer{number}": (
            (f"p3-fold{number}",),
            _CROSSVAL + "--data {busi} --config {settings}/p1-seed2-transfer.yaml "
            f"--seed {number} --start {{runs}}/p3-fold{number} --name p1-seed2-transfer{number}",
        )
        for number in range(3)
    },
    "p1-seed2-three": (
        ("p1-seed2-transfer0", "p1-seed2-transfer1", "p1-seed2-transfer2"),
        _CROSSVAL + "--average p1-seed2-transfer0 --average p1-seed2-transfer1 --average p1-seed2-transfer2 --mirror "
        "--name p1-seed2-three",
    ),
    "p3-bottleneck": (
        (),
        _CROSSVAL + "--data {bus_bra} --config {settings}/p3-bottleneck.yaml --fold 0 --name p3-bottleneck",
    ),
    "p1-seed2-bottleneck": (
        ("p3-bottleneck",),
        _CROSSVAL + "--data {busi} --config {settings}/p1-seed2-bottleneck.yaml --start {runs}/p3-bottleneck-fold0 "
        "--name p1-seed2-bottleneck",
    ),
    "p2b": ((), _CROSSVAL + "--data {busi} --curated {list} --config {settings}/p2b.yaml --name p2b"),
    "aumente-unetpp-450": (
        (),
        _CROSSVAL + "--data {busi} --curated {list} --config {settings}/aumente-unetpp-450.yaml "
        "--name aumente-unetpp-450",
    ),
    **{
        name: (
            (),
            _CROSSVAL + f"--data {{busi}} --curated {{list}} --config {{settings}}/{name}.yaml {folds} --name {name}",
        )
        for name, folds in {
            "narrow-base": "--fold 0 --fold 1 --fold 2",
            "narrow-loss": "--fold 0",
            "narrow-slow": "--fold 1 --fold 2",
            "narrow-long": "--fold 1 --fold 2",
            "narrow-long-loss": "--fold 1 --fold 2",
            "narrow-long-last": "--fold 1 --fold 2",
        }.items()
    },
    "narrow-published": (
        (),
        _CROSSVAL + "--data {published_folds} --config {settings}/narrow-published.yaml --name narrow-published",
    ),
    "p2-transfer": (
        ("p3-fold0",),
        _CROSSVAL + "--data {busi} --curated {list} --config {settings}/p2-transfer.yaml --start {runs}/p3-fold0 "
        "--name p2-transfer",
    ),
    "p3": ((), _CROSSVAL + "--data {bus_bra} --config {settings}/p3.yaml --name p3"),
    "released": (
        ("p1",),
        "ensemble {runs}/p1-fold0 {runs}/p1-fold1 {runs}/p1-fold2 {runs}/p1-fold3 {runs}/p1-fold4 --weights "
        "--name released --runs {runs}",
    ),
    "p3-transfer": (
        ("released",),
        _CROSSVAL + "--data {bus_bra} --config {settings}/p3-transfer.yaml --start {runs}/released --name p3-transfer",
    ),
    "p3-mirror": (("p3-transfer",), _CROSSVAL + "--average p3-transfer --mirror --name p3-mirror"),
    "p3-large": (
        ("p3-transfer",),
        _CROSSVAL + "--data {bus_bra} --config {settings}/p3-large.yaml --start {runs}/p3-transfer-fold{{fold}} "
        "--name p3-large",
    ),
    "p3-both": (("p3", "p3-transfer"), _CROSSVAL + "--average p3 --average p3-transfer --mirror --name p3-both"),
    "p3-all": (
        ("p3", "p3-transfer", "p3-large"),
        _CROSSVAL + "--average p3 --average p3-transfer --average p3-large --mirror --name p3-all",
    ),
    "p5": (
        ("p3-fold0",),
        _CROSSVAL + "--data {busi} --config {settings}/p5.yaml --start {runs}/p3-fold0 --name p5",
    ),
    "p4": (("released",), "evaluate {runs}/released --data {bus_bra}"),
    "accuracy": (
        (),
        "benchmark accuracy --results {results} --runs {runs} --preset full --data {busi} --published-widths "
        "--config {settings}/accuracy.yaml --fold 0 --name accuracy",
    ),
    "bottleneck": (
        (),
        "benchmark accuracy --results {results} --runs {runs} --preset full --data {busi} --config "
        "{settings}/accuracy.yaml --system busmt --system branch-bottleneck --fold 1 --rounds 0 --name bottleneck",
    ),
    "bottleneck-refined": (
        (),
        _CROSSVAL + "--data {busi} --config {settings}/bottleneck-refined.yaml --fold 1 --name bottleneck-refined",
    ),
}
"""Result to those that it needs and its command. `results/` holds what came of it, under the same name."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(STEPS))
    parser.add_argument("--busi", help="folder of BUSI")
    parser.add_argument("--bus-bra", help="folder of BUS-BRA")
    parser.add_argument("--list", help="the published list of 450 images, for P2")
    parser.add_argument("--published-folds", help="catalog of benchmarks/published_folds.py, for narrow-published")
    parser.add_argument("--out", type=Path, default=Path("reproduced"), help="default: reproduced")
    parser.add_argument("--dry-run", action="store_true", help="print the commands alone")
    options = parser.parse_args()
    places = {
        "busi": options.busi,
        "bus_bra": options.bus_bra,
        "list": options.list,
        "published_folds": options.published_folds,
        "settings": str(ROOT / "results"),
        "results": str(options.out / "results"),
        "runs": str(options.out / "runs"),
    }
    steps = list(in_order(options.name))
    for place in ("busi", "bus_bra", "list", "published_folds"):
        if not places[place] and any(f"{{{place}}}" in STEPS[step][1] for step in steps):
            parser.error(f"{options.name} needs --{place.replace('_', '-')}")
    for step in steps:
        arguments = command(step, places)
        print(shlex.join(["busmt", *arguments]), flush=True)
        if options.dry_run or (step == "released" and (options.out / "runs" / step).exists()):
            continue
        code = subprocess.run([sys.executable, "-m", "busmt", *arguments]).returncode
        if code:
            return code
    return 0


def in_order(name: str) -> Iterator[str]:
    """What a result needs, each once and before what needs it, and the result itself."""
    seen: set[str] = set()

    def visit(step: str) -> Iterator[str]:
        if step in seen:
            return
        seen.add(step)
        for needed in STEPS[step][0]:
            yield from visit(needed)
        yield step

    return visit(name)


def command(step: str, places: Mapping[str, str | None]) -> list[str]:
    """The arguments of busmt for a step; a place may hold spaces."""
    return [word.format_map(places) for word in shlex.split(STEPS[step][1])]


if __name__ == "__main__":
    sys.exit(main())
