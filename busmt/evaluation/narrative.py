"""What was done and what follows from it, in sentences, for the report and the model card.

Every sentence is made from the files of a run; none is there whatever the run.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busmt.config import CLASSES, OURS, TASKS
from busmt.data.tables import read_table
from busmt.errors import DataError
from busmt.evaluation.evaluate import home_cohort
from busmt.evaluation.headline import interval, number, percent

if TYPE_CHECKING:
    from busmt.training.run import Run

_REFINEMENTS = {"ours": "a refinement layer", "rules": "two refinement rules", "none": "no refinement layer"}
_SMALL = 50  # images of a class below which a share can hardly be told from its neighbours


def run_facts(run: Run) -> dict[str, Any]:
    """What a run's files say about its data, split, network and training."""
    catalog, folds, environment = run.catalog(), run.folds(), run.environment()
    history, config = run.history(), run.config.to_dict()
    removed = _removed(run.path / "decisions.csv")
    parts = folds["part"].value_counts()
    return {
        "name": run.name,
        "cohort": home_cohort(run),
        "phantoms": run.config.data.path is None,
        "images": len(catalog),
        "counts": catalog.counts(),
        "groups": int(catalog.table["group"].nunique()),
        "patients": "patient" in catalog.table,
        "removed": removed,
        "fold": config["folds"]["fold"],
        "folds": int(folds["fold"].nunique()),
        "folds_seed": config["folds"]["seed"],
        "parts": {name: int(parts.get(name, 0)) for name in ("train", "validation", "test")},
        "network": config["network"],
        "training": config["training"],
        "epochs": len(history),
        "calibration": run.calibration(),
        "parameters": parameter_count(run.model_path),
        "versions": {"busmt": environment.get("busmt"), **environment.get("packages", {})},
        "git": environment.get("git"),
        "command": environment.get("command"),
        "started": environment.get("started"),
        "fingerprint": environment.get("data", {}).get("fingerprint"),
        "members": environment.get("ensemble", []),
        "averaged": environment.get("averaged"),
    }


def protocol_sentences(facts: Sequence[Mapping[str, Any]], pooled: Mapping[str, Any] | None = None) -> list[str]:
    """How the numbers came about, for one run, for the runs of several folds, or for a run without a test part whose
    figures are those of a cross-validation (`pooled`)."""
    first = facts[0]
    counts = ", ".join(f"{count} {name}" for name, count in first["counts"].items())
    removed = sum(first["removed"].values())
    reasons = ", ".join(f"{count} as {rule}" for rule, count in first["removed"].items())
    source = "synthetic phantoms, which only show that the software works" if first["phantoms"] else first["cohort"]
    curated = f" {removed} further images were removed before the split ({reasons})." if removed else ""
    groups = "patients" if first["patients"] else "images that show the same lesion"
    return [
        f"Cohort: {source}. {first['images']} images ({counts}) in {first['groups']} groups.{curated} "
        f"A group unites {groups} and is never split.",
        _pooled_sentence(first, pooled) if pooled else _split_sentence(facts),
        _network_sentence(facts),
        "Masks are scored on each image's own pixel grid. Dice and the other mask measures are means over images with "
        "a lesion: a missed lesion counts as 0, and an empty mask on a normal image is not counted as a success. "
        "Surface distances are undefined for missed lesions, which are counted beside them. Normal images have their "
        "own measure: how often a lesion is marked.",
        "Intervals are 95 % percentile bootstrap intervals that resample groups. They tell how much the figures would "
        "vary with other test images, not with another training.",
    ]


def task_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """What is missing from the metrics because the network has one task; nothing for a network with both."""
    tasks, titles = metrics.get("tasks", TASKS), {"mask": ("masks", "classes"), "label": ("classes", "masks")}
    if len(tasks) == len(TASKS):
        return []
    there, absent = titles[tasks[0]]
    return [f"The network gives {there} alone: what concerns {absent} is left out."]


