"""`busmt benchmark accuracy`: systems under one protocol, in one table.

Every system is cross-validated on the same curated images, folds, budget and seeds; what a publication prescribes
besides (loss, balance, augmentation) comes with its name. Finished folds are kept, so that the same command goes
on where it was interrupted, and makes the table when all are there.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from busmt.config import OURS, Config
from busmt.data.images import write_atomically, write_json
from busmt.deployment.cost import TIMED, Cost, measure_costs
from busmt.deployment.latency import machine
from busmt.errors import RunError
from busmt.evaluation.compare import NOT_SHOWN, System, compare
from busmt.evaluation.figures import draw_differences, save_figure
from busmt.evaluation.headline import interval, number
from busmt.evaluation.intervals import RESAMPLES
from busmt.evaluation.protocol import evaluate_table
from busmt.training.crossval import CrossValidation, RunFold, accelerators, cross_validate, run_fold

SCHEMA, SCHEMA_VERSION = "busmt-accuracy", 1
MEASURES: dict[str, tuple[str, str]] = {
    "dice": ("segmentation", "Dice"),
    "iou": ("segmentation", "IoU"),
    "hd95_px": ("segmentation", "HD95, px"),
    "accuracy": ("classification", "Accuracy"),
    "balanced_accuracy": ("classification", "Balanced accuracy"),
    "auroc_macro": ("classification", "AUROC"),
}
"""Measure to its block of metrics.json and its heading; mask measures are means over lesion images."""
_SHOWN = ("dice", "accuracy", "balanced_accuracy", "auroc_macro")
"""Measures whose difference to ours stands in the table for people, and in the figure."""
QUICK: dict[str, Any] = {
    "data": {"phantoms_per_class": 20},
    "folds": {"count": 2},
    "training": {"epochs": 4, "batch_size": 8, "patience": 4},
}
"""What the preset quick sets beneath the user's settings: minutes on phantoms, to see that all works."""


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        system: its name.
        ours: whether it is the network of busmt.
        measures: of `MEASURES`, those that it has: value, low, high.
        differences: to ours, of the measures that both have: value, low, high, p_value, verdict; empty for ours.
        cost: parameters, operations and times.
        cpu_hours: processor time of all its trainings; None where it is not known.
    """

    system: str
    ours: bool
    measures: dict[str, dict[str, float]]
    differences: dict[str, dict[str, Any]]
    cost: Cost
    cpu_hours: float | None


def benchmark_accuracy(
    configs: Mapping[str, Config],
    name: str,
    run_one: RunFold | None = None,
    *,
    seeds: Sequence[int] = (0,),
    only: Sequence[int] = (),
    common: bool = False,
    results: str | os.PathLike[str] = "results",
    runs: str | os.PathLike[str] = "runs",
    rounds: int = 20,
    resamples: int = RESAMPLES,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train and test every system on every fold with every seed, and write the table.

    Fold files are RESULTS/NAME/SYSTEM-seedN/fold_K.json, the table RESULTS/NAME/accuracy.json, .csv and .md, and the
    differences as a figure accuracy.png and .svg.

    Args:
        configs: of each system, by name; `busmt` must be among them. They must have the same data, curation and folds.
        name: of the table.
        run_one: as for `busmt.training.crossval.cross_validate`.
        seeds: training seeds. With several, a system's rows of all seeds are put together: means are over seeds, too,
            and intervals resample an image's group in all seeds at once.
        only: folds to compute; none: all.
        common: systems may be curated differently, and are compared on the images that all of them were tested on.
        results, runs: parent folders.
        rounds: timed calls of each .tflite file; 0: no times.
        resamples: bootstrap resamples and permutations.
        say: called with a line of text at each stage.

    Raises:
        RunError: our network is missing, systems differ in their data or folds, or a fold fails.
    """
    if OURS not in configs:
        raise RunError(f"the table compares with {OURS}: it must be among the systems")
    shared = ("data", "folds") if common else ("data", "curation", "folds")
    for system, config in configs.items():
        for section in shared:
            if getattr(config, section) != getattr(configs[OURS], section):
                raise RunError(f"{system}: its settings of {section} are not those of {OURS}; one protocol for all")
    folder, outcomes = Path(results) / name, dict[str, list[CrossValidation]]()
    for system, config in configs.items():
        for seed in seeds:
            say(f"{system}, seed {seed}")
            own, experiment = config.replace({"training": {"seed": seed}}), f"{system}-seed{seed}"
            outcome = cross_validate(
                own, experiment, run_one or run_fold, results=folder, runs=Path(runs) / name, only=only, say=say
            )
            outcomes.setdefault(system, []).append(outcome)
    if not common:
        _require_same_data(outcomes)
    costs = measure_costs({system: config.network for system, config in configs.items()}, rounds, say)
    table = _table(outcomes, costs, resamples, configs[OURS].folds.seed)
    table["provenance"] = {
        "name": name,
        "seeds": list(seeds),
        "machine": machine(),
        "configs": {key: config.portable() for key, config in configs.items()},
    }
    write_json(folder / "accuracy.json", table)
    write_atomically(folder / "accuracy.csv", as_csv(table).encode())
    write_atomically(folder / "accuracy.md", as_markdown(table).encode())
    save_figure(draw_differences(table["rows"], {key: MEASURES[key][1] for key in _SHOWN}), folder / "accuracy")
    return table | {"folder": str(folder)}


