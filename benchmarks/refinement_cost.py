"""What refinement costs and gains in finished networks: their own, the two hard rules and none, on the same logits.

    python benchmarks/refinement_cost.py runs/p1-fold0 runs/p1-fold1 --out benchmarks/results/refinement_p1.json

Every run is scored on its test images three times; mask threshold and temperature stay those that were fitted with
its own refinement. Differences are paired, with bootstrap intervals over groups.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

KINDS = ("none", "ours", "rules")
"""Kinds of refinement; the others are compared with the first."""
MEASURES = ("dice", "false_positive_rate", "accuracy", "balanced_accuracy", "auroc_malignant")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs that tested different images")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()

    from busmt.evaluation.compare import compare, system_of
    from busmt.training.run import Run

    runs = [Run.open(path) for path in options.runs]
    others = [run.name for run in runs if run.config.network.refinement != "ours"]
    if others:
        parser.error(f"{others[0]} was trained without refinement: nothing is learned that could be left out")
    evaluated = {kind: [scores(run, kind) for run in runs] for kind in KINDS}
    systems = [system_of(kind, folds) for kind, folds in evaluated.items()]
    result = {
        "runs": [run.name for run in runs],
        "images": len(systems[0].table),
        "contradictions": {
            kind: sum(fold.metrics["agreement"]["after"]["contradictions"] for fold in folds)
            for kind, folds in evaluated.items()
        },
        "against_none": {
            pair["second"]: {key: pair["measures"][key] for key in MEASURES if key in pair["measures"]}
            for pair in compare(systems)["comparisons"]
        },
    }
    text = json.dumps(result, indent=2) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def scores(run: Any, kind: str) -> Any:
    """The evaluation of a run's test images with another end on its logits."""
    import keras

    from busmt.config import LABEL_LOGITS_OUTPUT, MASK_LOGITS_OUTPUT
    from busmt.evaluation.protocol import score_predictions
    from busmt.model.outputs import REFINEMENT_LAYER, finish
    from busmt.prediction import Predictor, load_network

    print(f"{run.name}, refinement: {kind}", file=sys.stderr)
    network = load_network(run.model_path)
    end = network.get_layer(REFINEMENT_LAYER)
    if kind != "ours":
        logits = [network.output[name] for name in (MASK_LOGITS_OUTPUT, LABEL_LOGITS_OUTPUT)]
        image = keras.Input(network.input_shape[1:])
        network = finish(image, *keras.Model(network.input, logits)(image), kind)
        fitted = network.get_layer(REFINEMENT_LAYER)
        fitted.mask_offset.assign(end.mask_offset)
        fitted.temperature.assign(end.temperature)
    images = run.part("test")
    predictions = Predictor.from_network(network).predict_catalog(images)
    return score_predictions(zip(images, predictions, strict=True), images.table, resamples=1)


if __name__ == "__main__":
    sys.exit(main())