def external_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """How an external cohort was scored."""
    source = metrics["provenance"]
    same = source.get("images_also_trained_on", 0)
    overlap = (
        f"{same} of its images were also used in training, which flatters the result"
        if same
        else "none of its images was used in training"
    )
    sentences = [
        f"The model, trained on {source['trained_on']}, was applied to {source['cohort']} as it is: nothing was "
        f"fitted to it, and {overlap} (files compared by checksum)."
    ]
    absent = [name for name in CLASSES if name not in metrics["classes"]]
    if absent and metrics["classification"]:
        said = metrics["classification"]["confusion_as_said"]
        called = sum(row[CLASSES.index(name)] for row in said for name in absent)
        sentences.append(
            f"The cohort has no {' or '.join(absent)} images. Classes are scored on "
            f"{' and '.join(metrics['classes'])}, with the probabilities renormalised over them. As the model itself "
            f"put it, {called} of {metrics['images']} images were called {' or '.join(absent)}; where the mask is "
            "empty for that reason, the lesion counts as missed."
        )
    return sentences


def limitations(
    facts: Sequence[Mapping[str, Any]], home: Mapping[str, Any], externals: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """What a reader must not conclude, from what was and was not done."""
    first, notes = facts[0], []
    if first["phantoms"]:
        notes.append("The images are synthetic phantoms: the figures say nothing about patients.")
    if not externals and not first["phantoms"]:
        notes.append(f"Tested on {first['cohort']} alone: other scanners, hospitals and populations were not tried.")
    for metrics in externals:
        notes += _drop(home, metrics)
    if not first["patients"] and not first["phantoms"]:
        notes.append(
            f"{first['cohort']} does not name patients. Images of one lesion were kept together where they were "
            "recognised; different images of one patient may still be on both sides of the split."
        )
    for name in home["classes"]:
        count = home["class_counts"][name]
        if count < _SMALL:
            notes.append(f"Only {count} {name} images were tested: see the width of the intervals.")
    tested = len(home["cross_validation"]["folds"]) if "cross_validation" in home else len(facts)
    if tested < first["folds"]:
        verb = "was" if tested == 1 else "were"
        notes.append(f"{tested} of {first['folds']} folds {verb} tested; another fold gives other figures.")
    if len({fact["training"]["seed"] for fact in facts}) < 2:
        notes.append("One training seed: how much the figures vary from training to training was not measured.")
    missed = home["segmentation"]["missed"]
    if missed:
        notes.append(f"{missed} of {home['segmentation']['images']} lesions were missed entirely.")
    if not first["phantoms"]:
        notes.append(
            "Still images chosen by sonographers were used. Video, unselected frames and the effect on a reader's "
            "decisions were not studied."
        )
    return [*notes, "busmt is not a medical device."]


def parameter_count(model: str | Path) -> int:
    """Number of weights in a .keras file, read without building the network.

    Raises:
        DataError: not a .keras file.
    """
    import h5py

    try:
        with zipfile.ZipFile(model) as archive, archive.open("model.weights.h5") as file, h5py.File(file) as weights:
            sizes: list[int] = []
            weights.visititems(lambda _, item: sizes.append(item.size) if isinstance(item, h5py.Dataset) else None)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{model}: not a .keras file") from error
    return sum(sizes)


def _removed(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    decisions = read_table(path, keep_default_na=False)
    rules = decisions.loc[decisions["decision"] == "removed", "rule"].value_counts()
    return {str(rule): int(count) for rule, count in rules.items()}


def _pooled_sentence(facts: Mapping[str, Any], pooled: Mapping[str, Any]) -> str:
    parts, done, members = facts["parts"], pooled["cross_validation"]["folds"], facts["members"]
    held = f"(stratified by class, no group in two of them, split seed {facts['folds_seed']})"
    if members:
        return (
            f"This network averages the {facts['averaged']} of {len(members)} networks, each trained with another of "
            f"{facts['folds']} folds held out {held}; between them they have seen all images. The figures are those "
            f"of {len(done)} such networks by themselves, each tested on the fold that it had not seen, "
            f"{pooled['images']} images in all, each once. The average itself was tested on other cohorts alone."
        )
    return (
        f"This network was trained on {parts['train']} images; {parts['validation']} others picked the checkpoint and "
        "fitted mask threshold, temperature and referral threshold. No image was left to test it: the figures are "
        f"those of {len(done)} networks of the same configuration, each trained with another of {facts['folds']} folds "
        f"held out {held} and tested on that fold, {pooled['images']} images in all, each once."
    )


def _split_sentence(facts: Sequence[Mapping[str, Any]]) -> str:
    first = facts[0]
    split = (
        f"Split: {first['folds']} folds, stratified by class, no group in two of them "
        f"(split seed {first['folds_seed']})."
    )
    fitted = (
        "picked the checkpoint and fitted mask threshold, temperature and referral threshold; nothing was fitted on "
        "test images."
    )
    if len(facts) > 1:
        held = ", ".join(str(fact["fold"]) for fact in facts)
        tested = sum(fact["parts"]["test"] for fact in facts)
        return (
            f"{split} {len(facts)} networks were trained, each with another fold held out (folds {held}); together "
            f"they tested {tested} images, each once. Of the other folds, a validation part {fitted}"
        )
    parts = first["parts"]
    return (
        f"{split} Fold {first['fold']} was held out as test part ({parts['test']} images). {parts['train']} images "
        f"were trained on; {parts['validation']} others {fitted}"
    )


def _network_sentence(facts: Sequence[Mapping[str, Any]]) -> str:
    first = facts[0]
    network = first["network"]
    names = {"unet": "plain U-Net encoder", "efficientnet_lite0": "EfficientNet-Lite0 encoder"}
    encoder = names.get(network["encoder"], f"{network['encoder']} encoder")
    if network["encoder"] != "unet" and network["pretrained"]:
        encoder += " with ImageNet weights"
    parts = [encoder, "attention gates" if network["attention"] else "no attention gates"]
    if network["architecture"] != OURS:
        parts = [f"{network['architecture']}, built to be compared with"]
    if network["tasks"] == "both":
        parts.append(_REFINEMENTS[network["refinement"]])
    else:
        parts.append(f"the {network['tasks']} alone")
    return (
        f"Network: {', '.join(parts)}; input {network['input_size']} x {network['input_size']} pixels; "
        f"{first['parameters'] / 1e6:.2f} million parameters. {_training_sentence(facts)}"
    )


def _training_sentence(facts: Sequence[Mapping[str, Any]]) -> str:
    seeds = ", ".join(str(seed) for seed in sorted({fact["training"]["seed"] for fact in facts}))
    epochs = sorted({fact["epochs"] for fact in facts})
    length = str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
    fitted, members = facts[0]["calibration"], facts[0]["members"]
    if members:
        return (
            f"An average of {len(members)} trainings of at most {facts[0]['training']['epochs']} epochs (seed {seeds})."
        )
    if len(facts) > 1 or "best_epoch" not in fitted:
        return f"Trained for {length} epochs (seed {seeds})."
    temperature = f"; temperature {fitted['temperature']:.2f}" if "temperature" in fitted else ""
    return (
        f"Trained for {length} epochs, of which epoch {fitted['best_epoch'] + 1} was kept (seed {seeds}){temperature}."
    )


def _drop(home: Mapping[str, Any], external: Mapping[str, Any]) -> list[str]:
    """How the figures changed from home to another cohort, where both have them."""
    name, pairs = external["provenance"]["cohort"], []
    one, other = (metrics["segmentation"]["measures"].get("dice") for metrics in (home, external))
    if one and other:
        pairs.append(f"Dice {number(one['value'])} at home and {number(other['value'])} there ({interval(other)})")
    if home["classification"] and external["classification"]:
        here = home["classification"]["measures"].get("auroc_malignant")
        there = external["classification"]["measures"].get("auroc_malignant")
        if here and there:
            values = f"{number(here['value'])} at home and {number(there['value'])} there ({interval(there)})"
            pairs.append(f"AUROC for malignancy {values}")
    text = [f"On {name}, a cohort it has not seen: {'; '.join(pairs)}."] if pairs else []
    missed = external["segmentation"]["missed"]
    if missed:
        share = percent(missed / external["segmentation"]["images"])
        text.append(f"On {name} {missed} lesions ({share}) were missed entirely.")
    return text