def as_markdown(table: Mapping[str, Any]) -> str:
    """The table for people: figures with intervals, and differences to ours where an interval leaves out 0 in bold."""
    titles = [title for _, title in MEASURES.values()]
    timed = [name for name in TIMED if any(row["cost"]["milliseconds"][name] is not None for row in table["rows"])]
    heading = ["System", *titles, *(f"Δ {MEASURES[key][1]}" for key in _SHOWN), "Parameters, M", "GFLOPs"]
    heading += [f"ms {variant}" for variant in timed] + ["CPU hours"]
    lines = [_line(heading), _line(["---"] * len(heading))]
    for row in table["rows"]:
        cost = row["cost"]
        cells = [f"**{row['system']}** (ours)" if row["ours"] else row["system"]]
        cells += [_cell(row["measures"].get(key)) for key in MEASURES]
        cells += [_gap(row["differences"].get(key)) for key in _SHOWN]
        cells += [f"{cost['parameters'] / 1e6:.2f}", f"{cost['giga_operations']:.2f}"]
        cells += [_plain(cost["milliseconds"][variant]) for variant in timed] + [_plain(row["cpu_hours"])]
        lines.append(_line(cells))
    protocol = table["protocol"]
    note = (
        f"{protocol['images']} test images of {protocol['groups']} groups, {protocol['folds']} fold(s), "
        f"{protocol['seeds']} seed(s). In brackets 95 % bootstrap intervals over groups. Δ: difference to ours on the "
        "same images; bold where interval and permutation test show one. Mask measures are means over lesion images; "
        "HD95 leaves out missed lesions."
    )
    if protocol["accelerators"]:
        note += f" Trained with {' and '.join(protocol['accelerators'])}: CPU hours are those of its host."
    if timed:
        note += " Times: TFLite, one image, one thread, measured in turn."
    return "\n".join([*lines, "", note, ""])


def as_csv(table: Mapping[str, Any]) -> str:
    """The table with one column a figure."""
    rows = []
    for row in table["rows"]:
        flat: dict[str, Any] = {"system": row["system"], "ours": row["ours"]}
        for key in MEASURES:
            estimate, gap = row["measures"].get(key, {}), row["differences"].get(key, {})
            flat |= {f"{key}{end}": estimate.get(part) for end, part in _ENDS.items()}
            flat |= {f"difference_{key}{end}": gap.get(part) for end, part in _ENDS.items()}
            flat[f"difference_{key}_p_value"] = gap.get("p_value")
        flat |= {"parameters": row["cost"]["parameters"], "giga_operations": row["cost"]["giga_operations"]}
        flat |= {f"milliseconds_{variant}": row["cost"]["milliseconds"][variant] for variant in TIMED}
        rows.append({**flat, "cpu_hours": row["cpu_hours"]})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_ENDS = {"": "value", "_low": "low", "_high": "high"}


