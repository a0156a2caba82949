"""Which average of experiments to take, decided on the validation images of each fold; no test image is read.

    python benchmarks/choose_average.py p1-a p1-a+p1-b p1-a+p1-b:mirror --runs runs --out benchmarks/results/choice.json

A candidate is one experiment or several with a plus, `:mirror` for mirror images as well. The run folders
RUNS/NAME-foldK must be there and finished. Threshold and temperature were fitted on the same validation images, for
each candidate alike. Differences to the first candidate are paired, with bootstrap intervals over groups.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from busmt.training.run import Run

MEASURES = ("dice", "accuracy", "balanced_accuracy", "auroc_malignant")
MIRROR = ":mirror"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="+", metavar="CANDIDATE")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run folders lie (runs)")
    parser.add_argument("--folds", type=int, default=5, help="folds of each experiment (5)")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    if len(set(options.candidates)) < 2:
        parser.error("give two or more candidates to choose from")

    from busmt.errors import BusmtError
    from busmt.evaluation.compare import System, compare

    names, folds = list(dict.fromkeys(options.candidates)), range(options.folds)
    try:  # a run that is missing is missed before hours are spent on the others
        runs = {name: [finished(name, options.runs, fold) for fold in folds] for name in names}
    except BusmtError as error:
        parser.error(str(error))
    systems = [System(name, tuple(scores(name, runs[name][fold], fold) for fold in folds)) for name in names]
    table = compare(systems)
    result = {
        "part": "validation",
        "first": systems[0].name,
        **{key: table[key] for key in ("images", "groups", "interval")},
        "against_first": {
            pair["second"]: {key: pair["measures"][key] for key in MEASURES} for pair in table["comparisons"]
        },
    }
    text = json.dumps(result, indent=2) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def finished(candidate: str, folder: Path, fold: int) -> list[Run]:
    """The runs of one fold that a candidate averages. Raises RunError where one is not there or not finished."""
    from busmt.training.run import Run

    runs = [Run.open(folder / f"{name}-fold{fold}") for name in candidate.removesuffix(MIRROR).split("+")]
    _ = [run.model_path for run in runs]
    return runs


def scores(candidate: str, runs: Sequence[Run], fold: int) -> pd.DataFrame:
    """Per-image scores of a candidate's network of one fold, on the validation images of that fold.

    An image may help to choose in several folds, each time with another network: it has a row for each.
    """
    from busmt.evaluation.evaluate import evaluate_run
    from busmt.prediction import Predictor
    from busmt.training.ensemble import make_ensemble

    print(f"fold {fold}: {candidate}", file=sys.stderr, flush=True)
    mirror = candidate.endswith(MIRROR)
    with tempfile.TemporaryDirectory() as folder:
        average = len(runs) > 1 or mirror
        run = make_ensemble(runs, Path(folder) / "average", mirror=mirror) if average else runs[0]
        outcome = evaluate_run(
            run,
            Predictor.load(run.path),
            part="validation",
            out=Path(folder) / "scores",
            pictures=False,
            resamples=1,
        )
    table = outcome.evaluation.per_image
    return table.assign(image_id=[f"fold {fold}: {name}" for name in table["image_id"]])


if __name__ == "__main__":
    sys.exit(main())
