"""Write the tables of results/README.md from the files beside it.

    python benchmarks/results_page.py            # rewrites what stands between <!-- table NAME --> and <!-- end -->
    python benchmarks/results_page.py --check    # exit code 1 where the page does not say what the files say

NAME is a folder that `busmt crossval` or `busmt benchmark` made, one of metrics.json files of another cohort
(`busmt evaluate RUN --data COHORT`), one row each, "summary", or "failures".
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from busmt.evaluation.headline import interval, number
from busmt.training.crossval import accelerators, fold_files, fold_tables

RESULTS = Path(__file__).parents[1] / "results"
_AUROC = "auroc_malignant"
_BLOCK = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_ROWS: tuple[tuple[str, str, int], ...] = (
    ("segmentation.measures.dice", "lesion Dice; a missed lesion counts 0", 3),
    ("segmentation.measures.iou", "lesion IoU", 3),
    ("segmentation.measures.hd95_px", "HD95 of lesions that were found, pixels of the image", 1),
    ("normals.false_positive_rate", "normals with a lesion marked", 3),
    ("classification.measures.accuracy", "accuracy", 3),
    ("classification.measures.balanced_accuracy", "balanced accuracy", 3),
    ("classification.measures.macro_f1", "macro F1", 3),
    (f"classification.measures.{_AUROC}", "AUROC, malignant against the rest", 3),
    ("classification.measures.sensitivity_at_90_specificity", "sensitivity at 90 % specificity", 3),
    ("classification.measures.specificity_at_90_sensitivity", "specificity at 90 % sensitivity", 3),
    ("calibration.ece", "expected calibration error", 3),
    ("for_comparison_only.dice_average", "Dice, a correctly empty normal counts 1 (for comparison only)", 3),
)
_FOLDS = {"dice": "lesion Dice", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}

_SUMMARY: tuple[tuple[str, str, str], ...] = (
    ("P1, curated BUSI", "p1-seed2-three", "the three below answer together, with mirror images"),
    ("", "p1-seed2-transfer0", "BUS-BRA, then BUSI"),
    ("", "p1-seed2-transfer1", "the same from another start"),
    ("", "p1-seed2-transfer2", "the same from a third start"),
    ("P1, earlier, folds of seed 0", "p1-both", "the two below answer together"),
    ("", "p1-transfer", "BUS-BRA, then BUSI"),
    ("", "p1", "ImageNet, then BUSI"),
    ("P1, earlier, folds of seed 1", "p1-seed1-both", "as `p1-both`"),
    ("", "p1-seed1-transfer", "as `p1-transfer`"),
    ("", "p1-seed1", "as `p1`"),
    ("P2, published list", "p2-transfer", "BUS-BRA, then BUSI"),
    ("", "p2b", "ImageNet, then BUSI"),
    ("", "aumente-unetpp-450", "not ours: UNet++ after Aumente-Maestro et al."),
    ("P3, BUS-BRA", "p3-all", "`p3`, `p3-transfer` and `p3-large` answer together, with mirror images"),
    ("", "p3-both", "`p3` and `p3-transfer` answer together, with mirror images"),
    ("", "p3-large", "`p3-transfer`, four epochs more on larger images"),
    ("", "p3-mirror", "`p3-transfer` with mirror images"),
    ("", "p3-transfer", "BUSI, then BUS-BRA"),
    ("", "p3", "ImageNet, then BUS-BRA"),
    ("P5, raw BUSI, random split", "p5", "BUS-BRA, then BUSI; flattered by copies"),
)
"""Protocol, folder and what was trained, of each row of the summary."""


_FAILED = 0.5
"""A lesion with a Dice below counts as one where something else is marked, or nothing."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    page = RESULTS / "README.md"
    old = page.read_text(encoding="utf-8")
    new = _BLOCK.sub(lambda match: match[1] + table(match[2]) + match[3], old)
    if options.check:
        print("the page says what the files say" if new == old else f"{page}: out of date; run this without --check")
        return int(new != old)
    page.write_text(new, encoding="utf-8")
    return 0