def _table(
    outcomes: Mapping[str, Sequence[CrossValidation]], costs: Mapping[str, Cost], resamples: int, seed: int
) -> dict[str, Any]:
    systems = on_common_images({name: _system(name, parts) for name, parts in outcomes.items()})
    rows = []
    for name, system in systems.items():
        metrics = evaluate_table(system.table, resamples=resamples, seed=seed).metrics
        hours = [part.evaluation.metrics["cross_validation"]["cpu_hours"] for part in outcomes[name]]
        rows.append(
            Entry(
                name,
                name == OURS,
                {key: found for key, (block, _) in MEASURES.items() if (found := _estimate(metrics[block], key))},
                {} if name == OURS else _differences(systems[OURS], system, resamples, seed),
                costs[name],
                None if None in hours else sum(hours),
            )
        )
    first, tested = outcomes[OURS][0], systems[OURS].table
    seeds = len(outcomes[OURS])
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "protocol": {
            "images": len(tested) // seeds,
            "groups": int(tested["group"].nunique()),
            "folds": len(first.done),
            "seeds": seeds,
            "data_fingerprint": first.evaluation.metrics["cross_validation"]["data_fingerprint"],
            "accelerators": accelerators(part.folder for parts in outcomes.values() for part in parts),
        },
        "rows": [asdict(row) for row in sorted(rows, key=_rank)],
    }


def _rank(row: Entry) -> tuple[bool, float]:
    """By Dice, and behind those without masks by AUROC; the highest first."""
    masks = "dice" in row.measures
    return not masks, -row.measures["dice" if masks else "auroc_macro"]["value"]


def _system(name: str, parts: Sequence[CrossValidation]) -> System:
    """The test images of all seeds; an image has one name for each seed, and the same group in all."""
    tables = [part.evaluation.per_image for part in parts]
    if len(tables) > 1:
        names = [table["image_id"] + f" (seed {number})" for number, table in enumerate(tables)]
        tables = [table.assign(image_id=ids) for table, ids in zip(tables, names, strict=True)]
    return System(name, tuple(tables))


def on_common_images(systems: Mapping[str, System]) -> dict[str, System]:
    """The systems with those test images alone that all have, in the groups of the first.

    Where one keeps what another's curation removed, images beyond those of the strictest are left out.
    """
    tables = {name: system.table for name, system in systems.items()}
    shared = set.intersection(*(set(table["image_id"]) for table in tables.values()))
    kept = {name: table[table["image_id"].isin(shared)].reset_index(drop=True) for name, table in tables.items()}
    groups = next(iter(kept.values()))["group"].to_numpy()
    return {name: System(name, (table.assign(group=groups),)) for name, table in kept.items()}


def _estimate(block: Mapping[str, Any] | None, key: str) -> dict[str, float] | None:
    found = (block or {}).get("measures", {}).get(key)
    return found and {part: found[part] for part in ("value", "low", "high")}


def _differences(ours: System, other: System, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    measures = compare([ours, other], resamples=resamples, seed=seed)["comparisons"][0]["measures"]
    return {
        key: {**measures[key]["difference"], "p_value": measures[key]["p_value"], "verdict": measures[key]["verdict"]}
        for key in MEASURES
        if key in measures
    }


def _require_same_data(outcomes: Mapping[str, Sequence[CrossValidation]]) -> None:
    """Fold files may come from elsewhere: the images, as curated, must be the same for all."""
    seen = {
        part.evaluation.metrics["cross_validation"]["data_fingerprint"]: part.folder
        for parts in outcomes.values()
        for part in parts
    }
    if len(seen) > 1:
        raise RunError(f"{' and '.join(map(str, seen.values()))}: made from different data; no table can be made")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(estimate: Mapping[str, float] | None) -> str:
    if not estimate:
        return ""
    bounds = interval(estimate)
    return f"{number(estimate['value'])} ({bounds})" if bounds else number(estimate["value"])


def _gap(gap: Mapping[str, Any] | None) -> str:
    if not gap:
        return ""
    text = f"{gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"
    return text if gap["verdict"] == NOT_SHOWN else f"**{text}**"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