def table(name: str) -> str:
    """Markdown for one folder of results, or for the summary."""
    if name == "summary":
        return summary_table()
    if name == "failures":
        return failures_table("p1-seed2-three", "p2-transfer", "p3-all")
    folder = RESULTS / name
    if (folder / "accuracy.md").exists():
        return (folder / "accuracy.md").read_text(encoding="utf-8")
    if fold_files(folder):
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return crossval_table(metrics, accelerators([folder]))
    if not any(folder.glob("*.json")):
        return "Not computed yet.\n"
    return external_table(
        {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    )


def summary_table() -> str:
    lines = ["| protocol | experiment | lesion Dice | accuracy | AUROC, malignant |", "|---|---|---|---|---|"]
    for protocol, name, what in _SUMMARY:
        file = RESULTS / name / "metrics.json"
        if not file.exists():
            continue
        metrics = json.loads(file.read_text(encoding="utf-8"))
        facts = metrics["cross_validation"]
        part = f", folds {', '.join(map(str, facts['folds']))} alone" if facts["missing"] else ""
        paths = ("segmentation.measures.dice", *(f"classification.measures.{key}" for key in ("accuracy", _AUROC)))
        cells = [protocol, f"`{name}`: {what}{part}", *(_interval(_find(metrics, path)) for path in paths)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def failures_table(*names: str) -> str:
    """Where the Dice and the accuracy of experiments are lost."""
    lines = [
        f"| experiment | median lesion Dice | lesions below {_FAILED} | mean of the others | lesions called normal | "
        "malignant called benign | benign called malignant | normals called lesion |",
        "|---" * 8 + "|",
    ]
    for name in names:
        table = pd.concat(fold_tables(RESULTS / name))
        dice = table["dice"][table["lesion_pixels"] > 0].astype(float)
        failed = dice < _FAILED
        metrics = json.loads((RESULTS / name / "metrics.json").read_text(encoding="utf-8"))
        said = dict(zip(metrics["classes"], metrics["classification"]["confusion_as_said"], strict=True))
        benign, malignant, normal = said["benign"], said["malignant"], said.get("normal")
        cells = [f"`{name}`", number(dice.median()), f"{100 * failed.mean():.1f} %", number(dice[~failed].mean())]
        cells += [
            f"{benign[0] + malignant[0]} of {sum(benign + malignant)}",
            f"{malignant[1]} of {sum(malignant)}",
            f"{benign[2]} of {sum(benign)}",
            f"{normal[1] + normal[2]} of {sum(normal)}" if normal else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def crossval_table(metrics: Mapping[str, Any], devices: Sequence[str]) -> str:
    facts = metrics["cross_validation"]
    counts = ", ".join(f"{count} {name}" for name, count in metrics["class_counts"].items() if count)
    missing = f"; folds {', '.join(map(str, facts['missing']))} are missing" if facts["missing"] else ""
    cost = f"; {facts['cpu_hours']:.1f} CPU hours of training" if facts["cpu_hours"] else ""
    cost = f"; trained with {' and '.join(devices)}" if devices else cost
    lesions = metrics["segmentation"]
    lines = [
        f"{len(facts['folds'])} folds{missing}: {metrics['images']} test images of {metrics['groups']} groups "
        f"({counts}); {lesions['missed']} of {lesions['images']} lesions missed{cost}.",
        "",
        "| measure | all | 95 % interval |",
        "|---|---|---|",
    ]
    for path, title, digits in _ROWS:
        found = _find(metrics, path)
        if found:
            lines.append(
                f"| {title} | {found['value']:.{digits}f} | {found['low']:.{digits}f} to {found['high']:.{digits}f} |"
            )
    heads = " | ".join(f"fold {fold}" for fold in facts["folds"])
    lines += ["", f"| by fold | {heads} | mean ± SD |", "|---" * (len(facts["folds"]) + 2) + "|"]
    for key, title in _FOLDS.items():
        row = facts["by_fold"].get(key)
        if row:
            values = " | ".join(f"{value:.3f}" for value in row["folds"])
            spread = "" if row["sd"] is None else f" ± {row['sd']:.3f}"  # of one fold there is none
            lines.append(f"| {title} | {values} | {row['mean']:.3f}{spread} |")
    return "\n".join(lines) + "\n"


def external_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| network | lesion Dice | where something is marked | AUROC | lesions called normal |",
        "|---|---|---|---|---|",
    ]
    for name, found in metrics.items():
        cells = [
            _interval(_find(found, "segmentation.measures.dice")),
            number(_find(found, "segmentation.measures.dice_if_marked.value")),
            _interval(_find(found, f"classification.measures.{_AUROC}")),
            f"{sum(row[0] for row in found['classification']['confusion_as_said'])} of {found['images']}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{number(estimate['value'])} ({interval(estimate)})"


def _find(metrics: Mapping[str, Any], path: str) -> Any:
    value: Any = metrics
    for key in path.split("."):
        value = (value or {}).get(key)
    return value


if __name__ == "__main__":
    sys.exit(main())
